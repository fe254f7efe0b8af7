"""Fetch corpus files: from the Hugging Face Hub, or from any address that fsspec supports."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lmlib.corpus import hub
from lmlib.corpus.documents import file_format
from lmlib.corpus.find import check_file
from lmlib.corpus.params import LOGINS
from lmlib.corpus.sources import Source, name_of
from lmlib.errors import is_about_threads
from lmlib.files import naming, open_regular, sha256_file
from lmlib.monitoring.progress import byte_bar
from lmlib.places import check_place, check_space
from lmlib.redaction import redact

CHUNK_BYTES = 1 << 20
MAX_UNSIZED_BYTES = 1 << 30  # of a file whose server does not tell its size: it may never end
ATTEMPTS = 6  # consecutive attempts without a new byte before giving up
FIRST_WAIT_S = 0.5  # doubled after each such attempt
_FINAL = FileNotFoundError | PermissionError | IsADirectoryError  # retrying cannot help

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _BrokenOff(Exception):
    """A transfer that may succeed when retried; `reached` bytes of the file have arrived."""

    def __init__(self, reason: str, reached: int) -> None:
        super().__init__(reason)
        self.reached = reached


@contextmanager
def fetched(source: Source, folder: Path) -> Iterator[Path]:
    """Yield the file of a source, which has the digest that the source names.

    A file of this machine, or in the cache of huggingface_hub, is yielded where it is. Others are
    downloaded below `folder` and removed on success; the caller may remove them earlier. An
    interrupted download resumes at its last byte, in this run or, since `folder` keeps it, in the
    next one; a file that has changed at its address meanwhile is fetched from scratch. Raises
    ConnectionError if an address cannot be reached, FileNotFoundError if there is no file,
    ValueError if it cannot be opened, has the wrong digest, or has more than MAX_UNSIZED_BYTES and
    no size in advance; OSError if the disk has no room for it. No error shows a user name, a
    password, a query or a fragment.
    """
    address = source.address
    file_format(name_of(address))  # reject unusable names before downloading
    in_cache = hub.cached(address) if _is_hub(address) else None
    if source.is_local or in_cache:
        path = in_cache or Path(address)
        check_file(path)
        try:
            check_digest(path, source.digest, str(path))
        except ValueError as error:
            if in_cache is None:
                raise
            blob = path.resolve()
            raise ValueError(
                f"corpus: the cached {path.name} is damaged; delete {blob} and run again"
            ) from error
        yield path
        return
    if _is_hub(address) and hub.is_offline():
        error = ConnectionError("HF_HUB_OFFLINE is set")
        raise ConnectionError(_out_of_reach(address, error)) from error
    check_place(folder / "file")
    with working_folder(folder, address) as place:
        file = _download(source, place)
        try:
            check_digest(file, source.digest, _shown(address))
        except ValueError:
            file.unlink()  # otherwise the next run would use it again
            raise
        yield file


@contextmanager
def working_folder(folder: Path, key: str, *, keep: bool = True) -> Iterator[Path]:
    """Yield a folder below `folder` that belongs to `key`, for this process alone.

    It is removed on success; after an error, too, unless `keep`. Another process that wants the
    same one waits.
    """
    place = folder / _short_hash(key)
    lock = None
    while lock is None:
        place.mkdir(parents=True, exist_ok=True)
        lock = _locked(place)
    done = not keep
    try:
        yield place
        done = True
    finally:
        if done:
            shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that locks a folder until it is closed; None if it was removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("corpus: waiting for another process that uses %s", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        if os.path.samestat(os.fstat(descriptor), os.lstat(folder)):
            return descriptor
    except FileNotFoundError:
        pass  # the other process removed it: a new one is needed
    os.close(descriptor)
    return None


def describe(source: Source) -> Source:
    """Return the source with the number of bytes and the version that its server tells.

    Raises what `fetched` raises.
    """
    filesystem, path = _filesystem(source.address)
    info = _retried(source, lambda: _info(source.address, filesystem, path))
    return replace(source, num_bytes=info.get("size"), version=_version(info))


def check_digest(path: Path, expected: str, name: str) -> None:
    """Raise ValueError if the file `path` does not have the digest `expected`, as of a `Source`."""
    kind, _, digits = expected.partition(":")
    if not digits:
        return
    actual = sha256_file(path) if kind == "sha256" else git_blob_id(path)
    if actual != digits:
        raise ValueError(
            f"corpus: {name} has {'sha256' if kind == 'sha256' else 'git blob id'} {actual}, but "
            f"{digits} is expected: it is damaged or a different version; fetch it, or list "
            "the files, again, or correct corpus.sha256"
        )


def git_blob_id(path: Path) -> str:
    """Return the id that git gives to a file's content, as 40 hexadecimal digits."""
    with open_regular(path) as file:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _download(source: Source, folder: Path) -> Path:
    """Return the file of a source in `folder`; retry as long as new bytes arrive."""
    filesystem, path = _filesystem(source.address)
    return _retried(source, lambda: _attempt(source, filesystem, path, folder))


