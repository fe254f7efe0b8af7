"""Windows that begin at documents: all of a text, and those around a place of a long one."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib import data, windows
from lmlib.data import TokenDataset, _generator, epoch_cells
from lmlib.tokens import TokenInfo
from lmlib.windows import LocalWindows, document_starts

SEPARATOR_ID = 0
INFO = TokenInfo(
    tokens=0, vocab_size=100, tokenizer_sha256="ab", source_bytes=1, documents=1, separator_id=0
)


def text(lengths: list[int]) -> np.ndarray:
    """Return documents of these lengths, each with a separator after it."""
    return np.array([t for n in lengths for t in [*[1] * n, SEPARATOR_ID]], dtype=np.uint16)


def all_starts(local: LocalWindows) -> list[int]:
    """Return the first token of every window, in order."""
    owners = local.owners(np.arange(len(local.tokens) - 1))
    return np.unique(owners).tolist()


documents = st.lists(st.integers(0, 12) | st.integers(0, 300), min_size=1, max_size=60)


@given(lengths=documents, context_length=st.integers(1, 4))
@settings(deadline=None, max_examples=200)
def test_local_windows_cover_the_text(lengths: list[int], context_length: int) -> None:
    """As those of `document_starts` do.

    Each token but the first is a target; a document that fits is whole in a window; a window owns
    at most `context_length` tokens, and is within the text.
    """
    tokens = text([*lengths, 64 * context_length])
    local = LocalWindows(tokens, SEPARATOR_ID, context_length)
    starts = all_starts(local)
    assert starts[0] == 0
    assert max(np.diff([*starts, len(tokens) - 1])) <= context_length
    assert starts[-1] + context_length + 1 == len(tokens)
    ends = np.flatnonzero(tokens == SEPARATOR_ID).tolist()
    for first, end in zip([0, *ends], ends, strict=False):
        if end - first <= context_length:
            assert any(s <= first and end <= s + context_length for s in starts)


@given(lengths=documents, context_length=st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_an_owner_is_the_last_window_that_begins_at_or_before(
    lengths: list[int], context_length: int
) -> None:
    tokens = text([*lengths, 64 * context_length])
    local = LocalWindows(tokens, SEPARATOR_ID, context_length)
    starts = np.array(all_starts(local))
    places = np.arange(len(tokens) - 1)
    assert (
        local.owners(places).tolist()
        == starts[starts.searchsorted(places, side="right") - 1].tolist()
    )


@given(lengths=documents, context_length=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_windows_do_not_depend_on_what_was_asked_before(
    lengths: list[int], context_length: int, seed: int
) -> None:
    tokens = text([*lengths, 64 * context_length])
    places = np.arange(len(tokens) - 1)
    expected = LocalWindows(tokens, SEPARATOR_ID, context_length).owners(places)
    shuffled = places.copy()
    np.random.default_rng(seed).shuffle(shuffled)
    other = LocalWindows(tokens, SEPARATOR_ID, context_length)
    assert other.owners(shuffled).tolist() == expected[shuffled].tolist()


def test_all_windows_but_a_few_begin_at_documents() -> None:
    """Of documents that fit; the last window ends with the text."""
    lengths = random.Random(0).choices(range(1, 20), k=2000)
    tokens = text(lengths)
    starts = all_starts(LocalWindows(tokens, SEPARATOR_ID, 20))
    assert (tokens[starts[1:-1]] == SEPARATOR_ID).all()
    listed = document_starts(tokens, SEPARATOR_ID, 20)
    assert len(starts) == pytest.approx(len(listed), rel=0.02)


def test_without_a_separator_windows_lie_side_by_side() -> None:
    tokens = np.ones(1000, dtype=np.uint16)
    for separator_id in (None, SEPARATOR_ID):
        starts = all_starts(LocalWindows(tokens, separator_id, 10))
        assert starts == [*range(0, 981, 10), 989]


def test_few_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "KEPT_BLOCKS", 3)
    local = LocalWindows(text([5] * 1000), SEPARATOR_ID, 4)
    expected = all_starts(LocalWindows(local.tokens, SEPARATOR_ID, 4))
    assert all_starts(local) == expected
    assert len(local._blocks) == 3


def test_a_text_too_short_for_blocks() -> None:
    with pytest.raises(ValueError, match="639 tokens are too few for blocks of 320; list the wind"):
        LocalWindows(np.ones(639, dtype=np.uint16), None, 10)


def test_as_a_sequence() -> None:
    """The owners of tokens side by side, each another window: what validation picks from."""
    local = LocalWindows(text([5] * 400), SEPARATOR_ID, 10)
    assert len(local) == 239
    assert local[0] == 0
    assert local[-1] == local[238] == local.owners(np.array([2380]))[0]
    assert local[3:6] == [local[3], local[4], local[5]]
    assert len(set(local[:])) == 239
    with pytest.raises(IndexError):
        local[239]


# -- cells


@given(
    num_cells=st.integers(1, 200),
    cells_of_region=st.integers(1, 60),
    context_length=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_an_epoch_takes_each_cell_once_and_region_after_region(
    num_cells: int, cells_of_region: int, context_length: int, seed: int
) -> None:
    sizes = {"cells_of_region": cells_of_region, "seed": seed}
    firsts = epoch_cells(np.arange(3 * num_cells), num_cells, context_length, **sizes)
    for epoch in firsts.reshape(3, num_cells):
        offset = epoch.min()
        assert offset < context_length
        cells = (epoch - offset) // context_length
        assert sorted(cells.tolist()) == list(range(num_cells))
        regions = cells // cells_of_region
        assert np.count_nonzero(np.diff(regions)) == -(-num_cells // cells_of_region) - 1
    one_by_one = [
        int(epoch_cells(np.array([at]), num_cells, context_length, **sizes)[0])
        for at in range(0, 3 * num_cells, 7)
    ]
    assert one_by_one == firsts[::7].tolist()


def test_epochs_and_regions_differ_in_their_order() -> None:
    firsts = epoch_cells(np.arange(40 * 100), 100, 10, cells_of_region=30, seed=1).reshape(40, 100)
    offsets = firsts.min(axis=1)
    assert set(offsets.tolist()) == set(range(10))
    cells = (firsts - offsets[:, None]) // 10
    assert len({tuple(row) for row in cells.tolist()}) == 40
    assert {row[0] // 30 for row in cells.tolist()} == {0, 1, 2, 3}  # each region comes first once
    within = {tuple(row[row // 30 == region] % 30) for row in cells[:1] for region in range(3)}
    assert len(within) == 3


def test_every_order_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two epochs, and of the four regions of each."""
    begun = []

    def noted(*seeds: int) -> np.random.Generator:
        begun.append(_generator(*seeds).integers(1 << 62))
        return _generator(*seeds)

    monkeypatch.setattr("lmlib.data._generator", noted)
    epoch_cells(np.arange(200), 100, 10, cells_of_region=30, seed=1)
    assert len(set(begun)) == len(begun) == 10


