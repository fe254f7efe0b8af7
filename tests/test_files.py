"""lmlib/files.py: files replaced atomically, and read with errors that name them."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmlib.files import (
    open_regular,
    read_json,
    read_metrics,
    read_yaml,
    replacing,
    sha256_file,
    write_atomically,
    write_csv,
    write_json,
)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe would wait for a writer, and a device has no end."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "device"):
        with pytest.raises(OSError, match=f"{name}: not a regular file"):
            open_regular(tmp_path / name)
        with pytest.raises(OSError, match=f"{name}: not a regular file"):
            sha256_file(tmp_path / name)
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "link", follow=False)


def test_sha256_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    write_atomically(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"3 bytes are needed, [\d,]+ bytes are free") as failure:
        write_atomically(path, b"new")
    assert failure.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_replaces_the_file_and_not_its_content(tmp_path: Path) -> None:
    """A process that has the old file open can read it to its end."""
    path = tmp_path / "checkpoint.pt"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_write_json(tmp_path: Path) -> None:
    """Folders are created, no other file is left, and equal values give equal text."""
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


def test_two_that_write_one_file(tmp_path: Path) -> None:
    """Each process writes a file of its own, and the last to finish wins."""
    path = tmp_path / "cache"
    with replacing(path) as (first,), replacing(path) as (second,):
        first.write_bytes(b"first")
        second.write_bytes(b"2")
        first.write_bytes(b"first again")
    assert path.read_bytes() == b"first again"
    assert list(tmp_path.iterdir()) == [path]


def leave_a_part(path: Path) -> None:
    """Write half of a file, and die."""
    with replacing(path) as (part,):
        part.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """What a process that still runs is writing, stays."""
    path = tmp_path / "tokens [1].npy"
    process = multiprocessing.get_context("spawn").Process(target=leave_a_part, args=(path,))
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    with replacing(path) as (ours,):
        ours.write_bytes(b"ours")
        assert not left.exists()
        write_atomically(path, b"another")
        assert ours.exists()
    assert path.read_bytes() == b"ours"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a folder would take time by the square of its files."""
    searched: list[Path] = []
    names_in = Path.iterdir

    def searching(folder: Path) -> Iterator[Path]:
        searched.append(folder)
        return names_in(folder)

    monkeypatch.setattr(Path, "iterdir", searching)
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_atomically(tmp_path / f"{number}.npy", b"tokens")
        write_atomically(f"{number}.npy", b"the same file")
    assert searched == [tmp_path]


def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even under a name that was guessed."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "out").write_bytes(b"precious")
    names = iter(["00000000", "11111111"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(names))
    (tmp_path / ".out.00000000.part").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "out", b"ours")
    write_atomically(tmp_path / "out", b"ours")
    assert (precious / "out").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["file/out", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises((NotADirectoryError, FileExistsError, IsADirectoryError)) as failure:
        write_atomically(tmp_path / name, b"")
    assert failure.value.filename in map(str, (tmp_path / name, (tmp_path / name).parent))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as failure, replacing(tmp_path / "out"):
        (tmp_path / "source").read_bytes()
    assert failure.value.filename == str(tmp_path / "source")


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    write_atomically(train, b"old")
    with pytest.raises(FileNotFoundError), replacing(train, valid) as (part, _):
        part.write_bytes(b"new")  # and no file for the other
    assert train.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [train]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_csv(tmp_path: Path) -> None:
    """Numbers have all their digits, and strings are unchanged."""
    path = tmp_path / "curve.csv"
    write_csv(path, [{"context": "1.5", "loss": 0.1}, {"context": "2", "loss": 1 / 3}])
    assert path.read_bytes() == b"context,loss\n1.5,0.1\n2,0.3333333333333333\n"


def test_read_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match=r"config\.json: missing; it says which$"):
        read_json(path, missing="missing; it says which")
    write_json(path, {"text": "Größe"})
    assert read_json(path) == {"text": "Größe"}


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "not valid JSON: "), (b"1", "holds a int")]
)
def test_read_json_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        read_json(tmp_path / "config.json")


def test_read_yaml(tmp_path: Path) -> None:
    """YAML 1.2: 1e-05 is a number."""
    path = tmp_path / "params.yaml"
    path.write_text("optim: {lr: 1e-05}\n", encoding="utf-8")
    assert read_yaml(path) == {"optim": {"lr": 1e-05}}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "not valid YAML: "), (b"\xff", "not UTF-8 text"), (b"- 1", "holds a list")],
)
def test_read_yaml_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"params\.yaml: {message}"):
        read_yaml(tmp_path / "params.yaml")


NESTED = 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON: "),
        (b'{"a": "\xff"}', r"not UTF-8 text \(byte 0xff at offset 7\)"),
        (b"[" * NESTED, "nested too deeply"),
        (b'{"a":' * NESTED, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON: "),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice in one object"),
        (b'{"a": {"b": 1, "b": 1}}', "the key 'b' occurs twice in one object"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b'{"a": [["\\ud800"]]}', "surrogates not allowed"),
    ],
    ids=range(10),
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json: (not valid JSON.*)?{message}"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds a NoneType"),
        (b"a: " + b"[" * NESTED, "not valid YAML here: nested too deeply"),
        (b"a: " + b"9" * 5000, "not valid YAML: Exceeds the limit"),
        (b"a: 2001-99-99", "not valid YAML: month must be"),
        (b"a: !!bool maybe", "not valid YAML: "),
        (b"a: !!float abc", "not valid YAML: "),
    ],
    ids=range(6),
)
def test_damaged_yaml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"params\.yaml: {message}"):
        read_yaml(tmp_path / "params.yaml")


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_folder_in_place_of_a_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "config").mkdir()
    with pytest.raises(ValueError, match=r"config: not a regular file; remove it$"):
        read(tmp_path / "config")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("{}", "has no 'loss'; run `dvc repro`"),
        ('{"loss": "1.5"}', "'loss' is not a finite number"),
        ('{"loss": true}', "'loss' is not a finite number"),
        ('{"loss": NaN}', "'loss' is not a finite number"),
        ('{"loss": 1, "more": [1]}', "'more' is not a finite number"),
        ('{"loss": 1' + "0" * 400 + "}", "'loss' is not a finite number"),
    ],
    ids=range(7),
)
def test_damaged_metrics_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "evaluate.json").write_text(content)
    with pytest.raises(ValueError, match=rf"evaluate\.json: {message}"):
        read_metrics(tmp_path / "evaluate.json", "loss")


def test_read_metrics(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluate.json", {"loss": 1.5, "tokens": 10**12})
    assert read_metrics(tmp_path / "evaluate.json", "loss") == {"loss": 1.5, "tokens": 10**12}
