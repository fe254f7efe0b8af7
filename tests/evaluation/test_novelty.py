"""lmlib/evaluation/novelty.py: distinct n-grams by hand, copied spans against brute force."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib import tokens
from lmlib.evaluation import CopiedSpan, copied_spans, distinct_n, novelty

SEPARATOR_ID = 3
TOKENS = st.lists(st.integers(0, SEPARATOR_ID), max_size=40)  # few ids: long common spans


def is_in(span: list[int], text: list[int]) -> bool:
    return any(text[i : i + len(span)] == span for i in range(len(text) - len(span) + 1))


def longest_length_and_start(sample: list[int], train: list[int]) -> tuple[int, int]:
    """Try every span, longest first; none may contain the separator."""
    for length in range(len(sample), 0, -1):
        for start in range(len(sample) - length + 1):
            span = sample[start : start + length]
            if SEPARATOR_ID not in span and is_in(span, train):
                return length, start
    return 0, 0


@settings(deadline=None, max_examples=300)
@given(samples=st.lists(TOKENS, min_size=1, max_size=4), train=TOKENS)
def test_longest_span_of_each_sample(samples: list[list[int]], train: list[int]) -> None:
    spans = copied_spans(samples, np.array(train, dtype=np.uint16), SEPARATOR_ID)
    for sample, span in zip(samples, spans, strict=True):
        assert (span.length, span.start) == longest_length_and_start(sample, train)
        there = train[span.train_start : span.train_start + span.length]
        assert there == sample[span.start : span.start + span.length]


def test_spans_by_hand() -> None:
    train = np.array([5, 6, 7, 8, 0, 9, 9, 9], dtype=np.uint32)
    samples = [[6, 7, 9, 9, 9, 9], [1, 2], [], [7, 8, 0, 9]]
    assert copied_spans(samples, train) == [
        CopiedSpan(length=3, start=2, train_start=5),
        CopiedSpan(length=0, start=0, train_start=0),
        CopiedSpan(length=0, start=0, train_start=0),
        CopiedSpan(length=4, start=0, train_start=2),
    ]


def test_a_span_ends_at_the_separator() -> None:
    """7 8 | 9: a span across two documents does not count."""
    train = np.array([7, 8, 0, 9])
    (span,) = copied_spans([[7, 8, 0, 9]], train, separator_id=0)
    assert span == CopiedSpan(length=2, start=0, train_start=0)


def test_samples_do_not_run_into_each_other() -> None:
    """The end of one and the start of the next do not form a span, even if train has it."""
    spans = copied_spans([[1, 2], [3, 4]], np.array([1, 2, 3, 4]))
    assert spans == [CopiedSpan(2, 0, 0), CopiedSpan(2, 0, 2)]


def test_no_samples_and_no_training_text() -> None:
    assert copied_spans([], np.array([1, 2])) == []
    assert copied_spans([[1, 2]], np.array([], dtype=np.uint16)) == [CopiedSpan(0, 0, 0)]


def test_a_memory_map_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span may begin in one block and end in a later one."""
    train = np.random.default_rng(0).integers(50, size=1000).astype(np.uint16)
    np.save(tmp_path / "train.npy", train)
    monkeypatch.setattr(novelty, "blocks", lambda text: tokens.blocks(text, size=7))
    sample = [60, *train[123:456].tolist(), 60]
    (span,) = copied_spans([sample], np.load(tmp_path / "train.npy", mmap_mode="r"))
    assert span == CopiedSpan(length=333, start=1, train_start=123)


@settings(deadline=None)
@given(samples=st.lists(TOKENS, max_size=4), n=st.integers(1, 4))
def test_distinct_n_counts_each_ngram(samples: list[list[int]], n: int) -> None:
    found: dict[str, int] = {}
    for sample in samples:
        for i in range(len(sample)):
            if i + n <= len(sample):
                ngram = " ".join(map(str, sample[i : i + n]))
                found[ngram] = found.get(ngram, 0) + 1
    expected = len(found) / sum(found.values()) if found else 0.0
    assert distinct_n(samples, n) == expected


def test_distinct_n_by_hand() -> None:
    """1 2 1 2 and 1 2: tokens 1, 2 of six; pairs 12, 21 of four; none crosses two samples."""
    samples = [[1, 2, 1, 2], [1, 2]]
    assert distinct_n(samples, 1) == 2 / 6
    assert distinct_n(samples, 2) == 2 / 4
    assert distinct_n(samples, 3) == 1.0
    assert distinct_n(samples, 5) == 0.0
    assert distinct_n([], 1) == 0.0
