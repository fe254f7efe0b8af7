"""Corpora in stores: in memory, behind HTTP, and in an S3 server on loopback."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokenizer.paths import CorpusPath, FileText, StoredFile, as_file, as_texts, read_range
from tests.corpus.serving import Site, serve
from tests.tokenizer.bucket import ADDRESS, serve_bucket
from tests.tokenizer.conftest import END

Check = Callable[[CorpusPath, Executor | None], None]


@pytest.fixture
def check(corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path) -> Check:
    """Return a function that trains on a copy of the corpus and encodes it."""

    def check_copy(path: CorpusPath, executor: Executor | None) -> None:
        vocab, merges = train_bpe(path, 700, [END], executor=executor, chunk_bytes=20_000)
        assert (vocab, merges) == (tokenizer.vocab, tokenizer.merges)
        tokenizer.encode_file(path, tmp_path / "a.npy", executor=executor, chunk_bytes=20_000)
        tokenizer.encode_file(corpus_file, tmp_path / "b.npy")
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()

    return check_copy


def test_a_corpus_in_memory(check: Check, corpus_file: Path) -> None:
    """Threads see it, but other processes have their own memory."""
    fsspec.filesystem("memory").pipe_file("/corpus.txt", corpus_file.read_bytes())
    with ThreadPoolExecutor(2) as executor:
        check("memory://corpus.txt", executor)


def test_a_corpus_in_a_bucket(
    check: Check, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment gives the endpoint and the credentials."""
    with serve_bucket(corpus_file.read_bytes()) as options:
        monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
        with ThreadPoolExecutor(2) as executor:
            check(ADDRESS, executor)


def test_a_corpus_in_a_local_file_system_of_fsspec(check: Check, corpus_file: Path) -> None:
    check(corpus_file.as_uri(), None)


def test_what_names_a_file() -> None:
    memory = fsspec.filesystem("memory")
    stored = StoredFile(memory, "/a.txt")
    local = Path.cwd() / "a.txt"  # absolute: a worker may run in another folder
    assert as_file("a.txt") == as_file(Path("a.txt")) == as_file(local) == local
    assert as_file("memory://a.txt") == as_file(stored) == stored
    texts = [FileText(local), FileText(stored)]
    assert as_texts("a.txt") == as_texts(iter(["a.txt"])) == texts[:1]
    assert as_texts(stored) == as_texts(texts[1]) == texts[1:]
    assert as_texts(["a.txt", "memory://a.txt"]) == texts


def test_a_local_address_is_decoded(tmp_path: Path) -> None:
    """Path.as_uri() encodes what has a meaning in an address."""
    path = tmp_path / "100% [a] #1? ä.txt"
    assert as_file(path.as_uri()) == as_file(path) == path


def test_the_name_of_a_stored_file_has_no_secrets() -> None:
    file = as_file("https://me:SECRET@host/a.txt?token=SECRET")
    assert str(file) == "https://***@host/a.txt?token=***"


def test_a_range_ends_where_the_file_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    fsspec.filesystem("memory").pipe_file("/a.txt", b"0123456789")
    for path in (tmp_path / "a.txt", "memory://a.txt"):
        assert read_range(as_file(path), 2, 5) == b"234"
        assert read_range(as_file(path), 8, 10) == b"89"
        with pytest.raises(ValueError, match=r"a.txt: has become shorter while being read.* 10;"):
            read_range(as_file(path), 8, 11)


def test_a_corpus_that_shrinks_is_no_shorter_corpus(
    corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path, dst = tmp_path / "a.txt", tmp_path / "a.npy"

    def shrink(*_: object) -> None:
        path.write_bytes(b"the beginning")

    path.write_bytes(corpus_file.read_bytes())
    with pytest.raises(ValueError, match="has become shorter while being read"):
        train_bpe(path, 700, [END], pattern=".", num_workers=1, chunk_bytes=99, on_progress=shrink)
    path.write_bytes(corpus_file.read_bytes())
    with pytest.raises(ValueError, match="has become shorter while being read"):
        tokenizer.encode_file(path, dst, num_workers=1, chunk_bytes=99, on_progress=shrink)
    assert not dst.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"memory://.*no.txt: no such file to train on"):
        train_bpe("memory://no.txt", 300, [])
    with pytest.raises(FileNotFoundError, match=r"memory://.*no.txt: no such file to encode"):
        Tokenizer({}, []).encode_file("memory://no.txt", tmp_path / "a.npy")


def test_a_folder_is_no_missing_file(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/folder/a.txt", b"0123456789")
    for folder in (tmp_path, "memory://folder"):
        with pytest.raises(ValueError, match="is a folder; name a file in it to train on"):
            train_bpe(folder, 300, [])
        with pytest.raises(ValueError, match="is a folder; name a file in it to encode"):
            Tokenizer({}, []).encode_file(folder, tmp_path / "a.npy")


def test_what_is_no_regular_file_is_no_missing_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", "/dev/zero"):
        with pytest.raises(ValueError, match="is a pipe or a device; name a regular file to train"):
            train_bpe(path, 300, [])
        with pytest.raises(
            ValueError, match="is a pipe or a device; name a regular file to encode"
        ):
            Tokenizer({}, []).encode_file(path, tmp_path / "a.npy")


def test_a_server_that_does_not_tell_sizes_is_refused() -> None:
    with serve(Site({"/a.txt": b"0123456789"}, sizes=False)) as site:
        file = as_file(f"{site.url}/a.txt")
        with pytest.raises(ValueError, match="does not report the file"):
            file.stat()


def test_a_server_that_knows_no_ranges_is_refused() -> None:
    """It would count the whole file for every chunk."""
    with serve(Site({"/a.txt": b"0123456789"}, ranges=False)) as site:
        file = as_file(f"{site.url}/a.txt")
        assert file.is_file()
        assert file.stat().st_size == 10
        with pytest.raises(ValueError, match="sends the whole file when asked for a part"):
            read_range(file, 2, 5)
