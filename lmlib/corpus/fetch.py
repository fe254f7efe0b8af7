"""Fetch corpus files: from the Hugging Face Hub, or from any address that fsspec supports."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lmlib.corpus.documents import file_format
from lmlib.corpus.params import LOGINS
from lmlib.errors import is_about_threads
from lmlib.files import naming, sha256_file
from lmlib.monitoring.progress import byte_bar
from lmlib.places import check_place, check_space
from lmlib.redaction import redact

HUB_FILES = {
    "tinystories": (
        "roneneldan/TinyStories",
        ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
    ),
    "owt": ("stanford-cs336/owt-sample", ("owt_train.txt.gz", "owt_valid.txt.gz")),
}
CHUNK_BYTES = 1 << 20
MAX_UNSIZED_BYTES = 1 << 30  # of a file whose server does not tell its size: it may never end
ATTEMPTS = 6  # consecutive attempts without a new byte before giving up
FIRST_WAIT_S = 0.5  # doubled after each such attempt
_FINAL = FileNotFoundError | PermissionError | IsADirectoryError  # retrying cannot help

logger = logging.getLogger(__name__)


class _BrokenOff(Exception):
    """A transfer that may succeed when retried; `reached` bytes of the file have arrived."""

    def __init__(self, reason: str, reached: int) -> None:
        super().__init__(reason)
        self.reached = reached


def check_digest(path: Path, expected: str, name: str) -> None:
    """Raise ValueError if the sha256 of the file `path` is not `expected`."""
    actual = sha256_file(path)
    if actual != expected.lower():
        raise ValueError(
            f"corpus: {name} has sha256 {actual}, but {expected} is expected: it is damaged or a "
            "different version; fetch it again, or correct corpus.sha256"
        )


def fetch_from_hub(source: str) -> tuple[Path, Path]:
    """Return the training and the validation file of `source` in the cache of huggingface_hub.

    Files that the Hub names by their sha256 are checked against it. Raises ConnectionError if a
    file is neither in the cache nor can be downloaded, ValueError if one is damaged.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    # the base class of the errors of its HTTP library, which depends on its version
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    # RuntimeError: a failed transfer of its compiled client
    errors = (http_error, LocalEntryNotFoundError, ConnectionError, TimeoutError, RuntimeError)
    hub_logging.set_verbosity_error()  # it would report each attempt, twice
    repository, filenames = HUB_FILES[source]
    paths = []
    for filename in filenames:
        endpoint = redact(constants.ENDPOINT)
        logger.info("corpus: %s/%s, from %s or its cache", repository, filename, endpoint)
        try:
            with naming(Path(constants.HF_HUB_CACHE)):
                path = hf_hub_download(repository, filename, repo_type="dataset")
        except errors as error:
            cause = error.__cause__ or error
            raise ConnectionError(
                _out_of_reach(source, f"{repository}/{filename}", endpoint, cause)
            ) from error
        blob = Path(path).resolve()  # the cache names large files by their sha256
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
    """Yield the files behind `addresses`, downloaded to `folder` and removed on success.

    An interrupted download resumes at its last byte, in this run or, since `folder` keeps it, in
    the next one; a file that has changed at its address meanwhile is fetched from scratch. Raises
    ConnectionError if an address cannot be reached, FileNotFoundError if there is no file,
    ValueError if it cannot be opened, has the wrong sha256, or has more than MAX_UNSIZED_BYTES and
    no size in advance; OSError if the disk has no room for it. No error shows a user name, a
    password, a query or a fragment.
    """
    from filelock import FileLock

    for address in addresses:
        file_format(_name(address))  # reject unusable names before downloading
    check_place(folder / "lock")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # two runs must not append to one file
        files = [_download(address, folder) for address in addresses]
        for address, file, digest in zip(addresses, files, digests, strict=False):
            try:
                check_digest(file, digest, _shown(address))
            except ValueError:
                file.unlink()  # otherwise the next run would use it again
                raise
        yield files
        for file in dict.fromkeys(files):
            file.unlink()


def _download(address: str, folder: Path) -> Path:
    """Return the file behind `address`; retry as long as new bytes arrive."""
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
                "corpus: %s was interrupted after %d bytes (%s); trying again",
                _shown(address),
                error.reached,
                error,
            )
            time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))


def _attempt(address: str, filesystem: Any, path: str, folder: Path) -> Path:
    """Download the missing part of the file; raise _BrokenOff if the transfer fails."""
    with _transfer(address, reached=0):
        info = filesystem.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError(path)
    size: int | None = info.get("size")
    # the name contains the version, so that part of an old file is never continued with a new one
    marks = ("size", "ETag", "Last-Modified", "LastModified", "mtime", "md5Hash", "updated")
    version = _short_hash(repr([info.get(mark) for mark in marks]))
    prefix = _short_hash(address)
    whole = folder / f"{prefix}-{version}-{_name(address)[-50:]}"  # names have limits
    part = whole.with_name(whole.name + ".part")
    for old in folder.glob(f"{prefix}-*"):
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
                if reached > (MAX_UNSIZED_BYTES if size is None else size):
                    break
        if size is None and reached > MAX_UNSIZED_BYTES:
            file.truncate(0)
            raise ValueError(
                f"corpus.source=url: {_shown(address)} has more than {MAX_UNSIZED_BYTES:,} bytes, "
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
        raise FileNotFoundError(
            f"corpus.source=url: {_shown(address)} gives no file ({reason:.200}); "
            f"{f'give a login in {LOGINS}, or ' if login else ''}correct the address in "
            "corpus.train or corpus.valid"
        ) from error


def _filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for `address`, and the path in it."""
    import fsspec
    from fsspec.config import apply_config
    from fsspec.implementations.local import LocalFileSystem

    options: dict[str, Any] = {}
    try:
        if address.startswith(("http:", "https:")):
            import aiohttp

            # no limit on the total, which may take hours; trust_env: proxies of the environment,
            # and logins of ~/.netrc
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options = apply_config(fsspec.get_filesystem_class("http"), {})
            client = {"timeout": timeout, "trust_env": True}
            options["client_kwargs"] = client | options.get("client_kwargs", {})
        filesystem, path = fsspec.url_to_fs(address, **options)
    except MemoryError:
        raise
    except Exception as error:  # each kind of store has its own
        raise ValueError(
            f"corpus.source=url: {_shown(address)} cannot be opened ({_one_line(error)}); correct "
            "the address, or install the package its protocol needs"
        ) from error
    if isinstance(filesystem, LocalFileSystem):
        raise ValueError(
            f"corpus.source=url: {_shown(address)} is a file of this machine; set "
            "corpus.source=local and name its path"
        )
    return filesystem, path


def _out_of_reach(source: str, what: str, host: str, error: BaseException) -> str:
    return (
        f"corpus.source={source}: cannot download {what} from {host} ({_one_line(error)}); connect "
        "and run again, or work offline: corpus.source=toystories generates a corpus, "
        "corpus.source=local uses your files"
    )


def _one_line(error: BaseException) -> str:
    return redact(" ".join(str(error).split())) or type(error).__name__


def _shown(address: str) -> str:
    return redact(_place(address))


def _name(address: str) -> str:
    return _place(address).rpartition("/")[2]


def _place(address: str) -> str:
    return re.split("[?#]", address)[0]  # without what may be secret


def _host(address: str) -> str:
    return urlsplit(address).hostname or _shown(address)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
