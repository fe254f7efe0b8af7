"""Texts that the model writes while it trains, in the log and in MLflow: they change no out."""

import dataclasses
import logging
import textwrap
from collections.abc import Callable
from pathlib import Path

from lmlib.data import TokenDataset
from lmlib.errors import describe
from lmlib.evaluation import quoted
from lmlib.files import write_atomically
from lmlib.model import TransformerLM
from lmlib.monitoring.tracking import Run
from lmlib.params import load_params
from lmlib.sampling import SamplingParams, generate_text
from lmlib.tokenizer import Tokenizer
from lmlib.visible import visible
from stages.paths import PARAMS, TOKENIZER

logger = logging.getLogger(__name__)

MAX_TOKENS = 80
COLUMNS = 80  # of the log
PAGE = "while_training.md"


class Watching:
    """What the main process does with the samples of a run: write them, log them, keep a page."""

    def __init__(
        self, run: Run, folder: Path, tokenizer: Tokenizer, params: SamplingParams
    ) -> None:
        self.run, self.folder, self.tokenizer = run, folder, tokenizer
        self.prompt = params.prompts[0]
        length = min(MAX_TOKENS, params.max_tokens)
        self.params = dataclasses.replace(params, num_samples=1, max_tokens=length)

    def write(self, model: TransformerLM) -> str:
        """Return how the model continues the first prompt."""
        ((text,),) = generate_text(model, self.tokenizer, [self.prompt], self.params)
        return text

    def show(self, texts: list[tuple[int, str]]) -> None:
        """Log the newest text, and send the page with all of them to the tracker."""
        step, text = texts[-1]
        line = visible(" ".join(f"step {step}: {self.prompt}{text}".split()))
        logger.info("%s", textwrap.fill(line, COLUMNS, subsequent_indent="  "))
        page = self.folder / PAGE
        write_atomically(page, self.page(texts).encode("utf-8"))
        self.run.artifact(page, "samples")

    def page(self, texts: list[tuple[int, str]]) -> str:
        """Return the texts as Markdown, the newest first."""
        lines = [
            "# Samples while training",
            "",
            f"At most {self.params.max_tokens} tokens, temperature {self.params.temperature:g}, "
            f"seed {self.params.seed}; the prompt is in bold.",
        ]
        for step, text in reversed(texts):
            shown = f"**{quoted(self.prompt)}**{quoted(text.rstrip())}".replace("\n", "\n> ")
            lines += ["", f"## Step {step}", "", f"> {shown}"]
        return "\n".join(lines) + "\n"


def watching(
    run: Run, folder: Path, tokens: TokenDataset, every: int
) -> tuple[Callable[[TransformerLM], str] | None, Callable[[list[tuple[int, str]]], None]]:
    """Return the hooks `write` and `on_sample` of a run that keeps its page in `folder`.

    They do nothing where no sample is wanted (`every` is 0, or there is no prompt), or, with a
    warning, where none can be made.
    """
    nothing = None, lambda texts: None
    if not every:
        return nothing
    try:
        params = load_params(PARAMS, "sampling", SamplingParams)
        tokens.require_tokenizer(TOKENIZER / "tokenizer.json")
        tokenizer = Tokenizer.load(TOKENIZER)
    except (OSError, ValueError) as error:
        logger.warning("no samples while training: %s", describe(error))
        return nothing
    if not params.prompts:
        return nothing
    own = Watching(run, folder, tokenizer, params)
    return own.write, own.show
