"""lmlib/serving/continuation.py: text and tokens, piece by piece."""

from dataclasses import replace

import pytest

from lmlib.serving.batch import Scored
from lmlib.serving.continuation import Continuation, Piece, Prompt
from tests.serving.running import SAMPLING, SEPARATOR_ID, TOKENIZER


def pieces(
    data: bytes,
    *,
    before: bytes = b"a",
    stop: tuple[str, ...] = (),
    ends: bool = False,
    echo: bool = False,
    max_tokens: int = 100,
) -> list[Piece]:
    """Return the pieces of a continuation whose tokens are single bytes, then the separator."""
    continuation = Continuation(
        0,
        Prompt([SEPARATOR_ID, *before], hidden=1),
        replace(SAMPLING, stop=stop),
        TOKENIZER,
        stop_ids=[SEPARATOR_ID],
        max_tokens=max_tokens,
        top=None,
        echo=echo,
    )
    result = [continuation.begin()]
    for token in [*data, *([SEPARATOR_ID] if ends else [])]:
        if not continuation.finish_reason:
            continuation.row.drawn += 1
            result.append(continuation.take(Scored(token)))
    return [piece for piece in result if piece is not None]


def shown(some: list[Piece]) -> list[tuple[str, bytes, str | None]]:
    """Return the text, the bytes of the tokens and the reason to finish of each piece."""
    return [
        (piece.text, b"".join(entry.data for entry in piece.entries), piece.finish_reason)
        for piece in some
    ]


def test_characters_come_whole_with_all_their_tokens() -> None:
    assert shown(pieces("xé日y".encode(), max_tokens=7)) == [
        ("x", b"x", None),
        ("é", "é".encode(), None),
        ("日", "日".encode(), None),
        ("y", b"y", "length"),
    ]


def test_offsets_are_in_characters_of_prompt_and_text() -> None:
    some = pieces("xé日y".encode(), before="日b".encode(), max_tokens=7)
    assert [entry.offset for piece in some for entry in piece.entries] == [2, 3, 3, 4, 4, 4, 5]


def test_a_text_that_ends_inside_a_character() -> None:
    assert shown(pieces("x日".encode()[:3], max_tokens=3))[1:] == [
        ("\ufffd", "日".encode()[:2], "length")
    ]
    assert shown(pieces("x日".encode()[:3], ends=True))[1:] == [
        ("\ufffd", "日".encode()[:2] + b"<|endoftext|>", "stop")
    ]


def test_a_stop_text_that_ends_with_the_last_token_is_the_reason() -> None:
    assert shown(pieces(b"xab", stop=("ab",), max_tokens=3)) == [
        ("x", b"x", None),
        ("", b"", "stop"),
    ]


def test_invalid_bytes() -> None:
    assert shown(pieces(b"\xe6\xffz")) == [
        ("\ufffd\ufffd", b"\xe6\xff", None),
        ("z", b"z", None),
    ]


def test_a_character_that_the_prompt_begins_belongs_to_the_text() -> None:
    before, rest = "a日".encode()[:2], "日!".encode()[1:]
    some = pieces(rest, before=before, max_tokens=3)
    assert shown(some) == [("日", "日".encode()[1:], None), ("!", b"!", "length")]
    assert [entry.offset for piece in some for entry in piece.entries] == [1, 1, 2]
    assert shown(pieces(rest, before=before, echo=True, max_tokens=3)) == [
        ("a", b"a", None),
        ("日", "日".encode(), None),
        ("!", b"!", "length"),
    ]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("cd",), [("a", b"a"), ("b", b"b"), ("", b"")]),
        (("d", "bcd"), [("a", b"a"), ("", b"")]),  # complete at the same byte: the longer one
        (("bx",), [("a", b"a"), ("bc", b"bc"), ("d", b"d"), ("e", b"e"), ("f", b"f")]),
        (("fg",), [("a", b"a"), ("b", b"b"), ("c", b"c"), ("d", b"d"), ("e", b"e"), ("f", b"f")]),
    ],
)
def test_stop_texts(stop: tuple[str, ...], expected: list[tuple[str, bytes]]) -> None:
    """The tokens of a stop text are not shown; what may become one waits."""
    some = pieces(b"abcdef", before=b"b", stop=stop, max_tokens=6)
    assert [pair[:2] for pair in shown(some)] == expected
    assert some[-1].finish_reason == ("stop" if expected[-1] == ("", b"") else "length")


def test_a_token_that_begins_before_the_stop_text_is_shown() -> None:
    continuation = Continuation(
        0,
        Prompt([97], hidden=0),
        replace(SAMPLING, stop=("b",)),
        TOKENIZER,
        stop_ids=[],
        max_tokens=9,
        top=None,
        echo=False,
    )
    assert continuation.begin() is None
    continuation.row.drawn = 1
    piece = continuation.take(Scored(258))  # "ab"
    assert piece is not None
    assert shown([piece]) == [("a", b"ab", "stop")]


def test_the_token_that_ends_a_text_comes_last_and_has_no_text() -> None:
    assert shown(pieces(b"x", ends=True)) == [("x", b"x", None), ("", b"<|endoftext|>", "stop")]


def test_a_stop_text_in_the_prompt_stops_nothing() -> None:
    assert shown(pieces(b"x", before=b"ab", stop=("ab", "bx"), echo=True, max_tokens=1)) == [
        ("ab", b"ab", None),
        ("x", b"x", "length"),
    ]


@pytest.mark.parametrize("echo", [True, False])
def test_no_tokens_are_wanted(echo: bool) -> None:
    before = "a日".encode()[:3]
    expected = ("a\ufffd", before, "length") if echo else ("", b"", "length")
    assert shown(pieces(b"", before=before, echo=echo, max_tokens=0)) == [expected]
