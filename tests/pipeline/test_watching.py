"""Samples while a model trains: in the log and on a page; never a reason for a run to fail."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmlib.data import TokenDataset
from lmlib.files import sha256_file
from lmlib.tokenizer import Tokenizer
from lmlib.tokens import TokenInfo
from stages.paths import TOKENIZER
from stages.watching import PAGE, watching
from tests.pipeline.imports import ROOT
from tests.tiny_models import successor

BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)


class Record:
    """A run of the tracker that only notes what it gets."""

    def __init__(self) -> None:
        self.artifacts: list[tuple[Path, str]] = []

    def artifact(self, path: Path, folder: str) -> None:
        self.artifacts.append((path, folder))


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenDataset:
    """Tokens of the tokenizer in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "params.yaml", "params.yaml")
    BYTES.save(TOKENIZER)
    info = TokenInfo(
        tokens=4,
        vocab_size=256,
        tokenizer_sha256=sha256_file(TOKENIZER / "tokenizer.json"),
        source_bytes=4,
        documents=1,
        separator_id=None,
    )
    return TokenDataset(np.arange(4, dtype=np.uint16), info, "tokens.npy")


def test_a_sample_is_logged_and_on_the_page(
    tokens: TokenDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of at most 80 tokens, in lines of at most 80 columns; the newest is first on the page."""
    run: Any = Record()
    write, show = watching(run, tmp_path / "states", tokens, 10)
    assert write is not None
    assert len(write(successor(256, 30.0)).encode("latin-1", "replace")) <= 80
    with caplog.at_level(logging.INFO):
        show([(10, " a\n\nb\x1b[2J"), (20, " *c*")])
        show([(10, " a\n\nb\x1b[2J")])
        show([(30, " the" * 20)])
    assert caplog.messages == [
        "step 20: Once upon a time *c*",
        r"step 10: Once upon a time a b\x1b[2J",
        f"step 30: Once upon a time{' the' * 13}\n  the the the the the the the",
    ]
    path = tmp_path / "states" / PAGE
    assert run.artifacts == [(path, "samples")] * 3
    show([(10, " a\n\nb\x1b[2J"), (20, " *c*")])
    page = path.read_text(encoding="utf-8")
    assert page.startswith("# Samples while training\n\nAt most 80 tokens, temperature 0.4, seed 1")
    assert page.endswith(
        "\n## Step 20\n\n> **Once upon a time** &#42;c&#42;\n"
        "\n## Step 10\n\n> **Once upon a time** a\n> \n> b&#92;x1b&#91;2J\n"
    )


@pytest.mark.parametrize(
    ("every", "prompts"), [(0, '["Once upon a time"]'), (10, "[]")], ids=["off", "no prompts"]
)
def test_no_samples_where_none_are_wanted(
    tokens: TokenDataset, tmp_path: Path, every: int, prompts: str, caplog: Any
) -> None:
    edit_prompts(prompts)
    write, show = watching(Record(), tmp_path, tokens, every)  # type: ignore[arg-type]
    assert write is None
    show([(1, "text")])
    assert not caplog.messages


def test_what_is_missing_is_a_warning(
    tokens: TokenDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run: Any = Record()
    edit_prompts("3")
    assert watching(run, tmp_path, tokens, 10)[0] is None
    shutil.copy2(ROOT / "params.yaml", "params.yaml")
    shutil.rmtree(TOKENIZER)
    assert watching(run, tmp_path, tokens, 10)[0] is None
    first, second = caplog.messages
    assert first.startswith("no samples while training: params.yaml: sampling.prompts is")
    assert second.startswith("no samples while training: models/tokenizer")


def edit_prompts(value: str) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    before, _, rest = text.partition("  prompts:\n")
    _, _, after = rest.partition("  max_tokens:")
    Path("params.yaml").write_text(f"{before}  prompts: {value}\n  max_tokens:{after}", "utf-8")