def _retried(source: Source, attempt: Callable[[], T]) -> T:
    """Return what `attempt` returns; repeat it while it breaks off and may still succeed."""
    furthest = failures = 0
    while True:
        try:
            return attempt()
        except _BrokenOff as error:
            failures = 1 if error.reached > furthest else failures + 1
            furthest = max(furthest, error.reached)
            if failures == ATTEMPTS:
                raise ConnectionError(_out_of_reach(source.address, error)) from error
            logger.info(
                "corpus: %s was interrupted after %d bytes (%s); trying again",
                _shown(source.address),
                error.reached,
                error,
            )
            time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))


def _info(address: str, filesystem: Any, path: str) -> dict[str, Any]:
    """Return what a server says of a file; raise _BrokenOff if the transfer fails."""
    with _transfer(address, reached=0):
        info = filesystem.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError(path)
    return info


def _version(info: dict[str, Any]) -> str:
    """Return what tells versions of a file apart, as far as its server says."""
    marks = ("size", "ETag", "Last-Modified", "LastModified", "mtime", "md5Hash", "updated")
    return _short_hash(repr([info.get(mark) for mark in marks]))


def _attempt(source: Source, filesystem: Any, path: str, folder: Path) -> Path:
    """Download the missing part of the file; raise _BrokenOff if the transfer fails."""
    address, size = source.address, source.num_bytes
    if _is_hub(address):  # it was listed, and a commit never changes
        version = _short_hash(source.digest)
    else:
        info = _info(address, filesystem, path)
        size, version = info.get("size"), _version(info)
        if source.version not in ("", version):
            raise ValueError(
                f"corpus.source=url: {_shown(address)} has changed since it was listed; list "
                "the files again"
            )
    # the name contains the version, so that part of an old file is never continued with a new one
    whole = folder / f"{version}-{name_of(address)[-50:]}"  # names have limits
    part = whole.with_name(whole.name + ".part")
    for old in folder.iterdir():
        if old not in (whole, part) or old.is_symlink():  # we make no links, and follow none
            old.unlink()
    if not whole.exists():  # otherwise the last run downloaded it and failed later
        # without a size we cannot tell whether anything is missing: start from scratch
        part.open("wb" if size is None else "ab").close()
        if size is None or part.stat().st_size != size:
            check_space(folder, (size or 0) - part.stat().st_size)
            with naming(part):
                _append(address, filesystem, path, part, size)
        part.replace(whole)
    return whole


def _append(address: str, filesystem: Any, path: str, part: Path, size: int | None) -> None:
    with part.open("ab") as file:
        reached = file.tell()
        with _transfer(address, reached):
            remote, start = _open_at(filesystem, path, reached)
        if start != reached:
            logger.info("corpus: %s cannot be resumed; it starts from scratch", _shown(address))
            file.truncate(start)
            reached = start
        with closing(remote), byte_bar(name_of(address), size, initial=reached) as on_bytes:
            while True:
                with _transfer(address, reached):
                    chunk = remote.read(CHUNK_BYTES)
                if not chunk:
                    break
                file.write(chunk)
                file.flush()
                reached += len(chunk)
                on_bytes(len(chunk))
                if reached > (MAX_UNSIZED_BYTES if size is None else size):
                    break
        if size is None and reached > MAX_UNSIZED_BYTES:
            file.truncate(0)
            raise ValueError(
                f"{_option(address)}: {_shown(address)} has more than {MAX_UNSIZED_BYTES:,} bytes, "
                "and its server does not say how many; download it yourself, and name the file in "
                "corpus.source=local"
            )
        if size is not None and reached != size:
            if reached > size:
                file.truncate(0)
            raise _BrokenOff(f"received {reached} bytes instead of {size}", min(reached, size))
        os.fsync(file.fileno())


