"""Which names and expressions are patterns."""

import pytest

from lmlib.tokenizer import Tokenizer, patterns
from lmlib.tokenizer.patterns import PATTERNS, find_pattern

BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize(
    "name",
    ["cl100k_base", "GPT2", "o200k_base", "gpt-3.5-turbo", "gpt2 ", "openai/gpt2", "llama3", ""],
)
def test_an_unknown_name_is_refused_with_the_list(name: str) -> None:
    """As an expression it would find no pre-tokens but itself."""
    with pytest.raises(
        ValueError, match=r"is not the name of a pattern; give gpt2, cl100k, o200k, or"
    ):
        find_pattern(name)


@pytest.mark.parametrize("own", [r"\w+|\W", ".", "[a-z]+", " ", "-", r"(?i)a+", r"a\\K|.", "(?:a)"])
def test_an_expression_of_ones_own(own: str) -> None:
    assert find_pattern(own).split == own
    text = "aab a-b\\Kaa\n"
    assert (tokenizer := Tokenizer(BYTES, [], pattern=own)).decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("(?r)a+", r"\(\?r\)"),
        ("a+|(?r)b", r"\(\?r\)"),
        ("(?p)a|ab", r"\(\?p\)"),
        ("(?b)(?:abc){e<=1}", r"\(\?b\)"),
        ("(?e)(?:abc){e<=1}", r"\(\?e\)"),
        (r"(?=a\K)", r"\\K"),
        (r"\\\Ka", r"\\K"),
    ],
)
def test_what_could_lose_or_repeat_text_is_refused(own: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"has {named}, under which text could be lost"):
        find_pattern(own)


@pytest.mark.parametrize(
    "own", ["[", "(" * 100_000, "a{99999999999999999999}", r"\p{nope}", r"\L<w>"]
)
def test_an_invalid_expression_is_refused_in_one_sentence(own: str) -> None:
    with pytest.raises(ValueError, match=r"^pattern .{1,210} is not a valid regular expression: "):
        find_pattern(own)


@pytest.mark.parametrize("own", ["(?R)?a", "(a|(?1)b)", "(?&x)(?P<x>a)", r"\\(?P>x)(?P<x>a)"])
def test_recursion_is_refused(own: str) -> None:
    """`(?R)?a` takes all memory on its first text."""
    with pytest.raises(ValueError, match="calls itself or a group, which can take memory"):
        find_pattern(own)


def test_an_expression_too_large_for_memory_is_said_to_be_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(expression: str) -> None:
        raise MemoryError

    monkeypatch.setattr(patterns.regex, "compile", fail)
    with pytest.raises(ValueError, match="not a valid regular expression: it is too large; give"):
        find_pattern("(a{999}){999}")


def test_all_named_patterns_are_found() -> None:
    assert [find_pattern(name) for name in PATTERNS] == list(PATTERNS.values())
