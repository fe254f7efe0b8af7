"""Files that are written whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from lmlib.files import sha256_file, write_atomically, write_json


def test_sha256_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    write_atomically(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_write_replaces_the_file_and_not_its_content(tmp_path: Path) -> None:
    """Whoever has opened the old file reads it to its end."""
    path = tmp_path / "checkpoint.pt"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_write_json(tmp_path: Path) -> None:
    """Folders are made, nothing else is left, and the text is the same for the same values."""
    path = tmp_path / "new" / "metrics.json"
    write_json(path, {"loss": 1.5, "text": "Größe"})
    assert path.read_text(encoding="utf-8") == '{\n  "loss": 1.5,\n  "text": "Größe"\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_write_json_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.5})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"loss": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 1.5}
