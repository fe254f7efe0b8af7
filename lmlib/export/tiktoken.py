"""The file format of OpenAI's `tiktoken`: in each line a token, in base64, and its rank."""

import base64

from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.reference import apply_merges


def tiktoken_bpe(tokenizer: Tokenizer) -> bytes:
    """Return the file that `tiktoken.load.load_tiktoken_bpe` reads, lowest rank first.

    tiktoken stores no pairs. It joins any two neighbours whose bytes form a token, those with the
    lowest rank first; the rank is also the id. It gives the same ids as `tokenizer`
    if two conditions hold, as they do after `train_bpe`:

    1. The ids of merged tokens rise in the order of the merges. Both then join in the same order.
    2. Applying the merges up to a token's own to its bytes alone ends with its own merge. Both
       then join the same two parts. It is enough to check each token alone, because its bytes are
       merged in the same way in a longer text. A hand-made vocabulary can break this condition.

    Single bytes may have any ids, since no merge produces them. Special tokens are not in the file:
    pass them to `tiktoken.Encoding`; their ids are gaps between the ranks.

    Raises ValueError, naming the token, if a condition fails.
    """
    ids = {token: token_id for token_id, token in sorted(tokenizer.vocab.items(), reverse=True)}
    numbers = {bytes([byte]): byte for byte in range(256)}  # of bytes and tokens, in merge order
    table: dict[tuple[int, int], tuple[int, int]] = {}
    greatest = -1
    for rank, (left, right) in enumerate(tokenizer.merges):
        token = left + right
        number = numbers.setdefault(token, 256 + rank)
        table[numbers.get(left, -1), numbers.get(right, -1)] = rank, number
        if apply_merges(list(token), table) != [256 + rank]:
            raise ValueError(
                f"tiktoken: merge {rank} joins {left!r} and {right!r}, but the merges before it do "
                f"not split {token!r} into these two; tiktoken, which stores no pairs, would give "
                "other ids: learn the vocabulary with train_bpe"
            )
        if ids[token] < greatest:
            raise ValueError(
                f"tiktoken: {token!r} of merge {rank} has the id {ids[token]}, lower than that of "
                "a token merged before it; tiktoken merges in the order of ids: number the tokens "
                "in the order of the merges"
            )
        greatest = ids[token]
    ranks = sorted((ids[token], token) for token in numbers if token in ids)
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in ranks)
