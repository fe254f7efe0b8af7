"""lmlib/model/mask.py: which earlier tokens a token attends to."""

import pytest
import torch

from lmlib.model.mask import causal_mask, documents_of


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (0, ["x...", "xx..", "xxx.", "xxxx"]),
        (1, ["x...", ".x..", "..x.", "...x"]),
        (2, ["x...", "xx..", ".xx.", "..xx"]),
        (4, ["x...", "xx..", "xxx.", "xxxx"]),
    ],
)
def test_mask_by_hand(window: int, expected: list[str]) -> None:
    mask = causal_mask(torch.arange(4), 4, window)
    assert ["".join("x" if seen else "." for seen in row) for row in mask.tolist()] == expected


def test_rows_at_positions_of_their_own() -> None:
    """Positions 3 and 4 of one row, 0 and 1 of the other, among five keys."""
    mask = causal_mask(torch.tensor([[3, 4], [0, 1]]), 5, 2)
    seen = [[[k for k, sees in enumerate(q) if sees] for q in row] for row in mask.tolist()]
    assert seen == [[[2, 3], [3, 4]], [[0], [0, 1]]]


def test_documents_by_hand() -> None:
    """Separators are 0. The first row begins within a document; the second has an empty one."""
    ids = torch.tensor([[5, 0, 6, 7, 0], [0, 0, 6, 6, 6]])
    assert documents_of(ids, 0).tolist() == [[0, 1, 1, 1, 4], [0, 1, 1, 1, 1]]
    assert documents_of(ids[0], 0).tolist() == [0, 1, 1, 1, 4]
    assert documents_of(ids, 9).tolist() == [[0] * 5] * 2


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (0, ["x....", ".x...", ".xx..", ".xxx.", "....x"]),
        (2, ["x....", ".x...", ".xx..", "..xx.", "....x"]),
    ],
)
def test_a_mask_of_documents_by_hand(window: int, expected: list[str]) -> None:
    mask = causal_mask(torch.arange(5), 5, window, torch.tensor([0, 1, 1, 1, 4]))
    assert ["".join("x" if seen else "." for seen in row) for row in mask.tolist()] == expected
