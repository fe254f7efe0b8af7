"""The logprobs of a text's own tokens."""

from collections.abc import Sequence

import torch

from lmlib.model import TransformerLM
from lmlib.model.loss import rows_at_a_time
from lmlib.serving.batch import Scored, with_logprobs


@torch.inference_mode()
def score(model: TransformerLM, ids: Sequence[int], top: int, stride: int) -> list[Scored]:
    """Return each token with its logprob; that of the first is None.

    Of a text longer than the context the first window scores all its tokens, each later one its
    last `stride`, and the last window ends with the text: what `lmlib.evaluation.evaluate` does
    with a document. A text goes through the model alone, so that its logprobs have the same bits
    whatever else the model does.
    """
    device = model.token_embeddings.weight.device
    inputs, targets = torch.tensor(ids[:-1], device=device), ids[1:]
    length = min(model.params.context_length, len(targets))
    stride = min(stride, length)
    scored = [Scored(ids[0])]
    while len(scored) < len(ids):
        done = len(scored) - 1  # targets
        start = min(max(0, done - (length - stride)), len(targets) - length)
        hidden = model.hidden(inputs[start : start + length].unsqueeze(0))[0, done - start :]
        end = start + length
        rows = rows_at_a_time(len(hidden), model.vocab_size, device)
        for first in range(done, end, rows):
            some = targets[first : min(first + rows, end)]
            logits = model.logits(hidden[first - done : first - done + len(some)])
            scored += with_logprobs(logits, some, [top] * len(some))
    return scored
