"""Stages `evaluate` and `report`: the page of samples. (`evaluate` runs in test_repro.py.)"""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lmlib.evaluation import CopiedSpan, Evaluation
from lmlib.files import write_json
from lmlib.params import load_params
from lmlib.sampling import SamplingParams, generate_text
from lmlib.tokenizer import Tokenizer
from stages import report
from stages.evaluate import floor_curve, names_in, samples_page, stories_to_write, write_stories
from stages.paths import EVALUATE_DETAILS, EVALUATE_METRICS, PARAMS, SAMPLES
from tests.pipeline.imports import ROOT
from tests.tiny_models import successor

BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)
SCORES = Evaluation(1.5, 4.4817, 0.75, 0.5, 9, (1.5,))
SAMPLING = load_params(ROOT / PARAMS, "sampling", SamplingParams)


def page_of(texts: list[tuple[str, str]], samples: list[list[int]], spans: list[CopiedSpan]) -> str:
    return samples_page(SAMPLING, SCORES.metrics(), BYTES, texts, samples, spans)


def test_samples_page_shows_what_is_copied() -> None:
    """Below the sample: the span in one line, with its length and place, or that there is none."""
    ids = BYTES.encode(" little\n\n dog!")
    spans = [CopiedSpan(len(ids) - 1, 0, 1234), CopiedSpan(0, 0, 0)]
    texts = [("The", " little\n\n dog!"), ("A", " hat")]
    page = page_of(texts, [ids, [1]], spans)
    assert "Validation loss 1.5000 nats per token, 0.7500 bits per byte." in page
    assert "\n> **The** little\n> \n>  dog!\n" in page
    copied = f"{len(ids) - 1} of {len(ids)} tokens, there from token 1,234 on: “little dog”"
    assert page.endswith(f"\n\n{copied}\n\n> **A** hat\n\nnone\n")


def test_a_sample_is_text_on_the_page_and_whole_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither markup nor characters that end a line elsewhere end the sample or its quotation."""
    prompt = "<b>A</b>"
    text = " [x](http://y)\u2028dog\x0c*ran*\raway\x1b[2J\n# home\n\n<!-- end"
    ids = BYTES.encode(text)
    page = page_of([(prompt, text)], [ids], [CopiedSpan(len(ids), 0, 0)])
    assert page.count("\n\n") == 3  # between heading, scores, sample and span
    dangerous = ("<b", "[x", "*ran", "\n> #", "\r", "\x0c", "\u2028", "\x1b", "<!--")
    assert [part for part in dangerous if part in page] == []
    monkeypatch.chdir(tmp_path)
    SAMPLES.parent.mkdir()
    SAMPLES.write_bytes(page.encode())
    write_json(EVALUATE_METRICS, dict.fromkeys(("loss", "bits_per_byte", "accuracy"), 1))
    write_json(EVALUATE_DETAILS, {"perplexity": 1})
    report.main()
    assert (
        "\n\n"
        r"**<b>A</b>** [x](http://y)\u2028dog\x0c*ran*\x0daway\x1b[2J"
        "\n# home\n\n<!-- end\n\nMore: "
    ) in capsys.readouterr().out


def test_samples_page_begins_with_the_floor_and_the_names() -> None:
    metrics = SCORES.metrics() | {"floor_bits_per_byte": 0.0625, "excess_bits_per_byte": 0.6875}
    names = {"names_kept": 0.125, "held_out_names_kept": 0.95}
    page = samples_page(SAMPLING, metrics | names, BYTES, [], [], [])
    assert (
        "0.7500 bits per byte, which is 0.6875 above the floor of 0.0625, the entropy of the "
        "corpus. Of the names after the first in a story, 12.5% had been written before (95.0% in "
        "validation stories). Temperature"
    ) in page


def test_floor_curve_by_hand() -> None:
    """0.5 bits for each of 36 bytes are 18 bits, or 2 for each of 9 tokens: 2 ln 2 nats."""
    line = floor_curve(0.5, SCORES, 36, 1400)
    assert [row["step"] for row in line] == [1, 1400]
    assert [row["loss"] for row in line] == pytest.approx([2 * math.log(2)] * 2)
    assert floor_curve(None, SCORES, 36, 1400) == []


@pytest.mark.parametrize(
    ("count", "prompts", "rounds"),
    [(60, 3, 20), (5, 3, 2), (2, 2, 1), (0, 0, 1)],
)
def test_stories_take_the_prompts_in_turn(count: int, prompts: int, rounds: int) -> None:
    params = stories_to_write(replace(SAMPLING, prompts=("a", "b", "c")), count)
    assert (len(params.prompts), params.num_samples) == (prompts, rounds)


def test_stories_are_written_in_the_order_of_their_seeds() -> None:
    """The first continuation of each prompt, then the second: those of one seed stay together."""
    model = successor(256, 1.0)  # no certain continuation
    params = replace(SAMPLING, prompts=("a", "b"), num_samples=2, max_tokens=4, temperature=1.0)
    stories = write_stories(model, BYTES, params)
    (a, a2), (b, b2) = generate_text(model, BYTES, params.prompts, params)
    assert stories == [("a", a), ("b", b), ("a", a2), ("b", b2)]
    assert a != a2


def test_names_without_any_have_no_share() -> None:
    assert names_in([("A", " dog")], ["Tom ran. Tom fell. Mia"]) == {
        "names_counted": 0,
        "held_out_names_kept": 0.5,
    }
    told = [("Tom", " saw Tom and Mia")]
    assert names_in(told, [""]) == {"names_counted": 2, "names_kept": 0.5}
