"""lmlib/digests.py: files that have changed since they were written are refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lmlib.checkpoint import load_model
from lmlib.data import TokenDataset
from lmlib.digests import SUMS, check_digests, write_digests
from lmlib.tokenizer import Tokenizer

DIGEST = "18b7cb099a9ea3f50ba899b5ba81e0d377a5f3b16f8f6eeb8b3e58cd4692b993"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.txt", "ü b.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    write_digests(tmp_path, "a.txt", "ü b.txt")
    return tmp_path


def test_digests_in_the_format_of_sha256sum(folder: Path) -> None:
    """The digest is what `printf a.txt | sha256sum` prints."""
    first, second = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    assert first == f"{DIGEST}  a.txt"
    assert second[64:] == "  ü b.txt"
    check_digests(folder, "a.txt", "ü b.txt")


@pytest.mark.parametrize("name", ["a.txt", "ü b.txt"])
@pytest.mark.parametrize("content", [b"", b"A.txt", b"a.txt "])
def test_a_changed_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: damaged, or changed since it was written"):
        check_digests(folder, "a.txt", "ü b.txt")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 64, b"x" * 64 + b"  a.txt\n"])
def test_damaged_digests_are_named(folder: Path, content: bytes) -> None:
    (folder / SUMS).write_bytes(content)
    with pytest.raises(ValueError, match="SHA256SUMS"):
        check_digests(folder, "a.txt")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_of_digests_is_named(folder: Path, make: Callable[[Path], None]) -> None:
    """A pipe would wait for a writer."""
    (folder / SUMS).unlink()
    make(folder / SUMS)
    with pytest.raises(ValueError, match="SHA256SUMS: not a regular file"):
        check_digests(folder, "a.txt")


def test_what_was_written_elsewhere_is_not_checked(folder: Path) -> None:
    check_digests(folder, "missing.txt")  # whoever reads it says so
    (folder / "a.txt").write_bytes(b"changed on purpose")
    (folder / SUMS).unlink()
    check_digests(folder, "a.txt")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "bpe.json", "tokenizer.json"])
def test_a_tokenizer_is_checked(tmp_path: Path, name: str) -> None:
    Tokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(tmp_path)
    Tokenizer.load(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=rf"{name}: damaged"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_is_checked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    (tmp_path / SUMS).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match=rf"{name}: damaged"):
        load_model(tmp_path)


def test_tokens_are_checked(tmp_path: Path) -> None:
    """Their index; it has the digests of the shards."""
    (tmp_path / "index.json").write_bytes(b"{}")
    (tmp_path / SUMS).write_text(f"{'0' * 64}  index.json\n")
    with pytest.raises(ValueError, match=r"index\.json: damaged"):
        TokenDataset.open(tmp_path)
