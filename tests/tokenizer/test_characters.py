"""The Unicode version of tiktoken and tokenizers, whichever version of `regex` is installed."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given
from tokenizers.pre_tokenizers import Split

from lmlib.tokenizer import characters
from lmlib.tokenizer.characters import (
    NUM_CODE_POINTS,
    STAND_INS,
    char_class,
    char_classes,
    for_regex,
    regex_class,
)
from lmlib.tokenizer.counting import WordCounter
from lmlib.tokenizer.kernels.records import (
    CASELESS,
    LOWER,
    MARK,
    NUMBER,
    OTHER,
    SPACE,
    UPPER,
)
from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.reference import count_pre_tokens, pre_tokens
from lmlib.tokenizer.splitting import Splitter
from tests.tokenizer.make_characters import FILE, find_database, make_characters
from tests.tokenizer.strategies import examples, raw_bytes, special_lists, telling_characters

# UTF-8 encodes all but the surrogates.
CHARACTERS = "".join(chr(c) for c in range(NUM_CODE_POINTS) if not 0xD800 <= c < 0xE000)
EXPRESSIONS = {
    MARK: r"\p{M}",
    NUMBER: r"\p{N}",
    SPACE: r"\s",
    UPPER: r"[\p{Lu}\p{Lt}]",
    LOWER: r"\p{Ll}",
    CASELESS: r"[\p{Lm}\p{Lo}]",
}


def found_by_tiktoken(expression: str) -> str:
    """Return the characters that match; `tiktoken` drops what its expression does not match."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=expression, mergeable_ranks=ranks, special_tokens={}
    )
    return bytes(encoding.encode_ordinary(CHARACTERS)).decode()


def found_by_tokenizers(expression: str) -> str:
    """Return the characters that match: those that the inverted expression leaves."""
    split = Split(tokenizers.Regex(expression), behavior="removed", invert=True)
    return "".join(piece for piece, _ in split.pre_tokenize_str(CHARACTERS))


@pytest.mark.slow
@pytest.mark.parametrize("found_by", [found_by_tiktoken, found_by_tokenizers])
@pytest.mark.parametrize("number", EXPRESSIONS)
def test_the_class_of_every_character_is_theirs(
    number: int, found_by: Callable[[str], str]
) -> None:
    ours = {c for c in CHARACTERS if char_classes()[ord(c)] == number}
    assert sorted(ours ^ set(found_by(EXPRESSIONS[number]))) == []


def test_the_file_is_what_the_script_makes() -> None:
    try:
        database = find_database()
    except ImportError as error:
        pytest.skip(str(error))
    assert FILE.read_bytes() == make_characters(database)


def test_one_character_has_the_class_of_the_table() -> None:
    """At the first and last character of each run."""
    classes = char_classes()
    starts = np.flatnonzero(np.diff(classes)) + 1
    for code in (0, *starts - 1, *starts, NUM_CODE_POINTS - 1):
        assert char_class(chr(code)) == classes[code]


def test_the_table_needs_no_regex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking `regex` for every character would take 0.16 s in each process."""
    monkeypatch.setattr(characters, "_CLASSES", None)
    assert len(char_classes.__wrapped__()) == NUM_CODE_POINTS


# -- plain Python, which runs the installed `regex`


@pytest.mark.slow
def test_plain_python_sees_the_class_of_the_table() -> None:
    """After `for_regex`, `regex` sees the classes of the table, surrogates included."""
    everything = "".join(map(chr, range(NUM_CODE_POINTS)))
    seen = for_regex(everything)
    assert len(seen) == NUM_CODE_POINTS
    for number, expression in EXPRESSIONS.items():
        found = [match.start() for match in regex.finditer(expression, seen)]
        assert np.array_equal(found, np.flatnonzero(char_classes() == number))


def test_stand_ins_have_their_class_and_are_nothing_special() -> None:
    for number, character in enumerate(STAND_INS):
        assert char_class(character) == regex_class(character) == number
        assert not character.isascii()
        assert not regex.match(r"(?i)[\r\n'sdmtlvre]", character)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_kernels_and_plain_python_split_every_character_alike(pattern: str) -> None:
    """Each between a letter and a number, and between a space and punctuation.

    Of those without a class in both the table and `regex`, only those next to others.
    """
    classes = char_classes()
    classified = {c for c in CHARACTERS if classes[ord(c)] != OTHER or regex_class(c) != OTHER}
    chosen = sorted(classified | set(telling_characters()))
    data = "".join(f"a{c}1 {c}!" for c in chosen).encode()
    splitter = Splitter(pattern, [])
    counter = WordCounter()
    counter.add_text(data, splitter)
    assert counter.words().to_dict() == count_pre_tokens(data, splitter)


def other_class(character: str) -> int:
    """Return a wrong class, except for ASCII and the long s, which contractions consist of."""
    right = char_class(character)
    return right if character.isascii() or character == "\u017f" else (right + 1) % 7


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_a_regex_of_another_version_changes_nothing(pattern: str) -> None:
    """Pre-tokens and cuts are the same even if `regex` seems to have other classes throughout."""

    @examples
    @given(raw_bytes, special_lists)
    def check(data: bytes, special_tokens: list[str]) -> None:
        splitter = Splitter(pattern, special_tokens)
        text = data.decode("utf-8", "surrogateescape")

        def results() -> tuple[Counter[bytes], list[int]]:
            return count_pre_tokens(data, splitter), list(splitter.cuts(text, 0, len(text)))

        expected = results()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(characters, "_agreed", set())
            patch.setattr(characters, "regex_class", other_class)
            assert results() == expected

    check()


def test_a_custom_pattern_follows_the_installed_regex() -> None:
    newer = [c for c in CHARACTERS if regex_class(c) == CASELESS and char_class(c) == OTHER]
    if not newer:
        pytest.skip("the installed regex has no letters newer than UNICODE_VERSION")
    text = f"a{newer[0]}"
    assert list(pre_tokens(text, r"\p{L}+|\P{L}+")) == [text]
    assert list(pre_tokens(text, "gpt2")) == ["a", newer[0]]
