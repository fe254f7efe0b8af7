"""An S3 server on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from moto.server import ThreadedMotoServer

ADDRESS = "s3://texts/corpus.txt"


@contextmanager
def serve_bucket(data: bytes) -> Iterator[dict[str, Any]]:
    """Serve `data` as ADDRESS; yield the options with which fsspec opens it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"key": "me", "secret": "mine", "endpoint_url": f"http://{host}:{port}"}
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # they remember other servers
        store = fsspec.filesystem("s3", **options)
        store.makedirs("texts", exist_ok=True)  # all servers of a process share their buckets
        store.pipe_file(ADDRESS, data)
        yield options
    finally:
        server.stop()
