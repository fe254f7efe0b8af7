"""Stage `evaluate`: the page of samples. (The stage as a whole runs in test_repro.py.)"""

from lmlib.evaluation import CopiedSpan, Evaluation
from lmlib.params import load_params
from lmlib.sampling import SamplingParams
from lmlib.tokenizer import Tokenizer
from stages.evaluate import samples_page
from stages.paths import PARAMS
from tests.pipeline.imports import ROOT

BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)


def test_samples_page_shows_what_is_copied() -> None:
    """Below the sample: the span in one line, with its length and place, or that there is none."""
    params = load_params(ROOT / PARAMS, "sampling", SamplingParams)
    scores = Evaluation(1.5, 4.4817, 0.75, 0.5, 9, (1.5,))
    ids = BYTES.encode(" little\n\n dog!")
    spans = [CopiedSpan(len(ids) - 1, 0, 1234), CopiedSpan(0, 0, 0)]
    texts = [("The", " little\n\n dog!"), ("A", " hat")]
    page = samples_page(params, scores, BYTES, texts, [ids, [1]], spans)
    assert "Validation loss 1.5000 nats per token, 0.7500 bits per byte." in page
    assert "\n> **The** little\n> \n>  dog!\n" in page
    copied = f"{len(ids) - 1} of {len(ids)} tokens, there from token 1,234 on: “little dog”"
    assert page.endswith(f"\n\n{copied}\n\n> **A** hat\n\nnone\n")
