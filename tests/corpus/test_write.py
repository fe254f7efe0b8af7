"""write_corpus for each source."""

import gzip
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmlib.corpus import CorpusParams, write_corpus
from lmlib.corpus.documents import SEPARATOR
from tests.corpus.serving import Site, serve

PARAMS = CorpusParams(
    source="local",
    seed=0,
    train_bytes=20_000,
    valid_bytes=2_000,
    train=("a.txt",),
    valid=(),
    text_field="text",
    valid_fraction=0.25,
    sha256=(),
)
TRAIN = b"one\r\n<|endoftext|>\r\ntwo\r\n<|endoftext|>\r\n"
VALID = b"three\n"


def write(params: CorpusParams, root: Path) -> tuple[bytes, bytes]:
    train, valid = root / "data" / "raw" / "train.txt", root / "data" / "raw" / "valid.txt"
    write_corpus(params, train, valid, root)
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
        assert [path.name for path in (tmp_path / "data" / ".partial").iterdir()] == ["lock"]

        with pytest.raises(ValueError, match=r"has no field 'text' .*set corpus\.text_field"):
            write(replace(params, text_field="text"), tmp_path)
        site.requests.clear()
        assert write(params, tmp_path) == (TRAIN, b"three<|endoftext|>")
        assert site.starts() == []  # both were kept after the failure


def test_toystories_needs_no_heavy_imports(tmp_path: Path) -> None:
    """The built-in corpus starts at once, without the packages that the others need."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lmlib.corpus import CorpusParams, write_corpus\n"
        "params = CorpusParams('toystories', 0, 20_000, 2_000, (), (), 'text', 0.01, ())\n"
        "write_corpus(params, Path('train.txt'), Path('valid.txt'), Path())\n"
        "print(*sys.modules)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    assert "lmlib.corpus" in imported
    heavy = {"torch", "numpy", "pyarrow", "huggingface_hub", "fsspec", "aiohttp", "filelock"}
    assert not imported & heavy
    assert (tmp_path / "valid.txt").stat().st_size >= 2_000
