"""Stage `encode`: turn the texts into shards of token ids.

Params: encode, cluster. Reads: data/raw/, models/tokenizer/. Writes: data/tokens/.
Run:    dvc repro encode   (by hand, from the repository root: python -m stages.encode)
"""

from lmlib.cluster import ClusterParams
from lmlib.corpus import read_texts
from lmlib.encoding import EncodeParams, encode_texts, remove_others
from lmlib.files import sha256_file
from lmlib.monitoring.progress import progress_bars
from lmlib.params import load_params
from lmlib.tokenizer import Tokenizer
from stages.cli import remedy, run_stage
from stages.cluster import cluster_workers, workers_for
from stages.paths import (
    PARAMS,
    RAW,
    TOKENIZER,
    TRAIN_TOKENS,
    VALID_TOKENS,
    partial_folder,
    resume_folder,
    root,
)
from stages.stage_run import stage_run


def main() -> None:
    """Encode the training and the validation text, as far as their tokens are not there already."""
    params = load_params(PARAMS, "encode", EncodeParams)
    store = load_params(PARAMS, "cluster", ClusterParams).store
    with remedy():
        tokenizer = Tokenizer.load(TOKENIZER)
    tokenizer_sha256 = sha256_file(TOKENIZER / "tokenizer.json")
    with (
        stage_run("encode", {"encode": params}, makes_model=False) as run,
        cluster_workers() as cluster,
    ):
        partial = None if cluster else partial_folder()  # which workers need not see
        for folder in (TRAIN_TOKENS, VALID_TOKENS):
            with remedy():
                texts = read_texts(RAW, folder.name, root(), partial)
            # what is finished is of use to any run with this tokenizer
            workshop = resume_folder(f"encode-{folder.name}-{tokenizer_sha256[:16]}")
            with (
                progress_bars({"encode": "B"}) as on_progress,
                workers_for(texts, cluster) as executor,
            ):
                index = encode_texts(
                    tokenizer,
                    tokenizer_sha256,
                    texts,
                    folder,
                    workshop,
                    params,
                    executor=executor,
                    store=store,
                    on_progress=on_progress,
                )
            if not index.info.source_bytes:
                raise ValueError(
                    f"corpus: the hash of no document puts it into {folder.name}; name validation "
                    "files in corpus.valid"
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
