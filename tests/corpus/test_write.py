"""write_corpus for each source."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmlib.corpus import CorpusParams, write_corpus
from lmlib.corpus.documents import SEPARATOR
from tests.corpus.serving import Site, serve

PARAMS = CorpusParams(
    source="local",
    seed=0,
    train_bytes=20_000,
    valid_bytes=2_000,
    dataset="",
    revision="main",
    train=("a.txt",),
    valid=(),
    text_field="text",
    valid_fraction=0.25,
    sha256=(),
    keep="copy",
)
TRAIN = b"one\r\n<|endoftext|>\r\ntwo\r\n<|endoftext|>\r\n"
VALID = b"three\n"


def write(params: CorpusParams, root: Path) -> tuple[bytes, bytes]:
    train, valid = root / "data" / "raw" / "train.txt", root / "data" / "raw" / "valid.txt"
    floor = write_corpus(params, train, valid, root)
    assert (floor is not None) == (params.source == "toystories")
    assert sorted(path.name for path in train.parent.iterdir()) == ["train.txt", "valid.txt"]
    return train.read_bytes(), valid.read_bytes()


def test_toystories(tmp_path: Path) -> None:
    train, valid = write(replace(PARAMS, source="toystories"), tmp_path)
    assert 20_000 <= len(train) < 30_000
    assert 2_000 <= len(valid) < 5_000
    stories = [{s.strip() for s in text.split(SEPARATOR) if s.strip()} for text in (train, valid)]
    assert not stories[0] & stories[1]
    assert write(replace(PARAMS, source="toystories"), tmp_path) == (train, valid)


def test_local_files_are_kept_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TRAIN)
    (tmp_path / "b.txt").write_bytes(VALID)
    params = replace(PARAMS, train=("a.txt",), valid=("b.txt",))
    assert write(params, tmp_path) == (TRAIN, VALID)


def test_local_formats_give_one_text(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "two"}\n')
    parquet.write_table(pa.table({"text": ["three"]}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_bytes(VALID)
    params = replace(PARAMS, train=("a.*", "[bc].*"), valid=("d.txt",))
    assert write(params, tmp_path)[0] == b"one<|endoftext|>two<|endoftext|>three<|endoftext|>"


def test_split_does_not_depend_on_how_documents_lie_in_files(tmp_path: Path) -> None:
    documents = [b"document %d" % i for i in range(60)]
    for i in range(6):
        (tmp_path / f"{i}.txt").write_bytes(SEPARATOR.join(documents[i::6]))
    (tmp_path / "all.txt").write_bytes(SEPARATOR.join(documents))
    sides = []
    for names in (("[0-9].txt",), ("5.txt", "[0-4].txt"), ("all.txt",)):
        texts = write(replace(PARAMS, train=names), tmp_path)
        sides.append([set(text.split(SEPARATOR)) - {b""} for text in texts])
    assert sides[0] == sides[1] == sides[2]
    assert sides[0][0] | sides[0][1] == set(documents)
    assert not sides[0][0] & sides[0][1]


def test_local_contradictions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TRAIN)
    (tmp_path / "b.txt").write_bytes(VALID)
    with pytest.raises(ValueError, match=r"a\.txt is in corpus.train and in corpus.valid"):
        write(replace(PARAMS, train=("?.txt",), valid=("a.txt",)), tmp_path)
    digest = hashlib.sha256(TRAIN).hexdigest()
    with pytest.raises(ValueError, match=r"corpus\.sha256 has 1 digests for 2 files"):
        write(replace(PARAMS, train=("?.txt",), sha256=(digest,)), tmp_path)
    with pytest.raises(ValueError, match=r"b\.txt has sha256"):
        write(replace(PARAMS, train=("?.txt",), sha256=(digest, digest)), tmp_path)


@pytest.mark.parametrize(
    "name", ["b/../a.txt", "link.txt", "b/again/a.txt", "hard.txt", "?ard.txt"]
)
def test_a_training_file_is_no_validation_file(tmp_path: Path, name: str) -> None:
    """Whatever it is called: it is the same file."""
    (tmp_path / "a.txt").write_bytes(TRAIN)
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "a.txt")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "again").symlink_to("..")
    message = (
        r"corpus: .*\.txt is in corpus\.train \(as .*/a\.txt\) and in corpus\.valid; remove it"
    )
    with pytest.raises(ValueError, match=message):
        write(replace(PARAMS, train=("a.txt",), valid=(name,)), tmp_path)


def test_each_document_once(tmp_path: Path) -> None:
    (tmp_path / "books [1]").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "books [1]" / f"{name}.txt").write_text(name)
    (tmp_path / "books [1]" / "all").symlink_to(".")
    (tmp_path / "v.txt").write_bytes(VALID)
    params = replace(PARAMS, train=("books [1]/**/*.txt",), valid=("v.txt",))
    assert write(params, tmp_path)[0] == SEPARATOR.join([b"a", b"b", b"c"])


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sources do not exist, which would be found first."""
    train, valid = tmp_path / "raw" / "train.txt", tmp_path / "raw" / "valid.txt"

    def refused(error: type[OSError], path: Path) -> None:
        with pytest.raises(error) as failure:
            write_corpus(PARAMS, train, valid, tmp_path)
        assert failure.value.filename == str(path)

    train.parent.touch()
    refused(NotADirectoryError, train.parent)
    train.parent.unlink()
    valid.mkdir(parents=True)
    refused(IsADirectoryError, valid)
    valid.rmdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(PermissionError, train.parent)
    monkeypatch.undo()
    (tmp_path / "data").touch()
    with pytest.raises(NotADirectoryError, match="data"):
        write_corpus(replace(PARAMS, source="url", train=("s3://b/a.txt",)), train, valid, tmp_path)


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files is the full disk that any user can make."""
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from lmlib.corpus import CorpusParams, write_corpus\n"
        "sys.dont_write_bytecode = True  # Python would write half of a file, and not notice\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "params = CorpusParams('toystories', 0, 20_000, 2_000, '', '', (), (), 'text', 0.01, (), "
        "'copy')\n"
        "try: write_corpus(params, Path('train.txt'), Path('valid.txt'), Path())\n"
        "except OSError as error: print(error)"
    )
    printed = run_python(code, tmp_path)
    assert printed == "[Errno 27] File too large: 'train.txt'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(TRAIN)
    with pytest.raises(
        OSError, match=r"1,0\S*,\d{3} bytes are needed, \S+ bytes are free\): .*raw"
    ):
        write(replace(PARAMS, source="toystories", train_bytes=10**12), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=7))
    with pytest.raises(OSError, match=r"40 bytes are needed, 7 bytes are free\): .*raw"):
        write(PARAMS, tmp_path)


@pytest.mark.slow
def test_several_at_once(tmp_path: Path) -> None:
    """All are right, and none follows a link where another version had its temporary files."""
    (tmp_path / "a.txt").write_bytes((TRAIN + SEPARATOR + VALID) * 10_000)
    (tmp_path / "precious").touch()
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    for name in (".train.txt.part", ".valid.txt.part"):
        (raw / name).symlink_to(tmp_path / "precious")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write_corpus(PARAMS, *outs(tmp_path, i % 2), tmp_path), range(8)))
    assert (tmp_path / "precious").read_bytes() == b""
    first, second = ([path.read_bytes() for path in outs(tmp_path, i)] for i in range(2))
    assert first == second
    assert len(first[0]) > len(first[1]) > 0


def outs(root: Path, number: int) -> tuple[Path, Path]:
    """Return the two outs; those of number 1 are in a folder of their own."""
    folder = root / "data" / ("raw" if number == 0 else "other")
    return folder / "train.txt", folder / "valid.txt"


def test_what_is_no_text_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(TRAIN)
    (tmp_path / "b.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.delattr("lmlib.corpus.write.copy_file")
    with pytest.raises(ValueError, match=r"b\.txt is a git-lfs pointer"):
        write(replace(PARAMS, valid=("b.txt",)), tmp_path)


def test_a_failure_leaves_the_old_files(tmp_path: Path) -> None:
    """This holds even if only the second of the two cannot be written."""
    (tmp_path / "a.txt").write_bytes(TRAIN)
    (tmp_path / "b.txt").write_bytes(VALID)
    (tmp_path / "c.txt").write_bytes(b"\n")
    params = replace(PARAMS, train=("a.txt",), valid=("b.txt",))
    before = write(params, tmp_path)
    raw = tmp_path / "data" / "raw"
    with pytest.raises(ValueError, match=r"there is no text in .*c\.txt"):
        write(replace(params, train=("b.txt",), valid=("c.txt",)), tmp_path)
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {
        "train.txt": before[0],
        "valid.txt": before[1],
    }


def test_addresses(tmp_path: Path) -> None:
    """Compressed and structured files work like local ones and are checked by their sha256."""
    files = {"/a.txt.gz": gzip.compress(TRAIN, mtime=0), "/b.jsonl": b'{"body": "three"}\n'}
    with serve(Site(files)) as site:
        params = replace(
            PARAMS,
            source="url",
            train=(f"{site.url}/a.txt.gz",),
            valid=(f"{site.url}/b.jsonl?download=true",),
            text_field="body",
            sha256=tuple(hashlib.sha256(body).hexdigest() for body in files.values()),
        )
        assert write(params, tmp_path) == (TRAIN, b"three<|endoftext|>")
        assert list((tmp_path / "data" / ".partial").iterdir()) == []

        with pytest.raises(ValueError, match=r"has no field 'text' .*set corpus\.text_field"):
            write(replace(params, text_field="text"), tmp_path)
        site.requests.clear()
        assert write(params, tmp_path) == (TRAIN, b"three<|endoftext|>")
        assert site.starts() == []  # both were kept after the failure


def test_a_path_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.txt is a file of this machine; .*source=local"):
        write(replace(PARAMS, source="url", train=("a.txt",)), tmp_path)


def run_python(code: str, folder: Path) -> str:
    """Run code in a new process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_toystories_needs_no_heavy_imports(tmp_path: Path) -> None:
    """The built-in corpus starts at once, without the packages that the others need."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lmlib.corpus import CorpusParams, write_corpus\n"
        "params = CorpusParams('toystories', 0, 20_000, 2_000, '', '', (), (), 'text', 0.01, (), "
        "'copy')\n"
        "write_corpus(params, Path('train.txt'), Path('valid.txt'), Path())\n"
        "print(*sys.modules)"
    )
    imported = set(run_python(code, tmp_path).split())
    assert "lmlib.corpus" in imported
    heavy = {"torch", "numpy", "pyarrow", "huggingface_hub", "fsspec", "aiohttp", "filelock"}
    assert not imported & heavy
    assert (tmp_path / "valid.txt").stat().st_size >= 2_000
