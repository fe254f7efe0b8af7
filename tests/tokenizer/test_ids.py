"""lmlib/tokenizer/ids.py: ids in any form; the tests of `decode` and `generate` try many more."""

import numpy as np
import pytest
import torch

from lmlib.tokenizer.ids import whole_ids


def test_ids_become_python_ints() -> None:
    for ids in (
        [1, np.int8(2)],
        (1, 2),
        np.array([1, 2], ">u4"),
        torch.tensor([1, 2]),
        {1: 0, 2: 0},
    ):
        found = whole_ids(ids, "here")
        assert found == [1, 2]
        assert all(type(token_id) is int for token_id in found)


def test_the_first_that_is_no_id_is_named() -> None:
    with pytest.raises(ValueError, match=r"^here: 2.5 is not a token id; ids are whole numbers$"):
        whole_ids([1, 2.5, "a"], "here")
    with pytest.raises(ValueError, match=r"^here: ids has shape \(1, 2\); pass one row at a time$"):
        whole_ids(np.array([[1, 2]]), "here")
