"""A loopback HTTP server with the faults that downloads encounter."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Files by path, how the server behaves, and the requests it has seen."""

    files: dict[str, bytes]
    ranges: bool = True  # honour the Range header
    sizes: bool = True  # send Content-Length
    break_after: list[int] = field(default_factory=list)  # body bytes of the next responses
    headers: Callable[[bytes], dict[str, str]] = lambda body: {}
    authorization: str = ""  # what requests must send, or they are refused
    redirects: dict[str, str] = field(default_factory=dict)  # path to address
    endless: bool = False  # send the body again and again
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    url: str = ""

    def starts(self) -> list[int]:
        """Return the offset of each GET."""
        asked = [requested for method, _, requested in self.requests if method == "GET"]
        return [int(r.removeprefix("bytes=").rstrip("-")) if r else 0 for r in asked]


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve `site` on a free port of the loopback interface; its address is `site.url`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path, requested = self.path.split("?")[0], self.headers.get("Range")
            site.requests.append((self.command, path, requested))
            if site.authorization not in ("", self.headers.get("Authorization")):
                self.send_error(401)
                return
            if path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[path])
                self.end_headers()
                return
            if path not in site.files:
                self.send_error(404)
                return
            body, start = site.files[path], 0
            if site.ranges and requested and with_body:
                start = int(requested.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            for name, value in site.headers(body).items():
                self.send_header(name, value)
            if site.sizes:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if with_body:
                limit = site.break_after.pop(0) if site.break_after else len(body)
                self.wfile.write(body[start : start + limit])  # then the connection closes
                with contextlib.suppress(ConnectionError):  # when the client has had enough
                    while site.endless:
                        self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
