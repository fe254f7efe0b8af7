"""The kernels against the reference."""

import random
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.tokenizer import Tokenizer, engine
from lmlib.tokenizer.engine import WordCounts
from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.reference import apply_merges_long, count_pre_tokens, learn_merges
from lmlib.tokenizer.splitting import Splitter
from tests.tokenizer.strategies import raw_bytes, special_lists, texts
from tests.tokenizer.test_reference import small_words


@settings(deadline=None, max_examples=600)
@given(st.one_of(texts.map(str.encode), raw_bytes), special_lists, st.sampled_from(list(PATTERNS)))
def test_counts_equal_the_reference(data: bytes, special_tokens: list[str], pattern: str) -> None:
    splitter = Splitter(pattern, special_tokens)
    assert engine.count_words(data, splitter).to_dict() == count_pre_tokens(data, splitter)


def test_every_character_is_split_as_in_the_reference() -> None:
    """Each code point between a letter and a number, which tells its class and its width."""
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    data = "".join(f"a{c}1" for c in characters).encode()
    splitter = Splitter("gpt2", [])
    assert engine.count_words(data, splitter).to_dict() == count_pre_tokens(data, splitter)


def test_table_grows() -> None:
    """More words than the first tables hold, one of them long."""
    words = Counter({f" {number:x}".encode(): 1 for number in range(30_000)})
    words[b"x" * 100_000] = 1
    data = b"".join(word + b"\n\n" for word in words)
    counted = engine.count_words(data, Splitter("gpt2", [])).to_dict()
    assert counted == count_pre_tokens(data, Splitter("gpt2", []))


def test_add_up_joins_equal_words() -> None:
    parts = [WordCounts.from_dict({b"a": 1, b"bc": 2}), WordCounts.from_dict({b"bc": 3, b"": 4})]
    for use_engine in (False, True):
        total = engine.add_up(parts, use_engine)
        assert {w: n for w, n in total.to_dict().items() if w} == {b"a": 1, b"bc": 5}


@settings(deadline=None, max_examples=200)
@given(small_words, st.integers(0, 30))
def test_merges_equal_the_reference(words: dict[bytes, int], num_merges: int) -> None:
    assert engine.learn_merges(WordCounts.from_dict(words), num_merges) == learn_merges(
        words, num_merges
    )


def test_merges_of_a_corpus_equal_the_reference(corpus: str) -> None:
    words = count_pre_tokens(corpus.encode(), Splitter("gpt2", []))
    assert engine.learn_merges(WordCounts.from_dict(words), 5000) == learn_merges(words, 5000)


def test_one_word_of_a_megabyte() -> None:
    """Nothing quadratic: 2**20 times "a" is 20 merges, and random letters are thousands."""
    doubling = engine.learn_merges(WordCounts.from_dict({b"a" * (1 << 20): 1}), 100)
    assert doubling == [(b"a" * (1 << k), b"a" * (1 << k)) for k in range(20)]
    letters = bytes(random.Random(0).choices(b"abcdefgh", k=1 << 20))
    assert len(engine.learn_merges(WordCounts.from_dict({letters: 1}), 2000)) == 2000


def engine_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Return the ids from the kernels."""
    return tokenizer.encode_bytes(data, use_engine=True).tolist()


def plain_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Return the ids from plain Python."""
    return tokenizer.encode_bytes(data, use_engine=False).tolist()


@settings(deadline=None, max_examples=500)
@given(data=st.one_of(texts.map(str.encode), raw_bytes), pattern=st.sampled_from(list(PATTERNS)))
def test_ids_equal_the_reference(tokenizer: Tokenizer, data: bytes, pattern: str) -> None:
    """And the bytes come back, UTF-8 or not."""
    other = Tokenizer(
        tokenizer.vocab, tokenizer.merges, ["<|endoftext|>", "<|end"], pattern=pattern
    )
    ids = engine_ids(other, data)
    assert ids == plain_ids(other, data)
    assert other.decode_bytes(ids) == data


def test_ids_of_a_long_pre_token_equal_the_reference(tokenizer: Tokenizer) -> None:
    """Around the length where the kernel changes its way of merging, and far beyond."""
    rng = random.Random(1)
    for length in (1, 2, 3, 62, 63, 64, 65, 66, 127, 100_000):
        data = "".join(rng.choices("kalomitheing", k=length)).encode()
        assert engine_ids(tokenizer, data) == apply_merges_long(list(data), tokenizer._merge_table)


def test_full_cache_is_emptied(tokenizer: Tokenizer) -> None:
    """More distinct pre-tokens than the cache holds, twice over."""
    data = b"".join(b" %x" % number for number in range(100_000)) * 2
    ids = engine_ids(tokenizer, data)
    assert tokenizer.decode_bytes(ids) == data
    assert ids == plain_ids(tokenizer, data)


def test_classes_are_those_of_regex() -> None:
    classes = engine.char_classes()
    assert [classes[ord(c)] for c in "aé中1²½ \n\u3000!\u0301\x00\x1c"] == [
        *[1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0, 0]
    ]
    assert np.count_nonzero(classes == 3) == 25  # White_Space of the Unicode standard
