"""lmlib/evaluation/samples.py: by hand, and with a word cut in two by the end of a prompt."""

import html
import re

import numpy as np
import pytest
from hypothesis import given

from lmlib.evaluation import (
    Comparison,
    compare_with_training,
    continuation_ids,
    copied_spans,
    copying,
    first_documents,
    quoted,
)
from lmlib.tokenizer import Tokenizer
from lmlib.visible import visible
from tests.tokenizer.strategies import examples, texts


def test_continuations_are_read_as_after_their_prompt() -> None:
    """The tokens of the whole, without those of the prompt, even where a word is cut in two."""
    merges = [(b"d", b"o"), (b"do", b"g")]
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"do", 257: b"dog"}
    tokenizer = Tokenizer(vocab, merges, None)
    assert continuation_ids(tokenizer, "a ", "dog") == [257]
    assert continuation_ids(tokenizer, "a d", "og") == [257]
    assert continuation_ids(tokenizer, "a do", "") == []
    assert continuation_ids(tokenizer, "", "do") == [256]


def test_special_tokens_in_a_continuation_are_text_unless_allowed() -> None:
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<x>"])
    assert continuation_ids(tokenizer, "a<x>", "<x>") == list(b"<x>")
    assert continuation_ids(tokenizer, "a<x>", "<x>", allow_special=True) == [256]


# -- quoting

ATTACKS = [
    "<script>alert(1)</script> <!-- &lt; &amp; <https://a.b> <a@b.c>",
    "[a](http://b) ![a](b) [a][b]\n[b]: http://c [^1]",
    "*a* _b_ **c** __d__ ~~e~~ `f` ``g`` $h$ \\* \\[ ***",
    "http://a.b https://c.d www.e.f WWW.E.F g@h.i mailto:j@k.l :smile: @someone",
    "# a\n## b\n   # c\na\n===\nb\n---\n- c\n+ d\n* e\n1. f\n   12) g\n> h\n- [ ] i",
    "```\na\n```\n~~~\nb\n~~~\n\n    c\n\n\td\n\n  \te\n\n---\n\n***\n\n___",
    "a | b\n--- | ---\nc | d\n\n:-: | -:\nc | d",
    "&#60;b&#62; &copy; &Tab;",
]


def test_quoted_text_is_only_text() -> None:
    """A Markdown renderer finds paragraphs of plain text in it, and a browser the text itself."""
    markdown_it = pytest.importorskip("markdown_it")
    renderer = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for attack in [*ATTACKS, "\n\n".join(ATTACKS), "".join(ATTACKS)]:
        html_text = renderer.render(quoted(attack))
        assert set(re.findall("<[^>]*>", html_text)) <= {"<p>", "</p>"}
        words = html.unescape(re.sub("</?p>", "", html_text)).split()
        assert words == attack.split()


@examples
@given(texts)
def test_quoting_is_undone_by_a_browser(text: str) -> None:
    assert html.unescape(quoted(text)) == visible(text)
    assert len(quoted(text).split("\n")) == len(text.split("\n"))


def test_stories_are_quoted_as_they_are() -> None:
    story = 'Once, "Tom" said: I\'m here (at 10.30)! A well-known dog...\n\nThe end; 5 + 5 = 10?\n '
    assert quoted(story) == story


def test_quoting_hides_no_address() -> None:
    assert quoted("http://www.a.b c@d") == "http&#58;//www&#46;a.b c&#64;d"
    assert quoted("a\x1b[0m\u2028b") == "a&#92;x1b&#91;0m&#92;u2028b"


def test_first_documents() -> None:
    """At most 3 tokens of each; a separator without text before it does not make a document."""
    tokens = np.array([1, 2, 0, 0, 3, 4, 5, 6, 0, 7])
    assert first_documents(tokens, 0, max_tokens=3) == [[1, 2], [3, 4, 5], [7]]
    assert first_documents(tokens, None, max_tokens=3) == [[1, 2, 0]]


def test_copying_by_hand() -> None:
    """Spans of 2 and 6 tokens, in samples of 4 and 8: parts of 1/2 and 3/4."""
    samples, train = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]], np.arange(5, 11)
    spans = copied_spans(samples, np.concatenate(([3, 4, 0], train)))
    assert copying(spans, samples, copied_tokens=6) == {"copied": 0.5, "copied_part": 0.625}
    assert copying(spans, samples, copied_tokens=7)["copied"] == 0.0
    assert copying([], [], copied_tokens=7) == {"copied": 0.0, "copied_part": 0.0}


def test_comparison_by_hand() -> None:
    """3 of 4 tokens of the sample are copied, and 1 of 2 of the validation document."""
    comparison = compare_with_training(
        [[1, 2, 3, 1]], np.array([1, 2, 3, 0, 7]), [[7, 8]], separator_id=0, copied_tokens=3
    )
    assert [(span.start, span.length) for span in comparison.spans] == [(0, 3)]
    assert comparison.metrics == {
        "distinct_1": 0.75,
        "distinct_2": 1.0,
        "distinct_3": 1.0,
        "copied": 1.0,
        "copied_part": 0.75,
        "copied_longest": 3,
        "held_out_copied": 0.0,
        "held_out_copied_part": 0.5,
    }


@pytest.mark.parametrize("held_out", [[], [[1, 2]]])
def test_without_samples_nothing_is_compared(held_out: list[list[int]]) -> None:
    nothing = compare_with_training([], np.array([1, 2]), held_out, None, copied_tokens=2)
    assert nothing == Comparison([], {})
