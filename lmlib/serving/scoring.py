"""The logprobs of a text's own tokens."""

from collections.abc import Iterator, Sequence

import torch

from lmlib.model import TransformerLM
from lmlib.model.loss import rows_at_a_time
from lmlib.serving.batch import Scored, with_logprobs


def score(
    model: TransformerLM, ids: Sequence[int], top: int, stride: int
) -> Iterator[list[Scored]]:
    """Yield the tokens with their logprobs, in order, a window at a time.

    The first token's logprob is None. Of a text longer than the context the first window scores all
    its tokens, each later one its last `stride`, and the last window ends with the text: what
    `lmlib.evaluation.evaluate` does with a document. A text goes through the model alone, so that
    its logprobs have the same bits whatever else the model does.
    """
    device = model.token_embeddings.weight.device
    inputs, targets = torch.tensor(ids[:-1], device=device), ids[1:]
    length = min(model.params.context_length, len(targets))
    stride = min(stride, length)
    yield [Scored(ids[0])]
    done = 0  # targets
    while done < len(targets):
        start = min(max(0, done - (length - stride)), len(targets) - length)
        window = inputs[start : start + length].unsqueeze(0)
        scored: list[Scored] = []
        with torch.inference_mode():
            hidden = model.hidden(window)[0, done - start :]
            new = targets[done : start + length]
            rows = rows_at_a_time(len(new), model.vocab_size, device)
            for first in range(0, len(new), rows):
                some = new[first : first + rows]
                logits = model.logits(hidden[first : first + rows])
                scored += with_logprobs(logits, some, [top] * len(some))
        done = start + length
        yield scored
