"""Data sets of the Hugging Face Hub: their files, as its API or its cache lists them."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lmlib.corpus.find import ADVICE
from lmlib.redaction import redact

ADDRESS = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")
LOGIN = (
    "accept its terms on its page if it has some, and give a token in HF_TOKEN or with "
    "`hf auth login`"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """The files of a data set at one commit: by path, their bytes and their digest."""

    dataset: str
    commit: str
    files: dict[str, tuple[int, str]]

    def address(self, path: str) -> str:
        """Return the address of one of the files, by which `parse` finds it again."""
        return f"hf://datasets/{self.dataset}@{self.commit}/{path}"


def parse(address: str) -> tuple[str, str, str]:
    """Return the data set, commit and path of an address; raise ValueError if it is another one."""
    if not (match := ADDRESS.fullmatch(address)):
        raise ValueError(f"{address:.200}: not hf://datasets/NAME@COMMIT/PATH")
    return match[1], match[2], match[3]


def list_files(source: str, dataset: str, revision: str, patterns: Iterable[str]) -> Listing:
    """Return the files of a data set that `patterns` may match, at the commit of `revision` now.

    Without network, those that the cache of huggingface_hub has. `source` is corpus.source, for
    errors. Raises ConnectionError if neither knows the data set; FileNotFoundError if there is no
    such data set or revision; PermissionError if it requires a login.
    """
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with _explained(source, dataset, revision):
            commit = HfApi().dataset_info(dataset, revision=revision).sha or revision
            files = {}
            for folder in sorted({_fixed_folder(pattern) for pattern in patterns}):
                try:
                    tree = HfApi().list_repo_tree(
                        dataset,
                        folder or None,
                        recursive=True,
                        revision=commit,
                        repo_type="dataset",
                    )
                    for item in tree:
                        if isinstance(item, RepoFile):
                            files[item.path] = item.size, _digest(item)
                except HfHubHTTPError as error:
                    if error.response.status_code != 404:
                        raise
                    # no such folder: `select` names the pattern that matches nothing
    except ConnectionError:
        listing = _cached(dataset, revision)
        if listing is None:
            raise
        logger.info("corpus: the Hub is out of reach; using what its cache has of %s", dataset)
        return listing
    logger.info("corpus: %s, %s is commit %s", dataset, revision, commit)
    return Listing(dataset, commit, files)


def select(listing: Listing, patterns: Iterable[str], key: str) -> dict[str, tuple[int, str]]:
    """Return the files of a listing that match the patterns, in their order, each once.

    `*` and `?` match within a folder, `**` any folders. Raises FileNotFoundError for a pattern
    that matches no file.
    """
    found = {}
    for pattern in patterns:
        matches = [pattern] if pattern in listing.files else []
        matches = matches or sorted(filter(_expression(pattern).fullmatch, listing.files))
        if not matches:
            raise FileNotFoundError(
                f"corpus: no file of {listing.dataset} at {listing.commit:.12} matches {pattern} "
                f"({key}); {ADVICE}, see {endpoint()}/datasets/{listing.dataset}/tree/main"
            )
        found |= {path: listing.files[path] for path in matches if path not in found}
    return found


def cached(address: str) -> Path | None:
    """Return the file in the cache of huggingface_hub, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    dataset, commit, path = parse(address)
    found = try_to_load_from_cache(dataset, path, revision=commit, repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def request(address: str) -> tuple[str, dict[str, str]]:
    """Return the web address of a file, at HF_ENDPOINT, and the headers of a request for it."""
    from huggingface_hub.utils import build_hf_headers

    dataset, commit, path = parse(address)
    url = f"{endpoint()}/datasets/{dataset}/resolve/{commit}/{quote(path)}"
    return url, build_hf_headers(library_name="lmlib")


def endpoint() -> str:
    """Return the address of the Hub, or of the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return redact(constants.ENDPOINT)


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _digest(file: object) -> str:
    """Return the digest of a file in the Hub's listing: LFS has sha256, git has blob ids."""
    lfs = getattr(file, "lfs", None)
    return f"sha256:{lfs.sha256}" if lfs else f"git:{getattr(file, 'blob_id', '')}"


def _cached(dataset: str, revision: str) -> Listing | None:
    """Return the files of a data set in the cache of huggingface_hub; None if it has none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                dataset, repo_type="dataset", revision=revision, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            blob = path.resolve().name  # named by its digest
            kind = {64: "sha256:", 40: "git:"}.get(len(blob), "")
            files[path.relative_to(folder).as_posix()] = (
                path.stat().st_size,
                kind and kind + blob,
            )
    return Listing(dataset, folder.name, files)


@contextmanager
def _explained(source: str, dataset: str, revision: str) -> Iterator[None]:
    """Turn the errors of the Hub's client into built-in ones that say what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # it would report each attempt
    # the base class of the errors of its HTTP library, which depends on its version
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    where = f"corpus.source={source}: {endpoint()}"
    try:
        yield
    except GatedRepoError as error:
        raise PermissionError(f"{where} requires a login for {dataset}: {LOGIN}") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{where} has no revision {revision} of {dataset}; correct corpus.revision: a branch, "
            "a tag or a commit"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{where} has no data set {dataset}; correct corpus.dataset, or, if it is private, "
            "give a token in HF_TOKEN or with `hf auth login`"
        ) from error
    except (http_error, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403):
            raise PermissionError(f"{where} requires a login for {dataset}: {LOGIN}") from error
        cause = redact(" ".join(str(error.__cause__ or error).split()))
        raise ConnectionError(
            f"corpus.source={source}: cannot list the files of {dataset} at {endpoint()} "
            f"({cause:.300}); connect and run again (HF_ENDPOINT names a mirror), or work offline: "
            f"`hf download --repo-type dataset {dataset} FILES` on a machine with network fills "
            "the cache, corpus.source=toystories generates a corpus, corpus.source=local uses your "
            "files"
        ) from error


def _fixed_folder(pattern: str) -> str:
    """Return the folder in which all files lie that a pattern matches; "": the whole data set."""
    folders = pattern.split("/")[:-1]
    fixed = next((n for n, part in enumerate(folders) if set(part) & set("*?[")), len(folders))
    return "/".join(folders[:fixed])


def _expression(pattern: str) -> re.Pattern[str]:
    """Return the expression for a glob of paths."""
    parts = pattern.split("/")
    text = ""
    for part in parts[:-1]:
        text += "(?:[^/]+/)*" if part == "**" else _one_name(part) + "/"
    return re.compile(text + (".+" if parts[-1] == "**" else _one_name(parts[-1])))


def _one_name(part: str) -> str:
    """Return the expression for a glob of one name, which has no slash."""
    kinds = {"*": "[^/]*", "?": "[^/]"}

    def translated(match: re.Match[str]) -> str:
        if match["letters"]:
            return f"[{'^' * bool(match['not'])}{re.escape(match['letters'])}]".replace(r"\-", "-")
        return kinds.get(match[0]) or re.escape(match[0])

    return re.sub(r"\[(?P<not>!?)(?P<letters>[^\]]+)\]|.", translated, part)
