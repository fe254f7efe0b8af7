"""The reference against blackboard definitions."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.reference import (
    apply_merges,
    apply_merges_long,
    count_pre_tokens,
    learn_merges,
    pre_tokens,
)
from lmlib.tokenizer.splitting import Splitter
from tests.tokenizer.strategies import (
    LONG,
    brute_force_merges,
    plain_counts,
    raw_bytes,
    small_words,
    special_lists,
)


def test_learn_merges_by_hand() -> None:
    """The example of Sennrich et al.: low x5, lower x2, widest x3, newest x6."""
    words = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
    assert learn_merges(words, 6) == [
        *[(b"s", b"t"), (b"e", b"st"), (b"o", b"w"), (b"l", b"ow"), (b"w", b"est"), (b"n", b"e")]
    ]


def test_ties_go_to_the_greater_pair_of_bytes() -> None:
    """A space is the smallest here, though GPT-2 writes it as the large character U+0120."""
    assert learn_merges({b" a": 1, b"ba": 1}, 1) == [(b"b", b"a")]


def test_ties_compare_the_left_token_first() -> None:
    """("ab", "a") comes before ("a", "cz"), though "acz" is greater than "aba"."""
    words = {b"ab": 3, b"aba": 1, b"acz": 1}
    assert learn_merges(words, 2) == [(b"a", b"b"), (b"c", b"z")]
    assert learn_merges(words, 4)[2:] == [(b"ab", b"a"), (b"a", b"cz")]


@settings(deadline=None, max_examples=200)
@given(small_words, st.integers(0, 30))
def test_learn_merges_equals_brute_force(words: dict[bytes, int], num_merges: int) -> None:
    assert learn_merges(words, num_merges) == brute_force_merges(Counter(words), num_merges)


def test_special_tokens_are_not_counted() -> None:
    counts = count_pre_tokens(b"a<x>a b\xff<x><x>", Splitter("gpt2", ["<x>"]))
    assert counts == {b"a": 2, b" b": 1, b"\xff": 1}


@settings(deadline=None, max_examples=200)
@given(raw_bytes, special_lists, st.sampled_from([*PATTERNS, r"\w+|\s+"]))
def test_counts_are_the_plain_ones(data: bytes, special_tokens: list[str], pattern: str) -> None:
    expected = plain_counts(data, special_tokens, pattern)
    assert count_pre_tokens(data, Splitter(pattern, special_tokens)) == expected


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\s+"])
def test_pre_tokens_join_to_the_text(pattern: str) -> None:
    """This holds where no alternative matches, and in long runs; no pre-token is empty."""
    for data in LONG.values():
        text = data.decode("utf-8", "surrogateescape")
        pieces = list(pre_tokens(text, pattern))
        assert "".join(pieces) == text
        assert all(pieces)


merge_tables = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.integers(0, 10), st.integers(0, 5)),
    max_size=12,
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), merge_tables)
def test_the_heap_merges_as_plainly(
    ids: list[int], table: dict[tuple[int, int], tuple[int, int]]
) -> None:
    """This holds for tables that `learn_merges` never makes: ranks in any order, equal ranks."""
    ranked = {pair: (rank, merged) for rank, (pair, (_, merged)) in enumerate(table.items())}
    assert apply_merges_long(ids, ranked) == apply_merges(ids, ranked)
