"""lmlib/training/copying.py: which targets weigh more, how much, and for how long."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.data import TokenDataset
from lmlib.tokens import TokenInfo
from lmlib.training import copying
from lmlib.training.copying import CopyWeights, copy_weight_at, repeats, sample

ROWS = st.integers(1, 12).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, 5), min_size=length, max_size=length), min_size=1, max_size=4
    )
)


@given(rows=ROWS)
@settings(deadline=None)
def test_an_id_repeats_where_it_stands_earlier_in_its_row(rows: list[list[int]]) -> None:
    expected = [[row[i] in row[:i] for i in range(len(row))] for row in rows]
    assert repeats(torch.tensor(rows)).tolist() == expected


def test_rare_repeated_targets_weigh_more() -> None:
    """Tokens 7 and 8 are rare. Row 1 repeats 7, its first input; row 2 has 8 once, and repeats 1.

    One of six targets has weight 5 and five have 1: their mean is 10 / 6.
    """
    weigh = CopyWeights(torch.tensor([False] * 7 + [True] * 2))
    inputs = torch.tensor([[7, 1, 2], [1, 1, 8]])
    targets = torch.tensor([[1, 2, 7], [1, 8, 1]])
    weights = weigh(inputs, targets, 5.0)
    expected = torch.tensor([[1.0, 1.0, 5.0], [1.0, 1.0, 1.0]]) * 6 / 10
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(weigh(inputs, targets, 1.0), torch.ones(2, 3))


def test_nothing_is_copied_from_another_document() -> None:
    """0 separates. Of 7 and 8, rare and repeated, only the 8 stands earlier in its document.

    The separator is rare here: it begins each document, and never repeats within one.
    """
    weigh = CopyWeights(torch.tensor([True] + [False] * 6 + [True] * 2))
    inputs, targets = torch.tensor([[0, 7, 0, 8, 7]]), torch.tensor([[7, 0, 8, 7, 8]])
    weights = weigh(inputs, targets, 5.0, separator_id=0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1.0, 1.0, 1.0, 5.0]]) * 5 / 9)
    everywhere = torch.tensor([[1.0, 5.0, 1.0, 5.0, 5.0]]) * 5 / 17
    torch.testing.assert_close(weigh(inputs, targets, 5.0), everywhere)


def test_rare_is_less_than_a_thousandth_of_the_text() -> None:
    """Of 4,000 tokens 4 are a thousandth, and not rare; 3 are, and so is one that never occurs."""
    tokens = np.array([0] * 3993 + [1] * 4 + [2] * 3, dtype=np.uint16)
    data = TokenDataset(tokens, TokenInfo(4000, 4, "", 1, 1))
    assert CopyWeights.of(data, torch.device("cpu")).rare.tolist() == [False, False, True, True]


def test_the_weight_falls_in_a_straight_line() -> None:
    """From 11 to 1 over half of 20 steps, by 1 a step."""
    weights = [copy_weight_at(step, 20, 11.0, 0.5) for step in range(1, 21)]
    assert weights == pytest.approx([10, 9, 8, 7, 6, 5, 4, 3, 2, 1, *[1] * 10])
    assert copy_weight_at(1, 20, 11.0, 0.0) == 1


def test_a_long_text_is_sampled_evenly() -> None:
    """Blocks of 10 from all over 1,000 tokens; a shorter text is taken whole."""
    tokens = np.arange(1000, dtype=np.uint16)
    blocks = list(sample(tokens, 50, size=10))
    assert [block[0] for block in blocks] == [0, 247, 495, 742, 990]
    assert {len(block) for block in blocks} == {10}
    assert np.concatenate(list(sample(tokens, 1000, size=10))).tolist() == tokens.tolist()


def test_rare_tokens_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share is of the tokens that are counted."""
    monkeypatch.setattr(copying, "COUNTED", 1 << 22)
    tokens = np.zeros(3 << 22, dtype=np.uint16)
    tokens[::500] = 1
    tokens[::5000] = 2
    data = TokenDataset(tokens, TokenInfo(len(tokens), 4, "", 1, 1))
    assert CopyWeights.of(data, torch.device("cpu")).rare.tolist() == [False, False, True, True]
