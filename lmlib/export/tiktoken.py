"""The file format of OpenAI's `tiktoken`: in each line a token, in base64, and its rank."""

import base64

from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.reference import apply_merges


def tiktoken_bpe(tokenizer: Tokenizer) -> bytes:
    """Return the file that `tiktoken.load.load_tiktoken_bpe` reads, lowest rank first.

    A rank is two things at once: the id of a token and its place among the merges. So the ranks
    here are the ids, and the ids of merged tokens must rise in the order of the merges, as they do
    after `train_bpe`. The single bytes may have any ids: no merge makes them. Special tokens are
    not in the file, `tiktoken.Encoding` is given them beside it; their ids are gaps between ranks.

    Pairs are not in the file either: what spells a token is joined, whichever two parts it has.
    That comes to the same where the bytes of each token, alone, are merged into it by its own pair
    after those learnt before: within the borders of a token in a text the merges are those of the
    token alone. Learning by merging makes only such tokens; others can be put together by hand.

    Raises ValueError, naming the token, where one of the two conditions fails.
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
                "other ids. Learn the vocabulary with train_bpe."
            )
        if ids[token] < greatest:
            raise ValueError(
                f"tiktoken: {token!r} of merge {rank} has the id {ids[token]}, lower than that of "
                "a token merged before it; tiktoken merges in the order of ids. Number the tokens "
                "in the order of the merges."
            )
        greatest = ids[token]
    ranks = sorted((ids[token], token) for token in numbers if token in ids)
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in ranks)
