"""Stage `train_tokenizer`: learn the byte-pair encoding of the training text.

Params: tokenizer. Reads: the training text in data/raw/.
Writes: models/tokenizer/, models/metrics/, models/plots/token_lengths.csv.
Run:    dvc repro train_tokenizer   (by hand, from the root: python -m stages.train_tokenizer)
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmlib.corpus import Text, read_texts
from lmlib.files import write_csv, write_json
from lmlib.monitoring.progress import progress_bars
from lmlib.params import load_params
from lmlib.tokenizer import Tokenizer, TokenizerParams, train_bpe
from stages.cli import remedy, run_stage
from stages.cluster import cluster_workers, workers_for
from stages.paths import (
    PARAMS,
    RAW,
    TOKEN_LENGTHS,
    TOKENIZER,
    TOKENIZER_METRICS,
    partial_folder,
    root,
)
from stages.stage_run import stage_run

SAMPLE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


def main() -> None:
    """Learn from the training text only: the validation text stays unseen."""
    params = load_params(PARAMS, "tokenizer", TokenizerParams)
    special_tokens = list(params.special_tokens)
    head = bytearray()
    with (
        stage_run("train_tokenizer", {"tokenizer": params}, makes_model=False) as run,
        cluster_workers() as cluster,
    ):
        partial = None if cluster else partial_folder()  # which workers need not see
        with remedy():
            texts = read_texts(RAW, "train", root(), partial)
        with (
            progress_bars({"count": "B", "merge": "merges"}) as on_progress,
            workers_for(texts, cluster) as executor,
        ):
            vocab, merges = train_bpe(
                [HeadedText(text, head) for text in texts],
                params.vocab_size,
                special_tokens,
                pattern=params.pattern,
                executor=executor,
                on_progress=on_progress,
                sample_bytes=params.sample_bytes,
            )
        tokenizer = Tokenizer(vocab, merges, special_tokens, pattern=params.pattern)
        warn_if_smaller(tokenizer.vocab_size, params.vocab_size)
        tokenizer.save(TOKENIZER)
        metrics = _statistics(tokenizer, bytes(head))
        write_json(TOKENIZER_METRICS, metrics)
        lengths = sorted(Counter(map(len, _learnt(tokenizer))).items())
        rows = [{"bytes": length, "tokens": count} for length, count in lengths]
        write_csv(TOKEN_LENGTHS, rows)
        run.summary({f"tokenizer/{key}": value for key, value in metrics.items()})
        run.artifact(TOKENIZER / "tokenizer.json")
        run.artifact(TOKEN_LENGTHS, "curves")


@dataclass(frozen=True)
class HeadedText:
    """A text that adds its first bytes to `head` when it is opened, up to SAMPLE_BYTES in all.

    So statistics need not open it a second time, which may be a second download. A worker gets the
    text alone, and sends these bytes with its counts.
    """

    text: Text
    head: bytearray

    @property
    def num_bytes(self) -> int | None:
        """Return the size of the text, if it is known."""
        return self.text.num_bytes

    @property
    def is_in_place(self) -> bool:
        """Return whether the opened file stays."""
        return self.text.is_in_place

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Yield a file of plain text."""
        with self.text.open() as path:
            with path.open("rb") as file:
                self.keep_start(file.read(self.start_bytes))
            yield path

    @property
    def start_bytes(self) -> int:
        """Return how many bytes `head` lacks."""
        return SAMPLE_BYTES - len(self.head)

    def keep_start(self, start: bytes) -> None:
        """Add the first bytes of the text."""
        self.head.extend(start[: self.start_bytes])

    def __reduce__(self) -> tuple[Any, ...]:
        return replace, (self.text,)

    def __str__(self) -> str:
        return self.text.name


def warn_if_smaller(found: int, asked: int) -> None:
    """Say why a vocabulary has fewer tokens than were asked for, if it has."""
    if found < asked:
        logger.warning(
            "the vocabulary has %s tokens, fewer than the %s of tokenizer.vocab_size: each word of "
            "the training text is one token by now, so no pair is left to merge",
            f"{found:,}",
            f"{asked:,}",
        )


def _learnt(tokenizer: Tokenizer) -> list[bytes]:
    """Return the tokens that are not special."""
    special_ids = set(tokenizer.special_ids.values())
    return [token for token_id, token in tokenizer.vocab.items() if token_id not in special_ids]


def _statistics(tokenizer: Tokenizer, head: bytes) -> dict[str, float]:
    """Return statistics of the vocabulary; bytes per token are those of `head`."""
    sample = head.decode("utf-8", errors="ignore")
    return {
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "longest_token_bytes": max(map(len, _learnt(tokenizer))),
        "bytes_per_token": round(len(sample.encode()) / max(len(tokenizer.encode(sample)), 1), 4),
    }


if __name__ == "__main__":
    run_stage(main, lower="tokenizer.vocab_size, or take a part of the corpus")
