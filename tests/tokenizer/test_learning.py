"""Learning merges: the kernels against the reference and against counting everything again."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmlib.tokenizer import learning
from lmlib.tokenizer.counting import WordCounts
from lmlib.tokenizer.learning import Learner, learn_merges
from lmlib.tokenizer.reference import learn_merges as learn_plainly
from tests.tokenizer.strategies import brute_force_merges

Pair = tuple[bytes, bytes]

# Few letters, so that pairs tie and overlap; weights near and far apart. Large weights let rare
# pairs be left out at first, and counted when the frequent ones are merged.
weights = st.one_of(st.integers(1, 4), st.integers(1, 5000), st.integers(1, 1 << 40))
words_of_letters = st.lists(st.sampled_from([b"a", b"b", b"ab", b"aaaa", b"c", b"\x00", b"\xff"]))
small_words = st.dictionaries(words_of_letters.map(b"".join), weights, max_size=12)


def learn(words: dict[bytes, int], num_merges: int) -> list[Pair]:
    """Return the merges that the kernels learn from the words."""
    return learn_merges(WordCounts.from_dict(words), num_merges)


def some_words(num_words: int, letters: str, seed: int) -> dict[bytes, int]:
    """Return random words, the n-th of them 1/n as frequent as the first."""
    rng = random.Random(seed)
    words: dict[bytes, int] = {}
    for rank in range(1, num_words + 1):
        word = "".join(rng.choices(letters, k=rng.randint(1, 12))).encode()
        words[word] = 1 + 100_000 // rank
    return words


def test_by_hand() -> None:
    """The example of Sennrich et al.: low x5, lower x2, widest x3, newest x6."""
    words = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
    assert learn(words, 6) == [
        *[(b"s", b"t"), (b"e", b"st"), (b"o", b"w"), (b"l", b"ow"), (b"w", b"est"), (b"n", b"e")]
    ]


def test_the_greater_pair_of_bytes_wins_a_tie() -> None:
    """Left tokens are compared first; a token is greater than its prefixes; bytes are unsigned."""
    assert learn({b"ab": 1, b"ac": 1, b"ba": 1}, 1) == [(b"b", b"a")]
    assert learn({b"ab": 1, b"ac": 1}, 2) == [(b"a", b"c"), (b"a", b"b")]
    assert learn({b"\x7fa": 1, b"\x80a": 1}, 1) == [(b"\x80", b"a")]
    assert learn({b"aa": 2, b"aab": 1, b"ab": 1}, 3)[1:] == [(b"aa", b"b"), (b"a", b"b")]


def test_overlapping_pairs_are_merged_from_the_left() -> None:
    """aaaaa is aa aa a, then aaaa a; bababab is ba ba ba b, then baba ba b."""
    assert learn({b"aaaaa": 1}, 9) == [(b"a", b"a"), (b"aa", b"aa"), (b"aaaa", b"a")]
    assert learn({b"bababab": 1}, 9) == [
        *[(b"b", b"a"), (b"ba", b"ba"), (b"baba", b"ba"), (b"bababa", b"b")]
    ]


@settings(deadline=None, max_examples=500)
@given(small_words, st.integers(0, 40))
@example({b"aaaaa": 1 << 40, b"baaab": 3, b"abab": 1}, 40)
def test_equals_brute_force(words: dict[bytes, int], num_merges: int) -> None:
    expected = brute_force_merges(Counter(words), num_merges)
    assert learn(words, num_merges) == expected
    assert learn_plainly(words, num_merges) == expected


@pytest.mark.parametrize(
    ("num_words", "letters"), [(3000, "ab"), (3000, "abcdefgh"), (3000, "aeinrst \xe9中")]
)
def test_every_merge_of_many_words_equals_the_reference(num_words: int, letters: str) -> None:
    """Learn to the end, where each word is one token, and part of the way."""
    words = some_words(num_words, letters, seed=len(letters))
    expected = learn_plainly(words, 1 << 20)
    assert learn(words, len(expected) + 10) == expected
    assert learn(words, 100) == expected[:100]


def test_long_words_equal_the_reference() -> None:
    rng = random.Random(3)
    for letters in ("a", "ab", "abcdefgh"):
        word = "".join(rng.choices(letters, k=5000)).encode()
        assert learn({word: 1}, 500) == learn_plainly({word: 1}, 500)


def test_one_word_of_a_megabyte() -> None:
    """Nothing quadratic: 2**20 times "a" is 20 merges, and random letters are thousands."""
    assert learn({b"a" * (1 << 20): 1}, 100) == [
        (b"a" * (1 << k), b"a" * (1 << k)) for k in range(20)
    ]
    letters = bytes(random.Random(0).choices(b"abcdefgh", k=1 << 20))
    assert len(learn({letters: 1}, 2000)) == 2000


def test_no_words_no_pairs_no_merges() -> None:
    assert learn({}, 5) == []
    assert learn({b"": 3, b"a": 2}, 5) == []
    assert learn({b"ab": 1}, 0) == []


def test_progress_is_told_and_can_stop_it() -> None:
    """Ctrl-C takes effect between two calls of the kernel."""
    words = WordCounts.from_dict(some_words(500, "abcdefgh", 1))
    seen: list[int] = []
    learn_merges(words, 200, seen.append)
    assert seen == [64, 128, 192, 200]
    few: list[int] = []
    learn_merges(WordCounts.from_dict({b"abcd": 1}), 200, few.append)
    assert few == [3]

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_merges(words, 200, stop)


def test_the_table_of_pairs_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth before a merge, and while rare pairs are recounted; 676 letter pairs fit at first."""
    rooms: list[int] = []
    make_room = Learner._make_room

    def noted(learner: Learner, size: int) -> None:
        rooms.append(size)
        make_room(learner, size)

    monkeypatch.setattr(learning, "FIRST_ROOM", 1 << 10)
    monkeypatch.setattr(Learner, "_make_room", noted)
    words = some_words(20_000, "abcdefghijklmnopqrstuvwxyz", 2)
    assert learn(words, 3000) == learn_plainly(words, 3000)
    assert rooms == [1 << (10 + k) for k in range(len(rooms))]
    assert len(rooms) > 3


def test_too_many_bytes() -> None:
    """A view that repeats one byte, so that no memory is needed."""
    data = np.broadcast_to(np.uint8(0), ((1 << 31) - 2,))
    words = WordCounts(data, np.array([0, len(data)], np.int64), np.ones(1, np.int64))
    with pytest.raises(ValueError, match=r"have 2147483646 bytes in 1 words; .* train on a part"):
        learn_merges(words, 1)
