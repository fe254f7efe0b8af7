"""Where shards are kept: a folder, or a place in an object store, under the names of their content.

    SHA256.npy           a shard
    pieces/SHA256.json   what was made of a piece of text: its shards, and its last token

The record of a piece is written after its shards. Two workers that make the same piece write the
same files, each of which appears as a whole.
"""

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmlib.errors import is_about_threads
from lmlib.files import sha256_file, sync
from lmlib.redaction import redact

CACHE_BYTES = 1 << 35  # of shards of a store on this machine; the least recently used ones go
JUST_USED_NS = 2 * 10**9  # so that whoever was given a shard has opened it
# of these, an upload appears as a whole; elsewhere a file gets its name when it is complete
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "r2", "memory"}

logger = logging.getLogger(__name__)


class Store:
    """A folder of this machine, by its absolute path, or one at an address that fsspec knows.

    Logins and endpoints of an address come from the environment or from fsspec's configuration.
    Methods raise OSError, which names the address, if the store cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.folder = None if "://" in address else Path(address)
        self._filesystem: Any = None

    def path_of(self, name: str) -> str:
        """Return the path or the address of a file."""
        return f"{self.address}/{name}"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a new folder for files that will be put here; it is removed at the end."""
        if self.folder is None:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        place = self.folder / f".{secrets.token_hex(8)}.part"  # on the same disk
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def put(self, path: Path, name: str) -> None:
        """Move a file here, as `name`."""
        if self.folder is not None:
            target = self.folder / name
            target.parent.mkdir(exist_ok=True)
            sync(path)
            path.replace(target)
            return
        with self._told() as (filesystem, root):
            target = f"{root}/{name}"
            if OBJECT_STORES.intersection(_protocols(filesystem)):
                filesystem.put_file(str(path), target)
            else:
                part = f"{target}.{secrets.token_hex(8)}.part"
                filesystem.makedirs(filesystem._parent(target), exist_ok=True)
                filesystem.put_file(str(path), part)
                filesystem.mv(part, target)
        path.unlink()

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if there is none."""
        try:
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            with self._told() as (filesystem, root):
                return filesystem.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if there is none."""
        try:
            if self.folder is not None:
                return (self.folder / name).stat().st_size
            with self._told() as (filesystem, root):
                filesystem.invalidate_cache()  # of listings: another machine may have written it
                return filesystem.size(f"{root}/{name}")
        except FileNotFoundError:
            return None

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to `path`; raise FileNotFoundError if there is none."""
        if self.folder is not None:
            shutil.copyfile(self.folder / name, path)
            return
        with self._told() as (filesystem, root):
            filesystem.get_file(f"{root}/{name}", str(path))

    @contextmanager
    def _told(self) -> Iterator[tuple[Any, str]]:
        """Yield the file system and the path in it; errors say which store it is."""
        try:
            if self._filesystem is None:
                import fsspec

                self._filesystem = fsspec.url_to_fs(self.address)
            yield self._filesystem
        except FileNotFoundError as error:
            if "bucket" in str(error).lower():
                raise ConnectionError(self._sentence(error)) from error
            raise
        except MemoryError:
            raise
        except Exception as error:  # each kind of store has its own
            if is_about_threads(error):
                raise
            raise ConnectionError(self._sentence(error)) from error

    def _sentence(self, error: Exception) -> str:
        reason = redact(" ".join(str(error).split())) or type(error).__name__
        return (
            f"cluster.store: {redact(self.address)} cannot be used ({reason:.200}); correct the "
            "address, give a login in the environment or in the configuration of fsspec, or "
            "install the package that its protocol needs, as in pip install -e '.[s3]'"
        )


class ShardCache:
    """Shards of a store on this machine, up to a number of bytes: those that were used last.

    Several processes may share the folder: none removes a shard that another was given a moment
    ago. One that is open stays readable.
    """

    def __init__(self, store: str, folder: Path, max_bytes: int = CACHE_BYTES) -> None:
        self.store = Store(store)
        self.folder = folder
        self.max_bytes = max_bytes

    def path(self, name: str, sha256: str) -> Path:
        """Return the file of a shard, fetched if it is not here.

        Raises FileNotFoundError if the store lacks it, ValueError if it has another digest there.
        """
        path = self.folder / f"{sha256}.npy"
        with suppress(FileNotFoundError):
            os.utime(path)  # used last
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        where = redact(self.store.path_of(name))
        with tempfile.TemporaryDirectory(dir=self.folder, suffix=".part") as part:
            copy = Path(part) / "shard.npy"
            try:
                self.store.fetch(name, copy)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{where}: no such shard; encode the texts again"
                ) from error
            if sha256_file(copy) != sha256:
                raise ValueError(
                    f"{where}: damaged: the index has another digest; delete it in the store, and "
                    "encode the texts again"
                )
            self._make_room(copy.stat().st_size)
            copy.replace(path)
        return path

    def _make_room(self, num_bytes: int) -> None:
        """Remove shards, the least recently used ones first, until `num_bytes` fit."""
        now, found = time.time_ns(), []
        for path in self.folder.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process has removed it
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = num_bytes + sum(size for _, size, _ in found)
        for used, size, path in sorted(found):
            if total <= self.max_bytes or now - used < JUST_USED_NS:
                return
            path.unlink(missing_ok=True)
            total -= size


def write_record(store: Store, scratch: Path, name: str, values: dict[str, Any]) -> None:
    """Write a small JSON file to a store."""
    path = scratch / "record.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    store.put(path, name)


def _protocols(filesystem: Any) -> set[str]:
    kinds = filesystem.protocol
    return {kinds} if isinstance(kinds, str) else set(kinds)
