"""A loopback HTTP server with the faults that downloads encounter."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

COMMIT = "c0ffee" * 6 + "beef"


@dataclass
class Site:
    """Files by path, how the server behaves, and the requests it has seen."""

    files: dict[str, bytes]
    ranges: bool = True  # honour the Range header
    sizes: bool = True  # send Content-Length
    break_after: list[int] = field(default_factory=list)  # body bytes of the next files
    headers: Callable[[bytes], dict[str, str]] = lambda body: {}
    authorization: str = ""  # what requests must send, or they are refused
    redirects: dict[str, str] = field(default_factory=dict)  # path to address
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)  # path to status, X-Error-Code
    endless: bool = False  # send the body again and again
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    logins: dict[str, str | None] = field(default_factory=dict)  # path to what a request sent
    url: str = ""

    def starts(self) -> list[int]:
        """Return the offset of each GET."""
        asked = [requested for method, _, requested in self.requests if method == "GET"]
        return [int(r.removeprefix("bytes=").rstrip("-")) if r else 0 for r in asked]


def hub_site(
    files: dict[str, bytes], dataset: str = "me/books", revision: str = "main", commit: str = COMMIT
) -> Site:
    """Return a site that speaks the API of the Hugging Face Hub, for one data set.

    It has the form of https://huggingface.co/api/datasets/NAME/tree/main: files from 1000 bytes on
    are LFS files, named by their sha256, and smaller ones have the ids of git blobs.
    """
    items = [tree_item(path, body) for path, body in files.items()]
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
    api, info = f"/api/datasets/{dataset}", {"_id": "1", "id": dataset, "sha": commit}
    site = Site({f"{api}/revision/{revision}": json.dumps(info).encode()})
    for folder in folders:
        inside = [i for i in items if folder == "." or i["path"].startswith(f"{folder}/")]
        at = f"{api}/tree/{commit}" + ("" if folder == "." else f"/{quote(folder, safe='')}")
        site.files[at] = json.dumps(inside).encode()
    for path, body in files.items():
        site.files[f"/datasets/{dataset}/resolve/{commit}/{quote(path)}"] = body
    return site


def tree_item(path: str, body: bytes) -> dict[str, Any]:
    """Return what the Hub's list of files says of one."""
    blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    item = {"type": "file", "oid": blob, "size": len(body), "path": path}
    if len(body) >= 1000:
        sha256 = hashlib.sha256(body).hexdigest()
        item["lfs"] = {"oid": sha256, "size": len(body), "pointerSize": 130}
    return item


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
            site.logins[path] = self.headers.get("Authorization")
            if path in site.errors:
                status, code = site.errors[path]
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
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
                breaks = site.break_after and not path.startswith("/api/")
                limit = site.break_after.pop(0) if breaks else len(body)
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
