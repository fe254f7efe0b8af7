"""What a tokenizer should do, in the plainest way: from lmlib, only the split by a pattern."""

from collections.abc import Collection, Iterator

from lmlib.tokenizer import reference
from tests.fuzz.texts import Vocabulary


class Oracle:
    """Encodes and decodes with one vocabulary; slow."""

    def __init__(self, words: Vocabulary) -> None:
        self.pattern = words.pattern
        self.vocab = dict(words.vocab)
        ids = {token: token_id for token_id, token in self.vocab.items()}
        for token in map(str.encode, words.special):
            if token not in ids:
                ids[token] = max(self.vocab) + 1
                self.vocab[ids[token]] = token
        self.ids = ids
        self.ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(words.merges):
            self.ranks.setdefault((ids[left], ids[right]), (rank, ids[left + right]))

    def encode(self, data: bytes, special: Collection[str]) -> list[int]:
        """Return the ids of bytes, which need not be UTF-8."""
        result = []
        for piece, is_special in split(data, special):
            if is_special:
                result.append(self.ids[piece])
                continue
            text = piece.decode("utf-8", "surrogateescape")
            for word in reference.pre_tokens(text, self.pattern):
                ids = [self.ids[bytes([b])] for b in word.encode("utf-8", "surrogateescape")]
                short = len(ids) < 200  # above, the other one is as plain and less slow
                merge = reference.apply_merges if short else reference.apply_merges_long
                result += merge(ids, self.ranks)
        return result

    def decode(self, ids: list[int]) -> bytes:
        """Return the bytes of ids."""
        return b"".join(map(self.vocab.__getitem__, ids))


def split(data: bytes, special: Collection[str]) -> Iterator[tuple[bytes, bool]]:
    """Yield (piece, is_special): from left to right, the longest special token that fits."""
    tokens = sorted(map(str.encode, special), key=len, reverse=True)
    by_head: dict[int, list[bytes]] = {}
    for token in tokens:
        by_head.setdefault(token[0], []).append(token)
    start = at = 0
    while at < len(data):
        for token in by_head.get(data[at], ()):
            if data.startswith(token, at):
                if start < at:
                    yield data[start:at], False
                yield token, True
                start = at = at + len(token)
                break
        else:
            at += 1
    if start < len(data):
        yield data[start:], False
