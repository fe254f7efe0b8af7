"""Fetch corpus files: from the Hugging Face Hub, or from any address that fsspec understands."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from lmlib.corpus.documents import file_format
from lmlib.files import sha256_file
from lmlib.monitoring.progress import byte_bar

HUB_FILES = {
    "tinystories": (
        "roneneldan/TinyStories",
        ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
    ),
    "owt": ("stanford-cs336/owt-sample", ("owt_train.txt.gz", "owt_valid.txt.gz")),
}
CHUNK_BYTES = 1 << 20
ATTEMPTS = 6  # in a row without a new byte
FIRST_WAIT_S = 0.5  # doubled after each such attempt

logger = logging.getLogger(__name__)


class _BrokenOff(Exception):
    """A transfer that may succeed when tried again; `reached` bytes of the file are there."""

    def __init__(self, reason: str, reached: int) -> None:
        super().__init__(reason)
        self.reached = reached


def check_digest(path: Path, expected: str, name: str) -> None:
    """Raise ValueError when the sha256 of the file `path` is not `expected`."""
    actual = sha256_file(path)
    if actual != expected.lower():
        raise ValueError(
            f"corpus: {name} has sha256 {actual}, but {expected} is expected: it is damaged or "
            "another version; fetch it again, or correct corpus.sha256"
        )


def fetch_from_hub(source: str) -> tuple[Path, Path]:
    """Return the training and the validation file of `source` in the cache of huggingface_hub.

    Files that the Hub names by their sha256 are checked against it. Raises ConnectionError when
    a file is neither in the cache nor to be had, ValueError when one is damaged.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    # the base class of its HTTP library's errors, whichever library that is in this version
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    # RuntimeError: a transfer of its compiled client that failed
    errors = (http_error, LocalEntryNotFoundError, ConnectionError, TimeoutError, RuntimeError)
    hub_logging.set_verbosity_error()  # it would report each attempt, twice
    repository, filenames = HUB_FILES[source]
    paths = []
    for filename in filenames:
        logger.info("corpus: %s/%s, from %s or its cache", repository, filename, constants.ENDPOINT)
        try:
            path = hf_hub_download(repository, filename, repo_type="dataset")
        except errors as error:
            cause = error.__cause__ or error
            raise ConnectionError(
                _out_of_reach(source, f"{repository}/{filename}", constants.ENDPOINT, cause)
            ) from error
        blob = Path(path).resolve()  # large files lie in the cache under their sha256
        if re.fullmatch("[0-9a-f]{64}", blob.name):
            try:
                check_digest(blob, blob.name, filename)
            except ValueError as error:
                raise ValueError(
                    f"corpus: the cached {filename} is damaged; delete {blob} and run again"
                ) from error
        paths.append(Path(path))
    return paths[0], paths[1]


@contextmanager
def downloaded(
    addresses: Sequence[str], digests: Sequence[str], folder: Path
) -> Iterator[list[Path]]:
    """Yield the files behind `addresses`, downloaded to `folder` and removed when all went well.

    A download that breaks off resumes at its last byte, in this run or, since `folder` keeps it, in
    the next one; a file that has changed at its address meanwhile is fetched from scratch. Raises
    ConnectionError when an address cannot be reached, FileNotFoundError when it holds nothing,
    ValueError when it cannot be opened and for a wrong sha256.
    """
    from filelock import FileLock

    for address in addresses:
        file_format(_name(address))  # reject unusable names before downloading
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # two runs must not append to one file
        files = [_download(address, folder) for address in addresses]
        for address, file, digest in zip(addresses, files, digests, strict=False):
            try:
                check_digest(file, digest, _shown(address))
            except ValueError:
                file.unlink()  # or the next run would find it again
                raise
        yield files
        for file in dict.fromkeys(files):
            file.unlink()


def _download(address: str, folder: Path) -> Path:
    """Return the file behind `address`, tried again for as long as new bytes arrive."""
    filesystem, path = _filesystem(address)
    furthest = failures = 0
    while True:
        try:
            return _attempt(address, filesystem, path, folder)
        except _BrokenOff as error:
            failures = 1 if error.reached > furthest else failures + 1
            furthest = max(furthest, error.reached)
            if failures == ATTEMPTS:
                raise ConnectionError(
                    _out_of_reach("url", _shown(address), _host(address), error)
                ) from error
            logger.info(
                "corpus: %s broke off after %d bytes (%s); trying again",
                _shown(address),
                error.reached,
                error,
            )
            time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))


