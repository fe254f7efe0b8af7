"""Stage `download`: write the training and the validation text of the corpus, or where they are.

Params: corpus. Reads: what `corpus.source` names. Writes: data/raw/, models/metrics/.
Run:    dvc repro download   (by hand, from the repository root: python -m stages.download)
"""

from lmlib.corpus import CorpusParams, read_texts, write_corpus
from lmlib.corpus.texts import stored_bytes
from lmlib.files import write_json
from lmlib.params import load_params
from stages.cli import run_stage
from stages.paths import CORPUS_METRICS, PARAMS, RAW, RAW_TRAIN, RAW_VALID, root
from stages.stage_run import stage_run


def main() -> None:
    """Write both texts, or lists of files, and the floor of the validation text if it is known."""
    params = load_params(PARAMS, "corpus", CorpusParams)
    with stage_run("download", {"corpus": params}, makes_model=False) as run:
        floor = write_corpus(params, RAW_TRAIN, RAW_VALID, root())
        metrics = {} if floor is None else {"valid_floor_bits_per_byte": floor}
        write_json(CORPUS_METRICS, metrics)
        for name in ("train", "valid"):
            texts = read_texts(RAW, name, root())
            run.summary({f"{name}/files": len(texts), f"{name}/bytes": stored_bytes(texts)})
        for manifest in sorted(RAW.glob("*.json")):
            run.artifact(manifest, "corpus")
        if floor is not None:
            run.summary({"valid/floor_bits_per_byte": floor})


if __name__ == "__main__":
    run_stage(main)
