"""The file format of OpenAI's `tiktoken`: in each line a token, in base64, and its rank."""

import base64

from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.reference import apply_merges


def tiktoken_bpe(tokenizer: Tokenizer) -> bytes:
    """Return the file that `tiktoken.load.load_tiktoken_bpe` reads, lowest rank first.

    tiktoken stores no pairs. It joins any two neighbours whose bytes form a token, and first those
    whose token has the lowest rank; the rank is also the id. It gives the same ids as `tokenizer`
    if two conditions hold, as they do after `train_bpe`:

    1. The ids of merged tokens rise in the order of the merges: both join in the same order.
    2. The bytes of each token, on their own, become that token by its own merge, when they are
       merged with the merges up to that one: both join the same two parts. It is enough to check
       tokens on their own, because in a longer text the bytes of a token are merged as they are
       alone. A vocabulary put together by hand can break this condition.

    Single bytes may have any ids, since no merge makes them. Special tokens are not in the file:
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
                f"not make these two of {token!r}; tiktoken, which keeps no pairs, would give "
                "other ids. Learn the vocabulary with train_bpe"
            )
        if ids[token] < greatest:
            raise ValueError(
                f"tiktoken: {token!r} of merge {rank} has the id {ids[token]}, lower than that of "
                "a token merged before it; tiktoken merges in the order of ids. Number the tokens "
                "in the order of the merges"
            )
        greatest = ids[token]
    ranks = sorted((ids[token], token) for token in numbers if token in ids)
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in ranks)