def test_cells_of_more_tokens_than_any_disk_has() -> None:
    """In constant memory, at once."""
    firsts = epoch_cells(
        np.arange(10**12, 10**12 + 64), 10**13, 1000, cells_of_region=1 << 16, seed=1
    )
    assert len(set(firsts.tolist())) == 64
    assert firsts.max() - firsts.min() <= (1 << 16) * 1000


# -- batches


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> TokenDataset:
    """Numbered tokens in documents of 7, which are too many to be listed."""
    monkeypatch.setattr(data, "LISTED_TOKENS", 1000)
    monkeypatch.setattr(data, "REGION_TOKENS", 500)
    tokens = np.arange(2000) + 1
    tokens[7::8] = SEPARATOR_ID
    return TokenDataset(tokens.astype(np.uint16), INFO)


def starts_of(dataset: TokenDataset, steps: range, **options: Any) -> list[int]:
    """Return where the windows of batches begin, which their tokens tell."""
    found = {dataset.tokens[at : at + 10].tobytes(): at for at in range(len(dataset.tokens) - 10)}
    inputs = [
        dataset.batch(step, seed=1, batch_size=11, context_length=10, **options)[0]
        for step in steps
    ]
    rows = np.concatenate([rows.numpy() for rows in inputs]).astype(np.uint16)
    return [found[row.tobytes()] for row in rows]


@pytest.mark.parametrize("kind", ["documents", "isolated"])
def test_no_window_twice_in_an_epoch_of_a_long_text(long: TokenDataset, kind: str) -> None:
    """199 windows in 18 batches of 11 and one place; the next epoch begins in the 19th batch."""
    starts = starts_of(long, range(1, 38), windows=kind, order="epochs")
    windows = set(all_starts(LocalWindows(long.tokens, 0, 10)))
    for epoch in (starts[:199], starts[199:398]):
        assert len(set(epoch)) == 199
        assert set(epoch) <= windows
    assert starts[:199] != starts[199:398]


def test_tokens_of_a_long_text_are_equally_likely(long: TokenDataset) -> None:
    """A window is drawn as often as the tokens that it owns: 4,400 draws of 1,999 tokens."""
    starts = starts_of(long, range(1, 401), windows="documents", order="random")
    every = np.array(all_starts(LocalWindows(long.tokens, 0, 10)))
    owned = np.diff([*every, 1999])
    counts = np.array([starts.count(start) for start in every.tolist()])
    expected = 4400 * owned / 1999
    assert counts.sum() == 4400
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("order", ["random", "epochs"])
def test_a_batch_of_a_long_text_depends_on_seed_and_step_alone(
    long: TokenDataset, order: Any
) -> None:
    sizes: dict[str, Any] = {"batch_size": 4, "context_length": 10, "windows": "documents"}
    batches = [long.batch(step, seed=1, order=order, **sizes)[0] for step in range(1, 40)]
    again = TokenDataset(long.tokens, replace(INFO))
    assert (again.batch(30, seed=1, order=order, **sizes)[0] == batches[29]).all()
    assert not (again.batch(30, seed=2, order=order, **sizes)[0] == batches[29]).all()


def test_the_windows_of_a_short_text_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the bound, and with it."""
    dataset = TokenDataset(text([5] * 200), INFO)
    monkeypatch.setattr(data, "LISTED_TOKENS", 1200)
    assert isinstance(dataset.starts(10, "documents"), np.ndarray)
    monkeypatch.setattr(data, "LISTED_TOKENS", 1199)
    assert isinstance(TokenDataset(dataset.tokens, INFO).starts(10, "documents"), LocalWindows)
    assert isinstance(TokenDataset(dataset.tokens, INFO).starts(10, "any"), range)