def _open_at(filesystem: Any, path: str, offset: int) -> tuple[Any, int]:
    """Open a remote file at `offset`, or at 0 if its server cannot; return it and its offset."""
    if "http" not in filesystem.protocol:
        file = filesystem.open(path, "rb")
        file.seek(offset)
        return file, offset
    # the stored bytes, whose size is known; other headers are those of fsspec's configuration
    headers = filesystem.kwargs.get("headers", {}) | {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    # block_size=0: one long response instead of a request for every block
    file = filesystem.open(path, "rb", block_size=0, size=1, headers=headers)
    return file, offset if file.r.status == 206 else 0


@contextmanager
def _transfer(address: str, reached: int) -> Iterator[None]:
    """Turn errors of a transfer into _BrokenOff, or another OSError if no retry can help."""
    import aiohttp

    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if is_about_threads(error):
            raise
        # fsspec reports anything that prevents the request as FileNotFoundError
        cause = (isinstance(error, FileNotFoundError) and error.__cause__) or error
        status = getattr(cause, "status", 0)
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 416, 429):
            reason, login = f"HTTP status {status}", status in (401, 403)
        elif isinstance(cause, _FINAL | aiohttp.InvalidURL | aiohttp.TooManyRedirects):
            reason, login = type(cause).__name__, isinstance(cause, PermissionError)
        elif isinstance(cause, OSError | aiohttp.ClientError):
            raise _BrokenOff(_one_line(cause), reached) from error
        else:  # each kind of store has its own, mostly about logins
            reason, login = _one_line(cause), True
        advice = hub.LOGIN if _is_hub(address) else f"give a login in {LOGINS}"
        raise FileNotFoundError(
            f"{_option(address)}: {_shown(address)} gives no file ({reason:.200}); "
            f"{f'{advice}, or ' if login else ''}correct the address in corpus.train or "
            "corpus.valid"
        ) from error


def _filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for `address`, and the path in it."""
    import fsspec
    from fsspec.config import apply_config
    from fsspec.implementations.local import LocalFileSystem

    options: dict[str, Any] = {}
    shown, headers = address, {}
    if _is_hub(address):
        address, headers = hub.request(address)
    try:
        if address.startswith(("http:", "https:")):
            import aiohttp

            # no limit on the total, which may take hours; trust_env: proxies of the environment,
            # and logins of ~/.netrc
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options = apply_config(fsspec.get_filesystem_class("http"), {})
            client = {"timeout": timeout, "trust_env": True}
            options["client_kwargs"] = client | options.get("client_kwargs", {})
            options["headers"] = options.get("headers", {}) | headers
        filesystem, path = fsspec.url_to_fs(address, **options)
    except MemoryError:
        raise
    except Exception as error:  # each kind of store has its own
        raise ValueError(
            f"{_option(shown)}: {_shown(shown)} cannot be opened ({_one_line(error)}); correct "
            "the address, or install the package its protocol needs"
        ) from error
    if isinstance(filesystem, LocalFileSystem):
        raise ValueError(
            f"corpus.source=url: {_shown(address)} is a file of this machine; set "
            "corpus.source=local and name its path"
        )
    return filesystem, path


def _out_of_reach(address: str, error: BaseException) -> str:
    host = hub.endpoint() if _is_hub(address) else urlsplit(address).hostname or _shown(address)
    return (
        f"{_option(address)}: cannot download {_shown(address)} from {host} ({_one_line(error)}); "
        "connect and run again, or work offline: corpus.source=toystories generates a corpus, "
        "corpus.source=local uses your files"
    )


def _is_hub(address: str) -> bool:
    return address.startswith("hf://")


def _option(address: str) -> str:
    return f"corpus.source={'hub' if _is_hub(address) else 'url'}"


def _one_line(error: BaseException) -> str:
    return redact(" ".join(str(error).split())) or type(error).__name__


def _shown(address: str) -> str:
    return redact(_place(address))


def _place(address: str) -> str:
    return re.split("[?#]", address)[0]  # without what may be secret


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
