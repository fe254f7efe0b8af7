"""lmlib/serving/scoring.py: the logprobs of a text, against the scores of lmlib.evaluation."""

import math
from itertools import chain

import numpy as np
import pytest
import torch

from lmlib.evaluation import evaluate
from lmlib.serving.scoring import score
from tests.serving.running import MODEL, SEPARATOR_ID
from tests.tiny_models import successor


def test_by_hand() -> None:
    """After each token its successor has probability e / (e + 3), the others 1 / (e + 3)."""
    model = successor(4, 1.0)
    scored = list(chain(*score(model, [0, 1, 3], top=2, stride=4)))
    total = math.log(math.e + 3)
    assert [token.id for token in scored] == [0, 1, 3]
    assert scored[0].logprob is None
    assert scored[1].logprob == pytest.approx(1 - total)
    assert scored[2].logprob == pytest.approx(-total)
    assert scored[1].top[0] == (1, scored[1].logprob)
    assert scored[2].top[0][0] == 2
    assert [len(token.top) for token in scored] == [0, 2, 2]


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 60, 100])
@pytest.mark.parametrize("stride", [1, 18, 100])
def test_the_mean_is_that_of_evaluate(length: int, stride: int) -> None:
    """Also of texts longer than the context, in the windows of a document."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(256, (length,), generator=generator).tolist()
    scored = list(chain(*score(MODEL, [SEPARATOR_ID, *ids], top=0, stride=stride)))
    assert [token.id for token in scored[1:]] == ids
    losses = [-token.logprob for token in scored if token.logprob is not None]
    expected = evaluate(
        MODEL,
        np.array(ids, dtype=np.uint16),
        length,
        context_length=MODEL.params.context_length,
        windows="documents",
        stride=stride,
        start_id=SEPARATOR_ID,
    )
    assert len(losses) == expected.tokens
    assert sum(losses) / length == pytest.approx(expected.loss, rel=1e-5)
