"""Stage `train_tokenizer`: learn the byte-pair encoding of the training text.

Params: tokenizer. Reads: data/raw/train.txt.
Writes: models/tokenizer/, models/metrics/, models/plots/token_lengths.csv.
Run:    dvc repro train_tokenizer   (by hand, from the root: python -m stages.train_tokenizer)
"""

import logging
from collections import Counter

from lmlib.files import write_csv, write_json
from lmlib.monitoring.progress import progress_bars
from lmlib.params import load_params
from lmlib.tokenizer import Tokenizer, TokenizerParams, train_bpe
from stages.cli import run_stage
from stages.paths import PARAMS, RAW_TRAIN, TOKEN_LENGTHS, TOKENIZER, TOKENIZER_METRICS
from stages.stage_run import stage_run

SAMPLE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


def main() -> None:
    """Learn from the training text only: the validation text stays unseen."""
    params = load_params(PARAMS, "tokenizer", TokenizerParams)
    special_tokens = list(params.special_tokens)
    with stage_run("train_tokenizer", {"tokenizer": params}, makes_model=False) as run:
        with progress_bars({"count": "B", "merge": "merges"}) as on_progress:
            vocab, merges = train_bpe(
                RAW_TRAIN,
                params.vocab_size,
                special_tokens,
                pattern=params.pattern,
                on_progress=on_progress,
            )
        tokenizer = Tokenizer(vocab, merges, special_tokens, pattern=params.pattern)
        warn_if_smaller(tokenizer.vocab_size, params.vocab_size)
        tokenizer.save(TOKENIZER)
        metrics = _statistics(tokenizer)
        write_json(TOKENIZER_METRICS, metrics)
        lengths = sorted(Counter(map(len, _learnt(tokenizer))).items())
        rows = [{"bytes": length, "tokens": count} for length, count in lengths]
        write_csv(TOKEN_LENGTHS, rows)
        run.summary({f"tokenizer/{key}": value for key, value in metrics.items()})
        run.artifact(TOKENIZER / "tokenizer.json")
        run.artifact(TOKEN_LENGTHS, "curves")


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


def _statistics(tokenizer: Tokenizer) -> dict[str, float]:
    """Return statistics of the vocabulary; bytes per token are those of the first SAMPLE_BYTES."""
    with RAW_TRAIN.open("rb") as file:
        sample = file.read(SAMPLE_BYTES).decode("utf-8", errors="ignore")
    return {
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "longest_token_bytes": max(map(len, _learnt(tokenizer))),
        "bytes_per_token": round(len(sample.encode()) / max(len(tokenizer.encode(sample)), 1), 4),
    }


if __name__ == "__main__":
    run_stage(main, lower="tokenizer.vocab_size, or take a part of the corpus")
