"""`train_bpe`: the contract, whatever the path through it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmlib.tokenizer import train_bpe
from lmlib.tokenizer.reference import count_pre_tokens
from lmlib.tokenizer.splitting import Splitter
from tests.tokenizer.conftest import END
from tests.tokenizer.strategies import brute_force_merges, raw_bytes, special_lists


def test_vocabulary_is_bytes_then_merges_then_special_tokens(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("aaab<x>aaab<x>", encoding="utf-8")
    vocab, merges = train_bpe(path, 261, ["<x>", "<y>"])
    assert merges == [(b"a", b"a"), (b"aa", b"a"), (b"aaa", b"b")]
    assert vocab == {
        **{byte: bytes([byte]) for byte in range(256)},
        **{256: b"aa", 257: b"aaa", 258: b"aaab", 259: b"<x>", 260: b"<y>"},
    }


def test_training_stops_when_no_pair_is_left(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("ab ab", encoding="utf-8")
    vocab, merges = train_bpe([path], 1000, [END])
    assert merges == [(b"a", b"b"), (b" ", b"ab")]
    assert sorted(vocab) == list(range(259))


def test_special_token_of_one_byte_is_that_byte(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("a|a|b", encoding="utf-8")
    vocab, merges = train_bpe(path, 256, ["|"])
    assert (len(vocab), merges) == (256, [])


@settings(deadline=None, max_examples=60)
@given(raw_bytes.filter(bool), special_lists, st.integers(0, 40))
def test_merges_equal_brute_force(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, special: list[str], num_merges: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "train.txt"
    path.write_bytes(data)
    num_special = sum(len(token.encode()) > 1 for token in special)
    words = Counter(count_pre_tokens(data, Splitter("gpt2", special)))
    _, merges = train_bpe(path, 256 + num_special + num_merges, special)
    assert merges == brute_force_merges(words, num_merges)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=raw_bytes.filter(bool), special=special_lists, chunk_bytes=st.integers(1, 30))
def test_engine_in_chunks_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    always_engine: None,
    data: bytes,
    special: list[str],
    chunk_bytes: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "train.txt"
    path.write_bytes(data)
    words = Counter(count_pre_tokens(data, Splitter("cl100k", special)))
    _, merges = train_bpe(path, 300, special, pattern="cl100k", chunk_bytes=chunk_bytes)
    num_special = sum(len(token.encode()) > 1 for token in special)
    assert merges == brute_force_merges(words, 300 - 256 - num_special)


@pytest.mark.parametrize("num_workers", [1, 2, 7])
@pytest.mark.parametrize("chunk_bytes", [1000, 30_011])
def test_engine_workers_and_chunks_do_not_matter(
    corpus_file: Path, num_workers: int, chunk_bytes: int, request: pytest.FixtureRequest
) -> None:
    plain = train_bpe(corpus_file, 1000, [END], num_workers=1)
    request.getfixturevalue("always_engine")
    assert plain == train_bpe(
        corpus_file, 1000, [END], num_workers=num_workers, chunk_bytes=chunk_bytes
    )


def test_worker_processes_give_the_same(corpus_file: Path) -> None:
    """A custom pattern goes to processes of plain Python."""
    pattern = r"\w+|\s+|[^\w\s]+"
    one = train_bpe(corpus_file, 600, [END], pattern=pattern)
    assert one == train_bpe(
        corpus_file, 600, [END], pattern=pattern, num_workers=2, chunk_bytes=20_000
    )


def test_any_executor_will_do(corpus_file: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert train_bpe(corpus_file, 500, [END], executor=executor, chunk_bytes=5000) == train_bpe(
            corpus_file, 500, [END]
        )
        assert executor.submit(int).result() == 0  # still open: it is the caller's


def test_files_are_apart(tmp_path: Path) -> None:
    """No pre-token reaches from one file into the next; carriage returns are kept."""
    for name, text in (("a", b"xy\r\n"), ("b", b"xz\r\n")):
        (tmp_path / name).write_bytes(text)
    _, merges = train_bpe([tmp_path / "a", str(tmp_path / "b")], 258, [])
    assert merges == [(b"\r", b"\n"), (b"x", b"z")]


def test_progress_ends_at_the_whole(corpus_file: Path, always_engine: None) -> None:
    calls: list[tuple[str, int, int]] = []
    train_bpe(
        corpus_file, 400, [END], chunk_bytes=9000, on_progress=lambda *call: calls.append(call)
    )
    size = corpus_file.stat().st_size
    done = [done for stage, done, total in calls if stage == "count" and total == size]
    assert done == sorted(done)
    assert done[-1] == size
    assert calls[-1] == ("merge", 143, 143)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(ValueError, match=r"vocab_size is 257, but .* raise vocab_size"):
        train_bpe(empty, 257, ["<a>", "<b>"])
    with pytest.raises(ValueError, match=r"the corpus is empty: .*empty\.txt"):
        train_bpe(empty, 300, [])
    with pytest.raises(ValueError, match="no file is named"):
        train_bpe([], 300, [])
    with pytest.raises(FileNotFoundError, match=r"missing\.txt: no such file to train on"):
        train_bpe(tmp_path / "missing.txt", 300, [])
    empty.write_text("text")
    with pytest.raises(ValueError, match="num_workers is 0"):
        train_bpe(empty, 300, [], num_workers=0)
