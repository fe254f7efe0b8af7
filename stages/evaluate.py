"""Stage `evaluate`: score the validation text and write samples.

Params: sampling. Reads: models/lm/, models/tokenizer/, data/tokens/. Writes: models/metrics/,
        models/samples.md.
Run:    dvc repro evaluate   (by hand, from the repository root: python -m stages.evaluate)
"""

from dataclasses import asdict

from lmlib.checkpoint import ResumeStore
from lmlib.data import TokenDataset
from lmlib.evaluation import Evaluation, evaluate
from lmlib.files import write_atomically, write_json
from lmlib.params import load_params
from lmlib.sampling import SamplingParams, generate_text
from lmlib.separator import SEPARATOR
from lmlib.tracking import flatten, open_run
from stages.cli import run_stage
from stages.fingerprint import fingerprint
from stages.paths import (
    EVALUATE_METRICS,
    MODEL,
    PARAMS,
    SAMPLES,
    TOKENIZER,
    TRAIN_TOKENS,
    VALID_TOKENS,
    resume_folder,
    spool_folder,
)
from stages.trained import load_trained

BATCH_SIZE = 32  # sequences in a forward pass: a matter of memory and speed, not of results


def main() -> None:
    """Score the whole validation text, then continue the fixed prompts."""
    params = load_params(PARAMS, "sampling", SamplingParams)
    model, tokenizer = load_trained("auto")
    valid_data = TokenDataset.open(VALID_TOKENS)
    valid_data.require_tokenizer(TOKENIZER / "tokenizer.json")
    # a partial `dvc pull` may leave out what the training read: then its run is not known
    trained_as = fingerprint("train") if TRAIN_TOKENS.exists() else None

    with open_run(
        "evaluate",
        fingerprint("evaluate"),
        spool=spool_folder(),
        parent=trained_as,
        params=flatten({"sampling": params}),
    ) as run:
        scores = evaluate(
            model,
            valid_data.tokens,
            valid_data.info.source_bytes,
            context_length=model.params.context_length,
            batch_size=BATCH_SIZE,
            start_id=tokenizer.special_ids.get(SEPARATOR),
        )
        write_json(EVALUATE_METRICS, asdict(scores))
        texts = generate_text(model, tokenizer, params.prompts, params)
        write_atomically(SAMPLES, _samples_page(params, scores, texts).encode("utf-8"))

        run.summary({f"evaluate/{k}": v for k, v in asdict(scores).items()}, on_parent=True)
        run.artifact(SAMPLES, "samples", on_parent=True)
        run.model(
            MODEL, TOKENIZER, asdict(params), bits_per_byte=scores.bits_per_byte, on_parent=True
        )
    if trained_as:
        # DVC has the trained model by now: what it was resumed from is no longer needed
        ResumeStore(resume_folder(trained_as)).discard()


def _samples_page(params: SamplingParams, scores: Evaluation, texts: list[str]) -> str:
    lines = [
        "# Samples",
        "",
        f"Validation loss {scores.loss:.4f} nats per token, {scores.bits_per_byte:.4f} bits per "
        f"byte. Temperature {params.temperature:g}, top-k {params.top_k}, top-p "
        f"{params.top_p:g}, seed {params.seed}; the prompt is in bold.",
    ]
    for prompt, text in zip(params.prompts, texts, strict=True):
        quoted = f"**{prompt}**{text.rstrip()}".replace("\n", "\n> ")
        lines += ["", f"> {quoted}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_stage(main)