def _attempt(address: str, filesystem: Any, path: str, folder: Path) -> Path:
    """Download what is still missing of the file; raise _BrokenOff when that goes wrong."""
    with _transfer(address, reached=0):
        info = filesystem.info(path)
    size: int | None = info.get("size")
    # named by the version, so that half of an old file is never continued with a new one
    marks = ("size", "ETag", "Last-Modified", "LastModified", "mtime", "md5Hash", "updated")
    version = _short_hash(repr([info.get(mark) for mark in marks]))
    prefix = _short_hash(address)
    whole = folder / f"{prefix}-{version}-{_name(address)}"
    part = whole.with_name(whole.name + ".part")
    for old in set(folder.glob(f"{prefix}-*")) - {whole, part}:
        old.unlink()
    if not whole.exists():  # else the last run downloaded it and failed later
        # without a size we cannot tell whether something is missing: start from scratch
        part.open("wb" if size is None else "ab").close()
        if size is None or part.stat().st_size != size:
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
        with closing(remote), byte_bar(_name(address), size, initial=reached) as on_bytes:
            while True:
                with _transfer(address, reached):
                    chunk = remote.read(CHUNK_BYTES)
                if not chunk:
                    break
                file.write(chunk)
                file.flush()
                reached += len(chunk)
                on_bytes(len(chunk))
        if size is not None and reached != size:
            if reached > size:
                file.truncate(0)
            raise _BrokenOff(f"{reached} bytes came instead of {size}", min(reached, size))
        os.fsync(file.fileno())


def _open_at(filesystem: Any, path: str, offset: int) -> tuple[Any, int]:
    """Open a remote file at `offset`, or at 0 when its server cannot; return it and its offset."""
    if "http" not in filesystem.protocol:
        file = filesystem.open(path, "rb")
        file.seek(offset)
        return file, offset
    headers = {"Accept-Encoding": "identity"}  # the stored bytes, whose size is known
    if offset:
        headers["Range"] = f"bytes={offset}-"
    # block_size=0: one long answer, in place of a request for every block
    file = filesystem.open(path, "rb", block_size=0, size=1, headers=headers)
    return file, offset if file.r.status == 206 else 0


@contextmanager
def _transfer(address: str, reached: int) -> Iterator[None]:
    """Turn errors of a transfer into _BrokenOff, or FileNotFoundError when no retry can help."""
    import aiohttp

    try:
        yield
    except (OSError, aiohttp.ClientError) as error:
        # fsspec reports whatever kept it from asking a server as FileNotFoundError
        cause = (isinstance(error, FileNotFoundError) and error.__cause__) or error
        status = getattr(cause, "status", 0)
        refused = 400 <= status < 500 and status not in (408, 416, 429)
        if refused or isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError):
            reason = f"HTTP status {status}" if refused else type(cause).__name__
            raise FileNotFoundError(
                f"corpus.source=url: {_shown(address)} gives no file ({reason}); correct the "
                "address in corpus.train or corpus.valid"
            ) from error
        raise _BrokenOff(_one_line(cause), reached) from error


def _filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for `address`, and the path there."""
    import fsspec

    options: dict[str, Any] = {}
    if address.startswith(("http:", "https:")):
        import aiohttp

        # no limit on the whole, which may take hours; trust_env: proxies of the environment
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    try:
        return fsspec.url_to_fs(address, **options)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"corpus.source=url: {_shown(address)} cannot be opened ({_one_line(error)}); correct "
            "the address, or install what its protocol needs"
        ) from error


def _out_of_reach(source: str, what: str, host: str, error: BaseException) -> str:
    return (
        f"corpus.source={source}: {what} cannot be had from {host} ({_one_line(error)}); connect "
        "and run again, or do without a network: corpus.source=toystories makes a corpus here, "
        "corpus.source=local takes files of yours"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _shown(address: str) -> str:
    return address.split("?")[0]  # a query may hold a secret


def _name(address: str) -> str:
    return PurePosixPath(urlsplit(address).path).name


def _host(address: str) -> str:
    return urlsplit(address).hostname or address


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
