"""The texts of data/raw: plain text files, or references to files of other places and formats.

Where `corpus.keep` is `copy`, data/raw has train.txt and valid.txt. Where it is `reference`, it has
train.json and valid.json, which list files, and a text is read from its file when it is opened.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmlib.corpus.documents import check_head, file_format
from lmlib.corpus.fetch import fetched, working_folder
from lmlib.corpus.find import check_file
from lmlib.corpus.sources import Source, name_of
from lmlib.corpus.split import Found, Reading, copy_file, split_file
from lmlib.files import naming, read_json, write_json
from lmlib.separator import SEPARATOR, ends_with_separator, file_tail

FIELDS = {"address", "bytes", "digest", "version", "format"}


@dataclass(frozen=True)
class Text:
    """The text of one source file. The texts of a corpus follow each other, as in one file.

    name       of the file
    num_bytes  of the text; None: known only after reading
    digest     of the file's content and of how it is read; None: not known
    ending     what follows the bytes of the opened file in the corpus: a separator or nothing. Only
               a file of this machine, read in place, may lack its separator
    folder     of temporary files; None: that of `tempfile`
    """

    name: str
    num_bytes: int | None
    digest: str | None
    source: Source = field(repr=False)
    reading: Reading = field(default=Reading(), repr=False)
    ending: str = ""
    folder: Path | None = field(default=None, repr=False)

    @contextmanager
    def open(self, folder: Path | None = None) -> Iterator[Path]:
        """Yield a file of plain text, which is there until the end of the `with` block.

        It is the source itself, or a temporary file in `folder`, by default in that of the text.
        In a `folder` that stays, an interrupted download resumes. Raises what `fetched` raises, and
        ValueError for a file that has not the format that its name says.
        """
        folder = folder or self.folder
        with ExitStack() as stack:
            if folder is None and not self.is_in_place:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder = folder or Path()
            path = stack.enter_context(fetched(self.source, folder))
            if self.is_in_place:  # checked when it was listed, or written by us
                yield path
                return
            if self._is_plain(path):
                check_head(path)
                yield path
                return
            key = f"{self.source.address} {self.reading.side}"
            place = stack.enter_context(working_folder(folder, key, keep=False))
            plain = place / f"{self.name[-50:]}.txt"
            self._write(path, plain)
            if not self.source.is_local and path.is_relative_to(folder):
                path.unlink()
            yield plain

    @property
    def is_in_place(self) -> bool:
        """Return whether the source itself is opened: a plain file of this machine, kept whole."""
        return self.num_bytes is not None

    def _is_plain(self, path: Path) -> bool:
        """Return whether a file that was downloaded is its text already."""
        is_text = self.reading.side == "all" and file_format(path.name) == ".txt"
        return is_text and (self.reading.is_last or _ends_exactly(path))

    def _write(self, path: Path, plain: Path) -> None:
        with naming(plain), plain.open("w+b") as output:
            if self.reading.side == "all":
                copy_file(path, self.reading, output, Found(), _ignore)
                return
            with tempfile.TemporaryFile(dir=plain.parent) as other:
                sides = (output, other) if self.reading.side == "train" else (other, output)
                split_file(path, self.reading, *sides, Found(), _ignore)


def read_texts(
    folder: Path, name: str, root: Path | None = None, partial: Path | None = None
) -> list[Text]:
    """Return the texts that `folder` has as `name`, "train" or "valid": one per source file.

    Paths in a manifest are relative to `root`, by default the working directory. Temporary files
    of the texts go to `partial`, by default to the folder of `tempfile`. Raises
    FileNotFoundError if there is neither NAME.txt nor NAME.json, ValueError for a damaged manifest.
    """
    path = folder / f"{name}.txt"
    if path.is_file():
        source = Source(str(path.absolute()))
        return [Text(path.name, path.stat().st_size, None, source)]
    manifest = folder / f"{name}.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{path}: no such file, and no {manifest.name}")
    texts = _texts_of(manifest, (root or Path()).absolute())
    return [replace(text, folder=partial) for text in texts]


def write_manifest(path: Path, sources: Sequence[Source], reading: Reading, root: Path) -> None:
    """Write the list of the files that are the text `path`, as `read_texts` reads it."""
    files = []
    for source in sources:
        address = source.address
        if source.is_local and Path(address).is_relative_to(root):
            address = Path(address).relative_to(root).as_posix()
        files.append(
            {
                "address": address,
                "bytes": source.num_bytes,
                "digest": source.digest,
                "version": source.version,
                "format": file_format(name_of(address)),
            }
        )
    values = {"side": reading.side, "text_field": reading.text_field, "files": files}
    if reading.side != "all":
        values["valid_fraction"] = reading.valid_fraction
    write_json(path, values)


@contextmanager
def opened_start(texts: Sequence[Text], num_bytes: int, folder: Path) -> Iterator[Path]:
    """Yield one file of plain text: the only text, or at least the first `num_bytes` of several.

    Raises what `Text.open` raises.
    """
    if len(texts) == 1:
        with texts[0].open(folder) as path:
            yield path
        return
    with tempfile.TemporaryDirectory() as place:
        start = Path(place) / "start.txt"
        with start.open("wb") as output:
            for text in texts:
                if output.tell() < num_bytes:
                    with text.open(folder) as path, path.open("rb") as file:
                        shutil.copyfileobj(file, output)
                    output.write(text.ending.encode())
        yield start


def stored_bytes(texts: Sequence[Text]) -> int:
    """Return the bytes of the files of texts, compressed as they are, as far as they are known."""
    return sum(text.source.num_bytes or text.num_bytes or 0 for text in texts)


def _texts_of(manifest: Path, root: Path) -> list[Text]:
    values = read_json(manifest)
    try:
        files = [
            Source(_absolute(file["address"], root), file["bytes"], file["digest"], file["version"])
            for file in values["files"]
            if file.keys() == FIELDS
        ]
        readings = [
            Reading(
                values["side"],
                values["text_field"],
                values.get("valid_fraction", 0.0),
                is_last=number == len(files),
            )
            for number in range(1, len(files) + 1)
        ]
        if len(files) < len(values["files"]) or values["side"] not in ("all", "train", "valid"):
            raise ValueError("other fields than are known")
        return [_text(*pair) for pair in zip(files, readings, strict=True)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{manifest}: not a list of files that `download` wrote ({error}); run it again"
        ) from error


def _text(source: Source, reading: Reading) -> Text:
    name, ending, num_bytes = name_of(source.address), "", None
    if source.is_local and reading.side == "all" and file_format(name) == ".txt":
        path = Path(source.address)
        check_file(path)
        if reading.is_last or _ends_exactly(path):
            num_bytes = source.num_bytes
        elif file_tail(path).strip() and not ends_with_separator(path):
            num_bytes, ending = source.num_bytes, SEPARATOR
    return Text(name, num_bytes, _digest(source, reading), source, reading, ending)


def _digest(source: Source, reading: Reading) -> str | None:
    """Return the digest of a text: of the file's digest, and of how it is read."""
    if not source.digest:
        return None
    identity = [source.digest, *reading.identity(name_of(source.address))]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _absolute(address: str, root: Path) -> str:
    return address if "://" in address else str(root / address)


def _ends_exactly(path: Path) -> bool:
    """Return whether nothing follows the last separator of a text file."""
    return file_tail(path).endswith(SEPARATOR.encode())


def _ignore(count: int) -> None:
    """Ignore the bytes reported to a progress bar."""
