"""Special tokens in a text: the leftmost first, the longest of several, however many there are."""

from hypothesis import given
from hypothesis import strategies as st

from lmlib.tokenizer.special import SpecialTokens
from tests.tokenizer.strategies import examples, plain_pieces, texts

# Of few letters: most begin alike, overlap, and are part of others
tokens = st.lists(st.text("ab<é", min_size=1, max_size=12), unique=True, max_size=60)


@examples
@given(st.one_of(st.text("ab<é", max_size=60), texts), tokens)
def test_tokens_are_found_as_plainly(text: str, tokens: list[str]) -> None:
    found = [text[start:end] for start, end in SpecialTokens(tokens).spans(text)]
    assert found == [piece for piece, is_special in plain_pieces(text, tokens) if is_special]


@examples
@given(st.text("ab<é", max_size=60), tokens, st.integers(0, 30), st.integers(0, 60))
def test_the_longest_token_at_each_place_of_a_part(
    text: str, tokens: list[str], start: int, end: int
) -> None:
    part = text[:end]
    expected = []
    for place in range(start, len(part)):
        sizes = [len(token) for token in tokens if part.startswith(token, place)]
        if sizes:
            expected.append((place, place + max(sizes)))
    assert list(SpecialTokens(tokens).everywhere(text, start, min(end, len(text)))) == expected


def test_thousands_of_tokens_by_hand() -> None:
    tokens = [f"<{number}>" for number in range(10_000)]
    special = SpecialTokens([*tokens, "<42><43>"])
    assert list(special.spans("<42><43><10000> <9999>")) == [(0, 8), (16, 22)]
