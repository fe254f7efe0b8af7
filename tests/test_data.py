"""Token files and batches: what a file must contain, and which windows a batch takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.data import (
    TokenDataset,
    _signed,
    document_starts,
    epoch_starts,
    get_batch,
    permute,
)
from lmlib.files import sha256_file
from lmlib.tokens import (
    TokenInfo,
    find_separators,
    first_separators,
)
from tests.token_files import write_tokens

INFO = TokenInfo(tokens=50, vocab_size=100, tokenizer_sha256="ab", source_bytes=180, documents=3)


def write(folder: Path, tokens: np.ndarray | None = None, info: TokenInfo = INFO) -> Path:
    tokens = np.arange(50, dtype=np.uint16) if tokens is None else tokens
    return write_tokens(folder / "train", tokens, info)


# -- batches


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = get_batch(np.arange(100), 5, 7)
    assert inputs.shape == targets.shape == (5, 7)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(targets, inputs + 1)  # the tokens are their own positions
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(7))


def test_starts_are_uniform_from_the_first_to_the_last_window() -> None:
    """n - context_length = 5 starts, 0 to 4: the last window's last target is the last token.

    10,000 draws: each start 2,000 times, standard deviation 40.
    """
    inputs, targets = get_batch(np.arange(8), 10_000, 3, rng=np.random.default_rng(0))
    counts = torch.bincount(inputs[:, 0])
    assert len(counts) == 5
    assert (counts - 2000).abs().max() < 5 * 40
    assert targets.max() == 7


def test_one_window() -> None:
    inputs, targets = get_batch(np.array([5, 6, 7], dtype=np.uint16), 2, 2)
    assert inputs.tolist() == [[5, 6], [5, 6]]
    assert targets.tolist() == [[6, 7], [6, 7]]


def test_uint32_ids_above_65535_do_not_wrap() -> None:
    inputs, targets = get_batch(np.array([70_000, 2**32 - 1], dtype=np.uint32), 1, 1)
    assert inputs.tolist() == [[70_000]]
    assert targets.tolist() == [[2**32 - 1]]


def test_batches_differ_without_a_generator() -> None:
    """The global generator is neither seeded nor used."""
    tokens = np.arange(100_000)
    np.random.seed(0)  # noqa: NPY002
    first, _ = get_batch(tokens, 8, 4)
    np.random.seed(0)  # noqa: NPY002
    second, _ = get_batch(tokens, 8, 4)
    assert not torch.equal(first, second)


def test_too_few_tokens_for_a_batch() -> None:
    with pytest.raises(ValueError, match="get_batch: 4 tokens are too few for context_length=4"):
        get_batch(np.arange(4), 1, 4)


@pytest.mark.parametrize("order", ["random", "epochs"])
def test_batch_is_a_pure_function_of_seed_and_step(tmp_path: Path, order: str) -> None:
    sizes: dict[str, Any] = {"batch_size": 4, "context_length": 8, "order": order}
    dataset = TokenDataset.open(write(tmp_path))
    inputs, targets = dataset.batch(7, seed=1, **sizes)
    dataset.batch(8, seed=1, **sizes)  # what was drawn before changes nothing
    again, _ = TokenDataset.open(tmp_path / "train").batch(7, seed=1, **sizes)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, inputs + 1)
    for step, seed in ((8, 1), (7, 2), (1, 7)):
        assert not torch.equal(inputs, dataset.batch(step, seed=seed, **sizes)[0])


def test_random_order_draws_with_the_generator_of_seed_and_step(tmp_path: Path) -> None:
    """The batches of past runs do not change."""
    inputs, _ = TokenDataset.open(write(tmp_path)).batch(7, seed=1, batch_size=4, context_length=8)
    starts = np.random.Generator(np.random.PCG64([1, 7])).integers(0, 50 - 8, size=4)
    assert inputs[:, 0].tolist() == starts.tolist()


@pytest.mark.parametrize("order", ["random", "epochs"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_tokens_kept_on_a_device_give_the_same_batches(dtype: Any, order: Any) -> None:
    """They are kept in signed integers; the largest ids would be negative there."""
    tokens = (np.iinfo(dtype).max - np.arange(500)).astype(dtype)
    from_file, from_device = (TokenDataset(tokens, INFO) for _ in range(2))
    from_device._on_device = _signed(tokens)
    for step in (1, 2):
        sizes: dict[str, Any] = {"batch_size": 4, "context_length": 8, "order": order}
        expected = from_file.batch(step, seed=1, **sizes)
        batch = from_device.batch(step, seed=1, **sizes)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch, expected, strict=True))
        assert batch[0].dtype == torch.int64


# -- epochs


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_permute_is_a_permutation(n: int, seed: int) -> None:
    order = permute(np.arange(n), n, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(n))


def test_permute_sends_each_place_anywhere() -> None:
    """7 places, 1,400 permutations: each pair occurs 200 times, standard deviation 13."""
    counts = np.zeros((7, 7), dtype=int)
    for seed in range(1400):
        counts[np.arange(7), permute(np.arange(7), 7, np.random.default_rng(seed))] += 1
    assert abs(counts - 200).max() < 5 * 13


def test_permute_leaves_no_order_behind() -> None:
    """Neighbours are as far apart as in a random permutation: 1/3 of the length on average."""
    n = 100_000
    order = permute(np.arange(n), n, np.random.default_rng(0))
    assert abs(np.diff(order)).mean() / n == pytest.approx(1 / 3, abs=0.005)
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.02


def test_permute_of_more_windows_than_memory_holds() -> None:
    places = permute(np.arange(1000), 10**15, np.random.default_rng(0))
    assert len(set(places.tolist())) == 1000
    assert places.max() < 10**15
    assert places.mean() == pytest.approx(10**15 / 2, rel=0.1)


@given(
    num_tokens=st.integers(4, 300),
    context_length=st.integers(1, 40),
    batch_size=st.integers(4, 50),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_an_epoch_takes_each_window_once(
    num_tokens: int, context_length: int, batch_size: int, seed: int
) -> None:
    """Concatenated batches are concatenated epochs, whatever the batch size."""
    context_length = min(context_length, num_tokens - 1)
    windows = max(1, (num_tokens - context_length) // context_length)
    steps = -(-3 * windows // batch_size)
    dataset = TokenDataset(np.arange(num_tokens, dtype=np.uint16), INFO)
    firsts = [
        start
        for step in range(1, steps + 1)
        for start in dataset.batch(
            step, seed=seed, batch_size=batch_size, context_length=context_length, order="epochs"
        )[0][:, 0].tolist()
    ]
    for epoch in range(3):
        starts = sorted(firsts[epoch * windows : (epoch + 1) * windows])
        offset = starts[0]
        assert starts == [offset + i * context_length for i in range(windows)]
        left_out = num_tokens - 1 - windows * context_length  # the last token is only a target
        assert left_out < 2 * context_length
        assert starts[-1] + context_length + 1 <= num_tokens


def test_epochs_differ_in_offset_and_order() -> None:
    epochs = epoch_starts(np.arange(40 * 99), 1000, 10, seed=1).reshape(40, 99)
    offsets = epochs.min(axis=1)
    assert set(offsets.tolist()) == set(range(10))
    orders = {tuple(epoch - offset) for epoch, offset in zip(epochs, offsets, strict=True)}
    assert len(orders) == 40


# -- windows that begin at documents

SEPARATOR_ID = 9


@pytest.mark.parametrize(
    ("lengths", "context_length", "expected"),
    [
        ([3, 3, 3], 4, [0, 3, 7]),  # one document fits
        ([3, 3, 3, 3], 8, [0, 7]),  # two fit: the third begins the next window
        ([10, 3], 4, [0, 4, 8, 10]),  # a long one goes on; the last window ends with the text
        ([1, 9, 1], 4, [0, 1, 5, 9]),
        ([2, 2, 4], 5, [0, 5]),  # one begins with the last target of a window
        ([30], 10, [0, 10, 20]),
        ([2], 2, [0]),
    ],
)
def test_windows_at_documents(lengths: list[int], context_length: int, expected: list[int]) -> None:
    """Documents of so many tokens with a separator after each; the first has none before it."""
    tokens = np.array([t for n in lengths for t in [*[1] * n, SEPARATOR_ID]], dtype=np.uint16)
    assert document_starts(tokens, SEPARATOR_ID, context_length).tolist() == expected


@given(
    tokens=st.lists(st.integers(7, 9), min_size=2, max_size=60), context_length=st.integers(1, 12)
)
@settings(deadline=None, max_examples=200)
def test_windows_at_documents_cover_the_text(tokens: list[int], context_length: int) -> None:
    """Each token but the first is a target, and each document that fits is whole in a window."""
    context_length = min(context_length, len(tokens) - 1)
    starts = document_starts(np.array(tokens, dtype=np.uint16), SEPARATOR_ID, context_length)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    targets = {start + i for start in starts.tolist() for i in range(1, context_length + 1)}
    assert targets == set(range(1, len(tokens)))
    ends = [i for i, token in enumerate(tokens) if token == SEPARATOR_ID]
    for first, end in zip([0, *ends], ends, strict=False):
        if end - first <= context_length:
            assert any(s <= first and end <= s + context_length for s in starts.tolist())


def test_windows_at_documents_without_a_separator() -> None:
    assert document_starts(np.arange(50), None, 20).tolist() == [0, 20, 29]


@pytest.mark.parametrize("order", ["random", "epochs"])
@pytest.mark.parametrize("windows", ["documents", "isolated"])
def test_batches_of_windows_at_documents(order: Any, windows: str) -> None:
    """Documents of 4 tokens and their separator: all windows of 6 begin at a separator but two.

    In `epochs` each stands once in the first 11 places.
    """
    tokens = np.array([1, 2, 3, 4, SEPARATOR_ID] * 11, dtype=np.uint16)
    dataset = TokenDataset(tokens, replace(INFO, tokens=55, separator_id=SEPARATOR_ID))
    sizes: dict[str, Any] = {"batch_size": 11, "context_length": 6, "windows": windows}
    rows = dataset.batch(1, seed=1, order=order, **sizes)[0].tolist()
    assert all(
        row[0] == SEPARATOR_ID or row in (rows_at(tokens, 0), rows_at(tokens, 48)) for row in rows
    )
    if order == "epochs":
        starts = dataset.starts(6, "documents")
        assert sorted(rows) == sorted(rows_at(tokens, int(start)) for start in starts)


def rows_at(tokens: np.ndarray, start: int) -> list[int]:
    return tokens[start : start + 6].tolist()


def test_a_separator_beyond_the_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"^separator_id is 100; the ids are 0 to 99$"):
        replace(INFO, separator_id=100)


# -- what a run requires


def test_require_context(tmp_path: Path) -> None:
    """A sequence of 49 inputs needs 50 tokens: the last is a target."""
    dataset = TokenDataset.open(write(tmp_path))
    dataset.require_context(49)
    message = (
        r"train: 50 tokens are too few for model.context_length=50, which needs at least 51; "
        "lower it or take a larger corpus$"
    )
    with pytest.raises(ValueError, match=message):
        dataset.require_context(50)


def test_require_tokenizer(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}", encoding="utf-8")
    info = replace(INFO, tokenizer_sha256=sha256_file(tokenizer))
    dataset = TokenDataset.open(write(tmp_path, info=info))
    dataset.require_tokenizer(tokenizer)
    tokenizer.write_text("{ }", encoding="utf-8")
    message = r"train: was not made with the tokenizer .*tokenizer\.json$"
    with pytest.raises(ValueError, match=message):
        dataset.require_tokenizer(tokenizer)


def test_separators_of_several_blocks() -> None:
    """There are more tokens than one block of 2**22 holds, and a separator in each block."""
    tokens = np.ones((1 << 22) + 2, dtype=np.uint16)
    tokens[[0, -1]] = 0
    assert find_separators(tokens, 0).tolist() == [0, len(tokens) - 1]
    assert first_separators(tokens, 0, 5) == [0, len(tokens) - 1]
    assert first_separators(tokens, 0, 1) == [0]
    assert first_separators(tokens, None, 5) == []
