"""Stages `evaluate` and `report`: the page of samples. (`evaluate` runs in test_repro.py.)"""

from pathlib import Path

import pytest

from lmlib.evaluation import CopiedSpan, Evaluation
from lmlib.files import write_json
from lmlib.params import load_params
from lmlib.sampling import SamplingParams
from lmlib.tokenizer import Tokenizer
from stages import report
from stages.evaluate import samples_page
from stages.paths import EVALUATE_METRICS, PARAMS, SAMPLES
from tests.pipeline.imports import ROOT

BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)


def page_of(texts: list[tuple[str, str]], samples: list[list[int]], spans: list[CopiedSpan]) -> str:
    params = load_params(ROOT / PARAMS, "sampling", SamplingParams)
    scores = Evaluation(1.5, 4.4817, 0.75, 0.5, 9, (1.5,))
    return samples_page(params, scores, BYTES, texts, samples, spans)


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
    write_json(
        EVALUATE_METRICS, dict.fromkeys(("loss", "perplexity", "bits_per_byte", "accuracy"), 1)
    )
    report.main()
    assert capsys.readouterr().out.startswith(
        "\n--------------------\n"
        r"**<b>A</b>** [x](http://y)\u2028dog\x0c*ran*\x0daway\x1b[2J"
        "\n# home\n\n<!-- end\n\nvalidation loss  1.0000"
    )
