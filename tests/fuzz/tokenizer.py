"""The tokenizer: the kernels and plain Python against an oracle."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from lmlib.tokenizer import Tokenizer, codec, encoder, engine, learning, reference, splitting
from lmlib.tokenizer.counting import WordCounter, WordCounts
from lmlib.tokenizer.encoder import Encoder, TokenTable, Workspace
from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.splitting import Splitter
from lmlib.tokenizer.train import train_bpe
from tests.fuzz.oracle import Oracle, split
from tests.fuzz.texts import SPECIAL, raw, text, vocabulary

patches = pytest.MonkeyPatch()


def prepare() -> None:
    """Use the kernels for every text, and give each the room that is documented, no more."""
    engine.load()
    patches.setattr(codec, "ENGINE_HABIT_BYTES", 0)

    def exact(self: Encoder, size: int, splitter: Splitter) -> Workspace:
        try:
            space = self._idle.pop()
        except IndexError:
            space = Workspace(
                byte_ids=self._byte_ids, merges=self._merges, num_merge_rows=len(self._merges)
            )
        space.make_room(size)
        space.use(self._tables_for(splitter))
        return space

    patches.setattr(Encoder, "_workspace", exact)


def encode(rng: Random, folder: Path) -> None:
    """Encode and decode texts, batches, streams and files."""
    words = vocabulary(rng)
    oracle = Oracle(words)
    patches.setattr(encoder, "CACHE_ROWS", rng.choice((4, 16, 1024)))
    patches.setattr(encoder, "MAX_LOST", rng.choice((0, 3, 1000)))
    patches.setattr(codec, "STREAM_CHARS", rng.choice((1, 2, 7, 64, 300)))
    patches.setattr(splitting, "CUT_WINDOW", rng.choice((1, 5, 64, 1024)))
    engine._text_rules.cache_clear()  # their arrays are to be guarded too
    fast, plain = (
        Tokenizer(words.vocab, words.merges, words.special, pattern=words.pattern) for _ in range(2)
    )
    patches.setattr(plain, "_can_use_engine", False)
    texts = [text(rng) for _ in range(rng.choice((1, 4, 12)))]
    some = set(rng.sample(words.special, rng.randrange(len(words.special) + 1)))
    allowed = rng.choice(("all", "none", some))
    names = some if allowed is some else words.special if allowed == "all" else []
    expected = [oracle.encode(one.encode(), names) for one in texts]
    for tokenizer in (fast, plain):
        for one, ids in zip(texts, expected, strict=True):
            assert tokenizer.encode(one, allowed_special=allowed) == ids, (allowed, one)
        batch = tokenizer.encode_batch(texts, allowed_special=allowed)
        assert [ids.tolist() for ids in batch] == expected, allowed
        assert {ids.dtype for ids in batch} <= {np.dtype(tokenizer.dtype)}
        for one, ids in zip(texts, expected, strict=True):
            given = np.array(ids, rng.choice((np.int64, np.uint32, ">i8")))
            assert tokenizer.decode(given) == tokenizer.decode(ids) == one
        stream = tokenizer.encode_iterable(pieces("".join(texts), rng), allowed_special=allowed)
        assert list(stream) == oracle.encode("".join(texts).encode(), names), allowed

    data = rng.choice((raw(rng), "".join(texts).encode()))
    expected_of_file = oracle.encode(data, words.special)
    source, target = folder / "text", folder / "ids.npy"
    source.write_bytes(data)
    for tokenizer in (fast, plain):
        chunk_bytes = rng.choice((1, 2, 5, 17, 64, 200, 1 << 20))
        if len(words.special) > 50:
            chunk_bytes = max(chunk_bytes, 64)
        workers = rng.choice((1, 2)) if tokenizer is fast else 1  # processes would take seconds
        num_ids = tokenizer.encode_file(
            source, target, num_workers=workers, chunk_bytes=chunk_bytes
        )
        assert np.load(target).tolist() == expected_of_file, (chunk_bytes, data)
        assert num_ids == len(expected_of_file)
        assert bytes(tokenizer.decode_bytes(expected_of_file)) == data
    table = TokenTable(fast.vocab)
    unknown = np.array([rng.choice(expected_of_file or [0]), fast.vocab_size], np.uint32)
    assert table.decode(unknown) is None


def pieces(whole: str, rng: Random) -> list[str]:
    """Return a text in pieces, some of them empty."""
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.randrange(6)))
    return [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def learn(rng: Random, folder: Path) -> None:
    """Count pre-tokens and learn merges."""
    pattern = rng.choice(list(PATTERNS))
    special = rng.sample(SPECIAL, rng.choice((0, 0, 1, 3, len(SPECIAL))))
    data = rng.choice((raw(rng), text(rng).encode())) * rng.choice((1, 1, 3)) + b"a"
    splitter = Splitter(pattern, special)
    engine._text_rules.cache_clear()
    expected: dict[bytes, int] = {}
    for piece, is_special in split(data, special):
        decoded = piece.decode("utf-8", "surrogateescape")
        for word in () if is_special else reference.pre_tokens(decoded, pattern):
            token = word.encode("utf-8", "surrogateescape")
            expected[token] = expected.get(token, 0) + 1
    patches.setattr("lmlib.tokenizer.counting.FIRST_ROWS", rng.choice((128, 1 << 14)))
    patches.setattr("lmlib.tokenizer.counting.FIRST_ARENA", rng.choice((1, 100, 1 << 14)))
    first, second = WordCounter(), WordCounter()
    first.add_text(data, splitter)
    assert first.words().to_dict() == expected, data
    second.add_text(data[: rng.randrange(len(data) + 1)], splitter)
    twice = second.words().to_dict()
    second.add_words(copied(first.words()))
    for word, count in expected.items():
        twice[word] = twice.get(word, 0) + count
    assert second.words().to_dict() == twice, data

    wanted = rng.choice((0, 1, 3, 20, 200))
    merges = reference.learn_merges(expected, wanted)
    patches.setattr(learning, "MERGES_AT_A_TIME", rng.choice((1, 3, 64)))
    assert learning.learn_merges(copied(first.words()), wanted) == merges, (wanted, data)

    patches.setattr(splitting, "CUT_WINDOW", rng.choice((1, 5, 64, 1024)))
    source = folder / "text"
    source.write_bytes(data)
    extra = sum(len(token.encode()) > 1 for token in special)
    chunk_bytes = rng.choice((1, 3, 17, 64, 1 << 20)) if len(data) < 5000 else 1 << 10
    _, learnt = train_bpe(
        source, 256 + extra + wanted, special, pattern=pattern, num_workers=rng.choice((1, 2)),
        chunk_bytes=chunk_bytes,
    )  # fmt: skip
    assert learnt == merges, (wanted, chunk_bytes, data)


def cut(rng: Random, folder: Path) -> None:
    """Cut bytes in two where that changes no pre-token."""
    pattern = rng.choice(list(PATTERNS))
    splitter = Splitter(pattern, rng.sample(SPECIAL, rng.choice((0, 0, 1, 3, 6))))
    engine._text_rules.cache_clear()
    data = rng.choice((raw(rng), text(rng).encode()))
    first = rng.randrange(len(data) + 1)
    last = rng.randrange(first, len(data) + 1)
    edge = splitter.reach_bytes + 4
    first, last = max(first, edge), min(last, len(data) - edge)
    whole = parts(data, splitter)
    for find in (splitter.find_cut, lambda *given: engine.find_cut(splitter, *given)):
        place = find(data, first, last)
        assert place == -1 or first <= place <= last, (place, first, last, data)
        if place >= 0:
            both = parts(data[:place], splitter) + parts(data[place:], splitter)
            assert both == whole, (place, data)


def parts(data: bytes, splitter: Splitter) -> list[str]:
    """Return the pre-tokens and special tokens of bytes."""
    return [
        word
        for piece, is_special in split(data, splitter.special_tokens)
        for decoded in [piece.decode("utf-8", "surrogateescape")]
        for word in ([decoded] if is_special else reference.pre_tokens(decoded, splitter.pattern))
    ]


def copied(words: WordCounts) -> WordCounts:
    """Return a copy whose arrays are guarded."""
    return WordCounts(words.data.copy(), words.starts.copy(), words.counts.copy())
