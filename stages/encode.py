"""Stage `encode`: turn the texts into shards of token ids.

Params: encode. Reads: data/raw/, models/tokenizer/. Writes: data/tokens/.
Run:    dvc repro encode   (by hand, from the repository root: python -m stages.encode)
"""

from lmlib.encoding import EncodeParams, TextFile, encode_texts, remove_others
from lmlib.files import sha256_file
from lmlib.monitoring.progress import progress_bars
from lmlib.params import load_params
from lmlib.tokenizer import Tokenizer
from stages.cli import remedy, run_stage
from stages.paths import (
    PARAMS,
    RAW_TRAIN,
    RAW_VALID,
    TOKENIZER,
    TRAIN_TOKENS,
    VALID_TOKENS,
    resume_folder,
)
from stages.stage_run import stage_run


def main() -> None:
    """Encode the training and the validation text, as far as their tokens are not there already."""
    params = load_params(PARAMS, "encode", EncodeParams)
    with remedy():
        tokenizer = Tokenizer.load(TOKENIZER)
    tokenizer_sha256 = sha256_file(TOKENIZER / "tokenizer.json")
    with stage_run("encode", {"encode": params}, makes_model=False) as run:
        for texts, folder in (
            ([TextFile(RAW_TRAIN)], TRAIN_TOKENS),
            ([TextFile(RAW_VALID)], VALID_TOKENS),
        ):
            # what is finished is of use to any run with this tokenizer
            workshop = resume_folder(f"encode-{folder.name}-{tokenizer_sha256[:16]}")
            with progress_bars({"encode": "B"}) as on_progress:
                index = encode_texts(
                    tokenizer, tokenizer_sha256, texts, folder, workshop, params, on_progress
                )
            numbers = {
                "tokens": index.info.tokens,
                "bytes": index.info.source_bytes,
                "documents": index.info.documents,
                "shards": len(index.shards),
            }
            run.summary({f"{folder.name}/{key}": value for key, value in numbers.items()})
        remove_others(TRAIN_TOKENS.parent, {TRAIN_TOKENS.name, VALID_TOKENS.name})


if __name__ == "__main__":
    run_stage(main)
