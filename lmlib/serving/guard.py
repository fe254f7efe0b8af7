"""Who may use the server: the pages that it serves itself, programs here, holders of the key."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lmlib.serving.errors import ApiError, ApiErrorResponse


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
        if scope["type"] == "http" and (
            error := self._refusal(Headers(scope=scope), scope["path"])
        ):
            await ApiErrorResponse(error)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        host = headers.get("host", "")
        if self.local and not is_loopback(host):
            message = f"the Host header is {host!r:.100}; this server answers to localhost only"
            return ApiError(403, message, code="wrong_host")
        origins = headers.getlist("origin")
        if any(urlsplit(origin).netloc.lower() != host.lower() for origin in origins):
            message = "a page of another origin may not use this server"
            return ApiError(403, message, code="wrong_origin")
        if self.key is not None and path.startswith("/v1/") and not self._has_key(headers):
            message = "a valid API key is missing; send it as `Authorization: Bearer KEY`"
            return ApiError(401, message, code="invalid_api_key")
        return None

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = (self.key or "").encode("utf-8")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode("utf-8"), key)


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without a port, names this machine's loopback interface."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
