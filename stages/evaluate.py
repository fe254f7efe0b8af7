"""Stage `evaluate`: score the validation text, write samples and measure how new they are.

Params: evaluation, sampling, corpus.source, train.windows.
Reads:  models/lm/, models/tokenizer/, data/tokens/, models/metrics/{corpus,train}.json,
        models/plots/{train,valid}.csv.
Writes: models/metrics/, models/plots/, models/samples.md.
Run:    dvc repro evaluate   (by hand, from the repository root: python -m stages.evaluate)
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence

from lmlib.data import TokenDataset
from lmlib.evaluation import (
    CopiedSpan,
    Evaluation,
    EvaluationParams,
    compare_with_training,
    continuation_ids,
    evaluate,
    first_documents,
    names_kept,
    position_curve,
    quoted,
)
from lmlib.files import read_metrics, read_text, write_atomically, write_csv, write_json
from lmlib.model import TransformerLM
from lmlib.params import load_params, read_section
from lmlib.runtime import resolve_device
from lmlib.sampling import SamplingParams, generate_text, require_sampling_memory
from lmlib.separator import separator_id
from lmlib.states import discard
from lmlib.tokenizer import Tokenizer
from lmlib.toystories import child_names
from stages.cli import remedy, run_stage
from stages.curves import read_curve
from stages.fingerprint import fingerprint
from stages.paths import (
    CORPUS_METRICS,
    EVALUATE_DETAILS,
    EVALUATE_METRICS,
    FLOOR_CURVE,
    LOSSES_PICTURE,
    MODEL,
    PARAMS,
    POSITION_CURVE,
    SAMPLES,
    TOKENIZER,
    TRAIN_CURVE,
    TRAIN_METRICS,
    TRAIN_TOKENS,
    VALID_CURVE,
    VALID_TOKENS,
    resume_folder,
    shard_cache,
)
from stages.pictures import losses_picture
from stages.stage_run import stage_run
from stages.trained import load_trained
from stages.windows import windows_to_score

logger = logging.getLogger(__name__)

# what people compare first; `dvc exp show` has the other scores behind these
FIRST = ("bits_per_byte", "excess_bits_per_byte", "loss", "accuracy", "names_kept")
HELD_OUT_STORIES = 200  # validation stories of which the names are counted


def main() -> None:
    """Score the validation text, continue the prompts, compare samples with the training text."""
    params = load_params(PARAMS, "evaluation", EvaluationParams)
    params = dataclasses.replace(params, windows=windows_to_score(params.windows))
    sampling = load_params(PARAMS, "sampling", SamplingParams)
    model, tokenizer = load_trained(resolve_device(params.device, "evaluation.device"))
    is_toystories = read_section(PARAMS, "corpus").get("source") == "toystories"
    stories = stories_to_write(sampling, params.stories if is_toystories else 0)
    if is_toystories and params.stories and not sampling.prompts:
        logger.warning("no stories and no samples: sampling.prompts is empty")
    for each in (sampling, stories):
        require_sampling_memory(model, len(each.prompts), each)
    floor = read_metrics(CORPUS_METRICS).get("valid_floor_bits_per_byte")
    steps = read_metrics(TRAIN_METRICS, "steps")["steps"]
    with remedy():
        curves = read_curve(read_text(TRAIN_CURVE)), read_curve(read_text(VALID_CURVE))
        train_data = TokenDataset.open(TRAIN_TOKENS, shard_cache())
        valid_data = TokenDataset.open(VALID_TOKENS, shard_cache())
        for data in (train_data, valid_data):
            data.require_tokenizer(TOKENIZER / "tokenizer.json")
    trained_as = fingerprint("train")

    sections = {"evaluation": params, "sampling": sampling}
    with stage_run("evaluate", sections, parent=trained_as) as run:
        separator = separator_id(tokenizer.special_ids)
        logger.info("scoring %s tokens of validation text", f"{len(valid_data.tokens):,}")
        scores = evaluate(
            model,
            valid_data.tokens,
            valid_data.info.source_bytes,
            context_length=model.params.context_length,
            windows=params.windows,
            stride=params.stride,
            start_id=separator,
        )
        logger.info("writing samples, and looking for copies of the training text in them")
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
        if floor is not None:
            excess = scores.bits_per_byte - floor
            metrics |= {"floor_bits_per_byte": floor, "excess_bits_per_byte": excess}
        if stories.prompts:
            logger.info("writing %d stories, to see whether names are kept", params.stories)
            held_out = first_documents(
                valid_data.tokens, separator, sampling.max_tokens, HELD_OUT_STORIES
            )
            written = write_stories(model, tokenizer, stories)[: params.stories]
            metrics |= names_in(written, [tokenizer.decode(ids) for ids in held_out])
        curve = position_curve(scores)

        first = {name: metrics[name] for name in FIRST if name in metrics}
        write_json(EVALUATE_METRICS, first)
        write_json(EVALUATE_DETAILS, {x: metrics[x] for x in metrics if x not in first})
        line = floor_curve(floor, scores, valid_data.info.source_bytes, steps)
        write_csv(FLOOR_CURVE, line, ("step", "loss"))
        picture = losses_picture(*curves, [(point["step"], point["loss"]) for point in line])
        write_atomically(LOSSES_PICTURE, picture.encode("utf-8"))
        write_csv(POSITION_CURVE, [{"context": f"{x:g}", "loss": loss} for x, loss in curve])
        page = samples_page(sampling, metrics, tokenizer, texts, samples, comparison.spans)
        write_atomically(SAMPLES, page.encode("utf-8"))
        # MLflow's page sorts by name: these are below the curves of `train`
        run.summary({f"scores/{name}": value for name, value in metrics.items()}, on_parent=True)
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


def stories_to_write(sampling: SamplingParams, count: int) -> SamplingParams:
    """Return how to write `count` stories at least: the prompts in turn, each with new seeds."""
    prompts = sampling.prompts[:count]
    rounds = math.ceil(count / max(1, len(prompts)))
    return dataclasses.replace(sampling, prompts=prompts, num_samples=max(1, rounds))


def write_stories(
    model: TransformerLM, tokenizer: Tokenizer, params: SamplingParams
) -> list[tuple[str, str]]:
    """Return prompts and their continuations: the first of each prompt, then the second, ..."""
    texts = generate_text(model, tokenizer, params.prompts, params)
    return [
        pair
        for of_seed in zip(*texts, strict=True)
        for pair in zip(params.prompts, of_seed, strict=True)
    ]


def names_in(stories: Sequence[tuple[str, str]], held_out: Sequence[str]) -> dict[str, float]:
    """Return how far stories keep to the names of their children, and how far held-out ones do.

    Without names there is no share to report.
    """
    names = child_names()
    of_stories = names_kept(stories, names)
    of_held_out = names_kept([("", text) for text in held_out], names)
    shares = {"names_kept": of_stories, "held_out_names_kept": of_held_out}
    return {"names_counted": of_stories.counted} | {
        name: each.share for name, each in shares.items() if each.counted
    }


def floor_curve(
    floor: float | None, scores: Evaluation, source_bytes: int, steps: float
) -> list[dict[str, float]]:
    """Return the floor as a line from the first step of training to the last.

    floor: in bits per byte; the line is in nats per token of the validation text. Without it there
           are no rows, and `dvc plots` draws no line.
    """
    if floor is None:
        return []
    loss = floor * math.log(2) * source_bytes / scores.tokens
    return [{"step": step, "loss": loss} for step in (1, int(steps))]


def samples_page(
    params: SamplingParams,
    metrics: Mapping[str, float],
    tokenizer: Tokenizer,
    texts: list[tuple[str, str]],
    samples: list[list[int]],
    spans: list[CopiedSpan],
) -> str:
    """Return the samples as Markdown, each with its longest run of tokens of the training text."""
    scores = (
        f"Validation loss {metrics['loss']:.4f} nats per token, "
        f"{metrics['bits_per_byte']:.4f} bits per byte"
    )
    if "floor_bits_per_byte" in metrics:
        scores += (
            f", which is {metrics['excess_bits_per_byte']:.4f} above the floor of "
            f"{metrics['floor_bits_per_byte']:.4f}, the entropy of the corpus"
        )
    if metrics.keys() >= {"names_kept", "held_out_names_kept"}:
        scores += (
            f". Of the names after the first in a story, {metrics['names_kept']:.1%} had been "
            f"written before ({metrics['held_out_names_kept']:.1%} in validation stories)"
        )
    lines = [
        "# Samples",
        "",
        f"{scores}. Temperature {params.temperature:g}, top-k {params.top_k}, top-p "
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
