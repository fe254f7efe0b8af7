"""Stage `evaluate` by hand in a folder of its own, with a model that was never trained."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmlib.checkpoint import load_model
from lmlib.evaluation import Evaluation, evaluate
from lmlib.novelty import CopiedSpan, copied_spans
from lmlib.params import load_params
from lmlib.sampling import SamplingParams
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from stages.cli import run_stage
from stages.evaluate import continuation_ids, copying, first_documents, main, samples_page
from stages.paths import MODEL, PARAMS, TOKENIZER
from tests.pipeline.imports import ROOT
from tests.pipeline.trained import CONTEXT_LENGTH, STORY, make_trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml, a tokenizer and a model."""
    folder = tmp_path_factory.mktemp("trained")
    make_trained(folder)
    return folder


@pytest.fixture
def score(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs the stage with `arguments` and returns what it printed."""
    monkeypatch.chdir(trained)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
        run_stage(main)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "content",
    [
        (STORY * 20 + SEPARATOR + STORY).encode(),
        b"Once",  # shorter than the context
        b"x",  # one token
        b"ab\xff\xfe cd \xe2\x82",  # no UTF-8, and a character cut short
    ],
    ids=["long", "short", "one token", "bytes"],
)
def test_any_text(score: Callable[..., str], trained: Path, tmp_path: Path, content: bytes) -> None:
    """All its tokens after a separator, over all its bytes; nothing new lies in the folder."""
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    before = files_below(trained)
    scores = json.loads(score("--text", str(text), "--json", "--stride", "5"))
    assert files_below(trained) == before

    tokenizer = Tokenizer.load(trained / TOKENIZER)
    tokenizer.encode_file(text, tmp_path / "tokens.npy")
    tokens = np.load(tmp_path / "tokens.npy")
    assert tokenizer.decode_bytes(tokens) == content
    expected = evaluate(
        load_model(trained / MODEL),
        tokens,
        len(content),
        context_length=CONTEXT_LENGTH,
        stride=5,
        start_id=tokenizer.special_ids[SEPARATOR],
    )
    assert scores == {"bytes": len(content), **expected.metrics()}


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scores_as_a_table(score: Callable[..., str], tmp_path: Path) -> None:
    """The same numbers as for programs."""
    (tmp_path / "text.txt").write_text(STORY, encoding="utf-8")
    table = score("--text", str(tmp_path / "text.txt"))
    scores = json.loads(score("--text", str(tmp_path / "text.txt"), "--json"))
    shown = {line[:16].strip(): float(line[16:].split()[0]) for line in table.splitlines()}
    assert shown == {
        "loss": round(scores["loss"], 4),
        "perplexity": round(scores["perplexity"], 3),
        "bits per byte": round(scores["bits_per_byte"], 4),
        "token accuracy": round(scores["accuracy"], 4),
        "tokens": scores["tokens"],
        "bytes": len(STORY),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "empty.txt"], "error: empty.txt: empty; there is nothing to score"),
        (["--text", "missing.txt"], "error: .*missing.txt: no such file"),
        (["--text", "models"], "error: .*models: is a folder"),
        (["--text", "empty.txt", "--stride", "0"], "error: stride is 0; it must be at least 1"),
        (["--text", "empty.txt", "--device", "tpu"], "error: --device is 'tpu'; choose auto"),
    ],
)
def test_bad_input(
    score: Callable[..., str], trained: Path, arguments: list[str], message: str
) -> None:
    (trained / "empty.txt").touch()
    with pytest.raises(SystemExit, match=f"^{message}"):
        score(*arguments)


def test_options_of_text_need_text(
    score: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage itself follows params.yaml, which DVC watches."""
    with pytest.raises(SystemExit):
        score("--stride", "64")
    assert "without --text, params.yaml alone says" in capsys.readouterr().err


def test_continuations_are_read_as_after_their_prompt(trained: Path) -> None:
    """The tokens of the whole, without those of the prompt, even where a word is cut in two."""
    tokenizer = Tokenizer.load(trained / TOKENIZER)
    before, after = tokenizer.encode("There was a"), tokenizer.encode(" little dog")
    assert continuation_ids(tokenizer, "There was a", " little dog") == after
    assert tokenizer.encode("There was a little dog") == before + after
    assert continuation_ids(tokenizer, "There was a lit", "tle dog") == after
    assert continuation_ids(tokenizer, "There was a", "") == []


def test_first_documents() -> None:
    """At most 3 tokens of each; a separator without text before it makes no document."""
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


def test_samples_page_shows_what_is_copied(trained: Path) -> None:
    """Below the sample: the span in one line, its length and its place; or that there is none."""
    tokenizer = Tokenizer.load(trained / TOKENIZER)
    params = load_params(ROOT / PARAMS, "sampling", SamplingParams)
    scores = Evaluation(1.5, 4.4817, 0.75, 0.5, 9, (1.5,))
    ids = tokenizer.encode(" little\n\n dog!")
    spans = [CopiedSpan(len(ids) - 1, 0, 1234), CopiedSpan(0, 0, 0)]
    texts = [("The", " little\n\n dog!"), ("A", " hat")]
    page = samples_page(params, scores, tokenizer, texts, [ids, [1]], spans)
    assert "Validation loss 1.5000 nats per token, 0.7500 bits per byte." in page
    assert "\n> **The** little\n> \n>  dog!\n" in page
    copied = f"{len(ids) - 1} of {len(ids)} tokens, there from token 1,234 on: “little dog”"
    assert page.endswith(f"\n\n{copied}\n\n> **A** hat\n\nnone\n")
