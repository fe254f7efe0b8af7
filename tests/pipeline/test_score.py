"""`python -m stages.score` in a folder of its own, with a model that was never trained."""

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmlib.checkpoint import load_model
from lmlib.evaluation import evaluate
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from stages.cli import run_stage
from stages.paths import MODEL, PARAMS, TOKENIZER
from stages.score import main
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
    """Return a function that runs the script with `arguments` and returns what it printed."""
    monkeypatch.chdir(trained)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["score", *arguments])
        run_stage(main)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "content",
    [
        (STORY * 20 + SEPARATOR + STORY).encode(),
        b"Once",  # shorter than the context
        b"x",  # one token
        b"ab\xff\xfe cd \xe2\x82",  # invalid UTF-8, and a truncated character
    ],
    ids=["long", "short", "one token", "bytes"],
)
def test_any_text(score: Callable[..., str], trained: Path, tmp_path: Path, content: bytes) -> None:
    """All its tokens after a separator, over all its bytes; nothing is left in the folder."""
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    before = files_below(trained)
    scores = json.loads(score(str(text), "--json", "--stride", "5"))
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
        windows="documents",
        stride=5,
        start_id=tokenizer.special_ids[SEPARATOR],
    )
    assert scores == {"bytes": len(content), **expected.metrics()}


def test_a_model_trained_on_isolated_documents_is_scored_so(
    score: Callable[..., str], trained: Path, tmp_path: Path
) -> None:
    """`evaluation.windows` is documents all the same."""
    text = ("A dog." + SEPARATOR) * 5
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    seeing = json.loads(score(str(tmp_path / "text.txt"), "--json"))
    params = (trained / PARAMS).read_text(encoding="utf-8")
    before, train, after = params.partition("\ntrain:")
    (trained / PARAMS).write_text(
        before + train + after.replace("windows: documents", "windows: isolated", 1),
        encoding="utf-8",
    )
    alone = json.loads(score(str(tmp_path / "text.txt"), "--json"))
    (trained / PARAMS).write_text(params, encoding="utf-8")

    tokenizer = Tokenizer.load(trained / TOKENIZER)
    tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "tokens.npy")
    expected = evaluate(
        load_model(trained / MODEL),
        np.load(tmp_path / "tokens.npy"),
        len(text),
        context_length=CONTEXT_LENGTH,
        windows="isolated",
        start_id=tokenizer.special_ids[SEPARATOR],
    )
    assert alone == {"bytes": len(text), **expected.metrics()}
    assert alone["loss"] != seeing["loss"]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scores_as_a_table(score: Callable[..., str], tmp_path: Path) -> None:
    """The same numbers as in JSON."""
    (tmp_path / "text.txt").write_text(STORY, encoding="utf-8")
    table = score(str(tmp_path / "text.txt"))
    scores = json.loads(score(str(tmp_path / "text.txt"), "--json"))
    shown = {line[:16].strip(): float(line[16:].split()[0]) for line in table.splitlines()}
    assert shown == {
        "loss": round(scores["loss"], 4),
        "perplexity": round(scores["perplexity"], 3),
        "bits per byte": round(scores["bits_per_byte"], 4),
        "token accuracy": round(scores["accuracy"], 4),
        "tokens": scores["tokens"],
        "bytes": len(STORY),
    }


def test_formats_of_a_corpus(score: Callable[..., str], tmp_path: Path) -> None:
    """The scores are those of the text, of which each record is a document."""
    import pyarrow as pa
    from pyarrow import parquet

    stories = [STORY * 3, "Once upon\u2028a time\r\n"]
    text = "".join(story + SEPARATOR for story in stories)
    (tmp_path / "v.txt").write_bytes(text.encode())
    (tmp_path / "notes.md").write_bytes(text.encode())
    (tmp_path / "v.TXT.gz").write_bytes(gzip.compress(text.encode()))
    lines = [json.dumps({"text": story}) for story in stories]
    (tmp_path / "v.jsonl").write_text("\r\n".join(lines), encoding="utf-8")
    parquet.write_table(pa.table({"text": stories}), tmp_path / "v.parquet")
    scores = [json.loads(score(str(path), "--json")) for path in tmp_path.iterdir()]
    assert len(scores) == 5
    assert scores[0]["bytes"] == len(text.encode())
    assert all(one == scores[0] for one in scores)
    lines = [json.dumps({"text": 3, "content": story}) for story in stories]
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    named = score(str(tmp_path / "c.jsonl"), "--json", "--text-field", "content")
    assert json.loads(named) == scores[0]


def test_what_is_no_text(score: Callable[..., str], trained: Path) -> None:
    """Compressed bytes have scores too, but nobody wants them."""
    os.mkfifo(trained / "pipe.txt")
    whole = gzip.compress(STORY.encode())
    for name, content, message in (
        ("pipe.txt", b"", "pipe.txt is a pipe, not a regular file"),
        ("v.txt", whole, "v.txt is gzip data, not plain text; end its name with .txt.gz"),
        ("v.md", whole, "v.md is gzip data, not plain text"),
        ("w.txt", STORY.encode("utf-16"), "w.txt is UTF-16, not plain text; convert it"),
        ("w.txt.gz", whole[:-9], "w.txt.gz is not a complete gzip file .*compress it again"),
        (
            "w.jsonl",
            b'{"story": "a"}',
            "w.jsonl, line 1 has no field 'text' .*; use --text-field NAME",
        ),
        ("w.parquet", b"PAR1\x15", "w.parquet.* damaged; download or write it again"),
    ):
        if name != "pipe.txt":
            (trained / name).write_bytes(content)
        with pytest.raises(SystemExit, match=f"^error: corpus: {message}"):
            score(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty.txt"], "error: empty.txt: empty; there is nothing to score"),
        (["missing.txt"], "error: .*missing.txt: no such file"),
        (["models"], "error: .*models is a folder"),
        (["empty.txt", "--stride", "0"], "error: stride is 0; it must be from 1 to 10"),
        (["empty.txt", "--device", "tpu"], "error: --device is 'tpu'; choose auto"),
    ],
)
def test_bad_input(
    score: Callable[..., str], trained: Path, arguments: list[str], message: str
) -> None:
    (trained / "empty.txt").touch()
    with pytest.raises(SystemExit, match=f"^{message}"):
        score(*arguments)
