"""Stage `evaluate`: score the validation text, write samples and measure how new they are.

Params: evaluation, sampling. Reads: models/lm/, models/tokenizer/, data/tokens/.
Writes: models/metrics/, models/plots/position.csv, models/samples.md.
Run:    dvc repro evaluate   (by hand, from the repository root: python -m stages.evaluate)
"""

import dataclasses

from lmlib.data import TokenDataset
from lmlib.evaluation import (
    CopiedSpan,
    Evaluation,
    EvaluationParams,
    compare_with_training,
    continuation_ids,
    evaluate,
    first_documents,
    position_curve,
    quoted,
)
from lmlib.files import write_atomically, write_csv, write_json
from lmlib.params import load_params
from lmlib.runtime import resolve_device
from lmlib.sampling import SamplingParams, generate_text, require_sampling_memory
from lmlib.separator import separator_id
from lmlib.states import discard
from lmlib.tokenizer import Tokenizer
from stages.cli import remedy, run_stage
from stages.fingerprint import fingerprint
from stages.paths import (
    EVALUATE_METRICS,
    MODEL,
    PARAMS,
    POSITION_CURVE,
    SAMPLES,
    TOKENIZER,
    TRAIN_TOKENS,
    VALID_TOKENS,
    resume_folder,
)
from stages.stage_run import stage_run
from stages.trained import load_trained


def main() -> None:
    """Score the validation text, continue the prompts, compare samples with the training text."""
    params = load_params(PARAMS, "evaluation", EvaluationParams)
    sampling = load_params(PARAMS, "sampling", SamplingParams)
    model, tokenizer = load_trained(resolve_device(params.device, "evaluation.device"))
    require_sampling_memory(model, len(sampling.prompts), sampling)
    with remedy():
        train_data, valid_data = TokenDataset.open(TRAIN_TOKENS), TokenDataset.open(VALID_TOKENS)
        for data in (train_data, valid_data):
            data.require_tokenizer(TOKENIZER / "tokenizer.json")
    trained_as = fingerprint("train")

    sections = {"evaluation": params, "sampling": sampling}
    with stage_run("evaluate", sections, parent=trained_as) as run:
        separator = separator_id(tokenizer.special_ids)
        scores = evaluate(
            model,
            valid_data.tokens,
            valid_data.info.source_bytes,
            context_length=model.params.context_length,
            windows=params.windows,
            stride=params.stride,
            start_id=separator,
        )
        texts = [
            (prompt, text)
            for prompt, continuations in zip(
                sampling.prompts,
                generate_text(model, tokenizer, sampling.prompts, sampling),
                strict=True,
            )
            for text in continuations
        ]
        samples = [
            continuation_ids(tokenizer, prompt, text, allow_special=sampling.allow_special)
            for prompt, text in texts
        ]
        comparison = compare_with_training(
            samples,
            train_data.tokens,
            first_documents(valid_data.tokens, separator, sampling.max_tokens),
            separator,
            params.copied_tokens,
        )
        metrics = scores.metrics() | comparison.metrics
        curve = position_curve(scores)

        write_json(EVALUATE_METRICS, metrics)
        write_csv(POSITION_CURVE, [{"context": f"{x:g}", "loss": loss} for x, loss in curve])
        page = samples_page(sampling, scores, tokenizer, texts, samples, comparison.spans)
        write_atomically(SAMPLES, page.encode("utf-8"))
        run.summary({f"evaluate/{name}": value for name, value in metrics.items()}, on_parent=True)
        run.artifact(POSITION_CURVE, "curves", on_parent=True)
        run.artifact(SAMPLES, "samples", on_parent=True)
        run.model(
            MODEL,
            TOKENIZER,
            dataclasses.asdict(sampling),
            bits_per_byte=scores.bits_per_byte,
            on_parent=True,
        )
    # DVC has the model by now; a training that has not ended is another one
    discard(resume_folder(trained_as))


def samples_page(
    params: SamplingParams,
    scores: Evaluation,
    tokenizer: Tokenizer,
    texts: list[tuple[str, str]],
    samples: list[list[int]],
    spans: list[CopiedSpan],
) -> str:
    """Return the samples as Markdown, each with its longest run of tokens of the training text."""
    lines = [
        "# Samples",
        "",
        f"Validation loss {scores.loss:.4f} nats per token, {scores.bits_per_byte:.4f} bits per "
        f"byte. Temperature {params.temperature:g}, top-k {params.top_k}, top-p "
        f"{params.top_p:g}, seed {params.seed}; the prompt is in bold. Below each sample stands "
        "its longest run of tokens that occurs in the training text.",
    ]
    for (prompt, text), ids, span in zip(texts, samples, spans, strict=True):
        shown = f"**{quoted(prompt)}**{quoted(text.rstrip())}".replace("\n", "\n> ")
        copied = tokenizer.decode(ids[span.start : span.start + span.length])
        copied = quoted(" ".join(copied.split()))
        where = f"{span.length} of {len(ids)} tokens, there from token {span.train_start:,} on"
        lines += ["", f"> {shown}", "", f"{where}: “{copied}”" if span.length else "none"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_stage(main, lower="sampling.num_samples, sampling.max_tokens or the number of prompts")
