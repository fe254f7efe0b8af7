"""`train_bpe`: the contract, on every code path."""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlib.tokenizer import engine, train_bpe
from lmlib.tokenizer.paths import read_range
from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.reference import learn_merges
from tests.tokenizer.strategies import (
    END,
    SPECIAL,
    brute_force_merges,
    examples,
    plain_counts,
    raw_bytes,
    small_words,
    special_lists,
)


def test_vocabulary_is_bytes_then_merges_then_special_tokens(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("aaab<x>aaab<x>", encoding="utf-8")
    vocab, merges = train_bpe(path, 261, ["<x>", "<y>"])
    assert merges == [(b"a", b"a"), (b"aa", b"a"), (b"aaa", b"b")]
    assert vocab == {
        **{byte: bytes([byte]) for byte in range(256)},
        **{256: b"aa", 257: b"aaa", 258: b"aaab", 259: b"<x>", 260: b"<y>"},
    }


@pytest.mark.parametrize("vocab_size", [10**9, 10**18])
def test_a_wish_beyond_all_merges_costs_nothing(
    tmp_path: Path, way: str, vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No array is as large as the wish: here, 8 bytes in 3 words allow 5 merges."""
    path, wanted = tmp_path / "corpus.txt", []
    path.write_text("the cat\n" * 20, encoding="utf-8")
    for module in ("learning", "train"):
        monkeypatch.setattr(
            f"lmlib.tokenizer.{module}.learn_merges",
            lambda words, num_merges, report: wanted.append(num_merges) or [],
        )
    train_bpe(path, vocab_size, [])
    assert wanted == [5]
    monkeypatch.undo()
    vocab, merges = train_bpe(path, vocab_size, [])
    assert len(vocab) == 256 + len(merges) == 261


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


# -- the merges


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_merges_of_small_words_equal_brute_force(tmp_path: Path, way: str, pattern: str) -> None:
    """Words of two letters and an accented "e": nearly every choice is a tie."""
    path = tmp_path / "train.txt"

    @examples
    @given(small_words.filter(bool), st.integers(0, 30))
    def check(words: dict[bytes, int], num_merges: int) -> None:
        path.write_bytes(b"".join((word + b"|") * count for word, count in words.items()))
        _, merges = train_bpe(path, 256 + num_merges, ["|"], pattern=pattern, num_workers=1)
        assert merges == brute_force_merges(Counter(words), num_merges)

    check()


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_merges_equal_brute_force(tmp_path: Path, way: str, pattern: str) -> None:
    """Any bytes, with special tokens, in chunks of a few bytes."""
    path = tmp_path / "train.txt"

    @examples
    @given(raw_bytes.filter(bool), special_lists, st.integers(0, 40), st.integers(1, 40))
    def check(data: bytes, special: list[str], num_merges: int, chunk_bytes: int) -> None:
        path.write_bytes(data)
        vocab_size = 256 + num_merges + sum(len(token.encode()) > 1 for token in special)
        _, merges = train_bpe(
            path, vocab_size, special, pattern=pattern, num_workers=1, chunk_bytes=chunk_bytes
        )
        words = plain_counts(data, special, pattern)
        assert merges == brute_force_merges(words, num_merges)

    check()


def test_a_pair_that_overlaps_itself_is_counted_as_it_stands(tmp_path: Path, way: str) -> None:
    """ "aaa" holds the pair of two "a" twice, though only one can be merged: 2 x 3 beat 5."""
    path = tmp_path / "train.txt"
    path.write_text("aaa|" * 3 + "xy|" * 5, encoding="utf-8")
    assert train_bpe(path, 259, ["|"])[1] == [(b"a", b"a"), (b"x", b"y"), (b"aa", b"a")]


# -- workers and chunks


def assert_learns(corpus_file: Path, pattern: str, num_workers: int, chunk_bytes: int) -> None:
    """The merges are those of the reference, and the vocabulary is made of them."""
    words = plain_counts(corpus_file.read_bytes(), [END], pattern)
    vocab, merges = train_bpe(
        corpus_file, 600, [END], pattern=pattern, num_workers=num_workers, chunk_bytes=chunk_bytes
    )
    assert merges == learn_merges(words, 600 - 257)
    assert list(vocab.values())[256:] == [*(left + right for left, right in merges), END.encode()]


@pytest.mark.parametrize("num_workers", [1, 2, 7])
@pytest.mark.parametrize("chunk_bytes", [1000, 30_011, 1 << 24])
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_workers_and_chunks_do_not_matter(
    corpus_file: Path, num_workers: int, chunk_bytes: int, pattern: str, always_engine: None
) -> None:
    assert_learns(corpus_file, pattern, num_workers, chunk_bytes)


@pytest.mark.parametrize("num_workers", [1, 2, 7])
def test_special_tokens_at_the_ends_of_chunks(
    tmp_path: Path, num_workers: int, always_engine: None
) -> None:
    """Special tokens overlap or touch, at both ends of the file; chunks end at each byte."""
    path = tmp_path / "train.txt"
    text = "".join(f"{token}{token}kalo{token} mi" for token in SPECIAL) + "".join(SPECIAL[::-1])
    path.write_text(text, encoding="utf-8")
    for pattern in PATTERNS:
        expected = learn_merges(plain_counts(text.encode(), SPECIAL, pattern), 50)
        for chunk_bytes in (*range(1, 40), 64, 99, 128, len(text)):
            found = train_bpe(
                path,
                256 + len(SPECIAL) - 1 + 50,
                SPECIAL,
                pattern=pattern,
                num_workers=num_workers,
                chunk_bytes=chunk_bytes,
            )
            assert found[1] == expected


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("chunk_bytes", [4000, 1 << 24])
def test_custom_pattern_in_processes(corpus_file: Path, num_workers: int, chunk_bytes: int) -> None:
    """It is counted by processes in plain Python, and cut only at special tokens."""
    assert_learns(corpus_file, r"\w+|\s+|[^\w\s]+", num_workers, chunk_bytes)


def test_kernels_that_are_loaded_count_small_files(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for the named patterns only."""
    engine.load()
    whole = train_bpe(corpus_file, 500, [END]), train_bpe(corpus_file, 500, [END], pattern=".")
    monkeypatch.setattr(
        "lmlib.tokenizer.count_tasks.count_pre_tokens", None
    )  # counts in plain Python
    assert train_bpe(corpus_file, 500, [END]) == whole[0]
    with pytest.raises(TypeError):
        train_bpe(corpus_file, 500, [END], pattern=".")


def test_any_executor_will_do(corpus_file: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert train_bpe(corpus_file, 500, [END], executor=executor, chunk_bytes=5000) == train_bpe(
            corpus_file, 500, [END]
        )
        assert executor.submit(int).result() == 0  # still open: it is the caller's


def test_files_are_apart(tmp_path: Path) -> None:
    """No pre-token continues from one file into the next; carriage returns are kept."""
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
    with pytest.raises(ValueError, match="chunk_bytes is 0"):
        train_bpe(empty, 300, [], chunk_bytes=0)


# -- errors during the work


@pytest.mark.parametrize("stage", ["count", "merge"])
def test_an_error_of_on_progress_ends_the_threads(corpus_file: Path, way: str, stage: str) -> None:
    def fail(stage_now: str, done: int, total: int) -> None:
        if stage_now == stage:
            raise KeyboardInterrupt

    num_threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        train_bpe(corpus_file, 700, [END], num_workers=2, chunk_bytes=2000, on_progress=fail)
    assert threading.active_count() == num_threads


def test_an_error_in_a_counting_thread_ends_the_others(
    corpus_file: Path, always_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = itertools.count()

    def fail_late(path: Path, start: int, end: int) -> bytes:
        if next(chunks) == 5:
            raise OSError("the disk is gone")
        return read_range(path, start, end)

    monkeypatch.setattr("lmlib.tokenizer.parts.read_range", fail_late)
    num_threads = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        train_bpe(corpus_file, 700, [END], num_workers=2, chunk_bytes=2000)
    assert threading.active_count() == num_threads
