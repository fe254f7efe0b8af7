"""A corpus that is only referred to, from the workspace and from a temporary copy of it."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lmlib.tokens import open_tokens
from stages.artefacts import md5_folder
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline

LOCAL = "-S", "corpus.source=local", "-S", "corpus.train=[books/*]", "-S", "corpus.keep=reference"


@pytest.fixture
def library(project: Project, tmp_path: Path) -> Project:
    """A clone next to which there are books of two formats, of which git knows nothing."""
    clone = project.clone(tmp_path / "clone")
    books = clone.folder / "books"
    books.mkdir()
    stories = [f"Story {n}: a cat met {n * n} dogs, and they played." for n in range(400)]
    for number in range(4):
        part = stories[100 * number : 100 * number + 100]
        if number % 2:
            lines = "".join(json.dumps({"text": story}) + "\n" for story in part)
            (books / f"{number}.jsonl").write_text(lines)
        else:
            (books / f"{number}.txt").write_text("<|endoftext|>\n".join(part))
    return clone


def outs(project: Project) -> list[str]:
    """Return the hashes of the tokenizer and of all ids."""
    ids = [open_tokens(project.folder / "data/tokens" / name)[1][:] for name in ("train", "valid")]
    hashes = [hashlib.sha256(array.tobytes()).hexdigest() for array in ids]
    return [md5_folder(project.folder / "models/tokenizer"), *hashes]


@pytest.mark.slow
def test_a_reference_gives_the_tokens_of_a_copy(library: Project) -> None:
    library.run("dvc", "exp", "run", *LOCAL, "-S", "corpus.keep=copy", "encode")
    copied = outs(library)
    assert (library.folder / "data/raw/train.txt").is_file()
    library.run("dvc", "exp", "run", "-S", "corpus.keep=reference", "encode")
    assert {path.name for path in (library.folder / "data/raw").iterdir()} == {
        "train.json",
        "valid.json",
    }
    assert outs(library) == copied
    assert not any((library.folder / "data/.partial").iterdir())
    assert library.stages_run("dvc", "repro", "encode") == []

    (library.folder / "books/0.txt").write_text("Other.")
    library.run("dvc", "repro", "--force", "--single-item", "encode")  # its shards are there
    shutil.rmtree(library.folder / "data/tokens")
    refused = library.run("dvc", "repro", "--force", "--single-item", "encode", status=255)
    assert "books/0.txt has sha256" in refused


@pytest.mark.slow
def test_in_a_temporary_copy_files_are_found(library: Project) -> None:
    """Which has only what git knows."""
    library.run("dvc", "exp", "run", "--temp", "--name", "elsewhere", *LOCAL, "encode")
    library.run("dvc", "exp", "apply", "elsewhere")
    found = outs(library)
    library.run("dvc", "repro", "--force", "encode")
    assert outs(library) == found


@pytest.mark.slow
def test_a_side_that_stays_empty(library: Project) -> None:
    said = library.run(
        "dvc", "exp", "run", *LOCAL, "-S", "corpus.valid_fraction=1e-9", "encode", status=255
    )
    assert "error: corpus: the hash of no document puts it into valid" in said
    assert "name validation files in corpus.valid" in said
