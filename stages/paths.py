"""All paths of the pipeline, relative to the working directory.

Under `dvc exp run --temp` and in the queue, a stage works in a temporary copy. What must outlive it
(resume states, events on their way to MLflow) is in `root()`, the real repository.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")

DATA, MODELS = Path("data"), Path("models")
RAW = Path("data/raw")
RAW_TRAIN = Path("data/raw/train.txt")  # where corpus.keep is `copy`
RAW_VALID = Path("data/raw/valid.txt")
TOKENIZER = Path("models/tokenizer")
TRAIN_TOKENS = Path("data/tokens/train")
VALID_TOKENS = Path("data/tokens/valid")
MODEL = Path("models/lm")
SAMPLES = Path("models/samples.md")
EXPORTED = Path("models/hf")
IMPORTED = Path("models/imported")
STUDIES = Path("models/studies")

CORPUS_METRICS = Path("models/metrics/corpus.json")
TOKENIZER_METRICS = Path("models/metrics/tokenizer.json")
TRAIN_METRICS = Path("models/metrics/train.json")
EVALUATE_METRICS = Path("models/metrics/evaluate.json")  # what people compare first
EVALUATE_DETAILS = Path("models/metrics/evaluate_details.json")  # the rest
HARNESS_METRICS = Path("models/metrics/lm_eval.json")
TOKEN_LENGTHS = Path("models/plots/token_lengths.csv")
TRAIN_CURVE = Path("models/plots/train.csv")
VALID_CURVE = Path("models/plots/valid.csv")
FLOOR_CURVE = Path("models/plots/floor.csv")
POSITION_CURVE = Path("models/plots/position.csv")
LOSSES_PICTURE = Path("models/plots/losses.svg")
VEGA = Path("dvc_plots/vega.js")  # where .dvc/plots/page.html looks for it


def root() -> Path:
    """Return the repository: DVC_ROOT inside a DVC stage, even in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def resume_folder(fingerprint: str) -> Path:
    """Return the folder of the unfinished run with this fingerprint."""
    return root() / "models" / ".resume" / fingerprint


def partial_folder() -> Path:
    """Return the folder of downloads, and of texts that are read from files of other formats."""
    return root() / "data" / ".partial"


def shard_cache() -> Path:
    """Return the folder of token shards that are fetched from a store."""
    return partial_folder() / "shards"


def spool_folder() -> Path:
    """Return the folder where events wait while the tracking server does not answer."""
    return root() / "models" / ".tracking"
