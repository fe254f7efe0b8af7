"""Who may use the server (its own page, programs here, holders of the key), and request sizes."""

import asyncio
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmlib.serving.errors import ApiError, ApiErrorResponse

MAX_BODY_BYTES = 1 << 20
BODY_S = 30.0  # for a body to arrive


class Guard:
    """Refuses requests before the application sees them.

    A page of another origin, open in a browser on this machine, can send requests to loopback. Its
    requests name that origin in `Origin`. If its host name was made to lead here (DNS rebinding),
    the browser takes the two for one origin, but `Host` has the page's host name.

    key:    what `Authorization: Bearer` must hold for the API; None: no key is needed
    local:  the server listens on loopback, so that `Host` must name that
    """

    def __init__(self, app: ASGIApp, key: str | None, local: bool) -> None:
        self.app, self.key, self.local = app, key, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif error := self._refusal(Headers(scope=scope), scope["path"]):
            await ApiErrorResponse(error)(scope, receive, send)
        else:
            await self.app(scope, limited(receive), send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        host = headers.get("host", "")
        if self.local and not is_loopback(host):
            message = f"the Host header is {host!r:.100}; this server answers to localhost only"
            return ApiError(403, message, code="wrong_host")
        if any(not is_same(origin, host) for origin in headers.getlist("origin")):
            message = "a page of another origin may not use this server"
            return ApiError(403, message, code="wrong_origin")
        if self.key is not None and path.startswith("/v1/") and not self._has_key(headers):
            message = "a valid API key is missing; send it as `Authorization: Bearer KEY`"
            return ApiError(401, message, code="invalid_api_key")
        return None

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = (self.key or "").encode("utf-8")
        # Starlette reads the bytes of headers as Latin-1
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode("latin-1"), key)


def limited(receive: Receive) -> Receive:
    """Return a `receive` that raises ApiError for a body that is too large or too slow."""
    size, deadline, is_complete = 0, asyncio.get_running_loop().time() + BODY_S, False

    async def receive_some() -> Message:
        nonlocal size, is_complete
        try:
            async with asyncio.timeout_at(None if is_complete else deadline):
                message = await receive()
        except TimeoutError as error:
            raise ApiError(408, f"the body did not arrive within {BODY_S:g} s") from error
        size += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise ApiError(
                413, f"the body is larger than {MAX_BODY_BYTES} bytes; send several requests"
            )
        return message

    return receive_some


def is_same(origin: str, host: str) -> bool:
    """Return whether the `Origin` of a page names the host that the request was sent to."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without a port, names this machine's loopback interface."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
