"""Run a predefined study: DVC experiments that differ in one thing, with a table and a chart.

Reads:  stages/studies.yaml; params.yaml, which every experiment starts from.
Writes: models/studies/NAME.md and .svg, which git ignores, so that `git stash` keeps them;
        the experiments themselves stay in DVC and MLflow.
Run:    make sweep-lr   (by hand: python -m stages.study sweep-lr --jobs 2 --steps 200)
"""

import argparse
import json
import logging
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import vl_convert

from lmlib.files import parse_yaml, read_yaml, write_atomically
from stages.cli import run_stage, say
from stages.cores import THREADS, threads_of_each
from stages.curves import Point, read_curve
from stages.paths import (
    EVALUATE_DETAILS,
    EVALUATE_METRICS,
    PARAMS,
    STUDIES,
    TOKENIZER_METRICS,
    TRAIN_METRICS,
    VALID_CURVE,
)

logger = logging.getLogger(__name__)

Settings = dict[str, str]  # key of params.yaml: value, as for `dvc exp run -S`
QUIET = {"train.sample_every": "0"}  # nobody watches these experiments
CURVES, CURVES_TITLE = "-curves.svg", "Validation loss over compute"
WIDTH, HEIGHT = 480, 280  # of a chart, as in .dvc/plots/


@dataclass(frozen=True)
class Study:
    """Experiments that differ in one thing, as studies.yaml describes them."""

    title: str
    axis: str
    variants: dict[str, Settings]
    settings: Settings
    numeric: bool
    length: int
    curves: bool = False

    def of_length(self, steps: int, warmup: int) -> "Study":
        """Return the study with `steps` steps where it has `length`, and others in proportion.

        A warm-up, in params.yaml of `warmup` steps, only becomes shorter: longer runs need no
        longer one.
        """
        share = steps / self.length

        def scaled(settings: Settings) -> Settings:
            shares = {"train.num_steps": share, "train.valid_every": share}
            shares["optim.warmup_steps"] = min(1.0, share)
            return {
                key: str(max(1, round(int(value) * shares[key]))) if key in shares else value
                for key, value in settings.items()
            }

        settings = scaled({"optim.warmup_steps": str(warmup)} if share < 1 else {})
        return replace(
            self,
            settings=settings | scaled(self.settings),
            variants={label: scaled(own) for label, own in self.variants.items()},
            length=steps,
        )


@dataclass(frozen=True)
class Result:
    """The result of an experiment: scores of the validation text, in the units of the table."""

    label: str
    parameters: int
    tokens: int
    loss: float
    bits_per_byte: float
    floor: float | None = None  # in bits per byte: the least to be expected, where it is known
    curve: tuple[Point, ...] = ()  # FLOPs of the training so far, and the validation loss


def load_studies(path: Path) -> dict[str, Study]:
    """Return the studies of a YAML file by name; keys, labels and values become texts."""

    def texts(values: dict[Any, Any]) -> Settings:
        return {str(key): str(value) for key, value in values.items()}

    return {
        name: Study(
            title=entry["title"],
            axis=entry["axis"],
            numeric=entry["numeric"],
            curves=entry["curves"],
            length=entry["length"],
            settings=texts(entry["settings"]),
            variants={str(label): texts(own) for label, own in entry["variants"].items()},
        )
        for name, entry in read_yaml(path).items()
    }


STUDIES_BY_NAME = load_studies(Path(__file__).with_name("studies.yaml"))


def main() -> None:
    """Queue the experiments of the study, run them, and write their results."""
    args = _parse_arguments()
    study = STUDIES_BY_NAME[args.study]
    names = {f"{args.study}-{number}": label for number, label in enumerate(study.variants, 1)}
    params = read_yaml(PARAMS)
    study = study.of_length(args.steps or study.length, params["optim"]["warmup_steps"])
    own = own_settings(args.set_param, study, params)
    for label, settings in study.variants.items():
        check_settings(params, study.settings | settings | own, f"{args.study}, {label}")
    outs = [STUDIES / f"{args.study}{ending}" for ending in (".md", ".svg", CURVES)]
    if (kept := committed(outs)) and not args.overwrite:
        raise ValueError(
            f"{kept[0]} is committed, and this study would replace it; say so with "
            f"`make {args.study} OVERWRITE=1` (--overwrite), or move it"
        )
    if waiting := sorted(experiments("queued", "running").keys() & names.keys()):
        raise ValueError(
            f"{args.study}: {', '.join(waiting)} of an earlier call is still queued or running; "
            "let it finish (`dvc queue start`), or end it with `dvc queue remove --queued` and "
            "`dvc queue kill`"
        )
    if old := sorted(experiments("success").keys() & names.keys()):
        _dvc("exp", "remove", *old)  # the run cache still has their results
    for name, label in names.items():
        settings = QUIET | study.settings | study.variants[label] | own
        options = [option for item in settings.items() for option in ("-S", "=".join(item))]
        _dvc("exp", "run", "--queue", "--name", name, "evaluate", *options)
    # set here, so that the last one gets no more threads than the others
    env = {THREADS: str(threads_of_each(args.jobs))} | os.environ
    # fails if one of them fails; the page then says which
    subprocess.run(["dvc", "exp", "run", "--run-all", "--jobs", str(args.jobs)], env=env)
    results = _results(names, curves=study.curves)
    if not results:
        raise ValueError(f"{args.study}: no experiment has finished; see `dvc queue status`")
    reached = {result.label for result in results}
    for name, label in names.items():
        if label not in reached:
            logger.warning("%s did not finish: `dvc queue logs %s` says why", label, name)
    write_atomically(STUDIES / f"{args.study}.svg", chart(study, results).encode())
    if study.curves:
        write_atomically(STUDIES / f"{args.study}{CURVES}", curves(study, results).encode())
    page = STUDIES / f"{args.study}.md"
    write_atomically(page, report(args.study, study, own, results).encode())
    say(f"{page.read_text(encoding='utf-8')}\nwritten to {page}\n")


def report(name: str, study: Study, own: Settings, results: list[Result]) -> str:
    """Return the page of a study: what was run, a row for each variant, the best in bold."""
    shared = " ".join(f"{key}={value}" for key, value in (study.settings | own).items())
    is_usual = study.length == STUDIES_BY_NAME.get(name, study).length
    length = "" if is_usual else f" STEPS={study.length}"
    best = min(results, key=lambda result: result.bits_per_byte)
    of_label = {result.label: result for result in results}
    lines = [
        f"# {study.title}",
        "",
        f"`make {name}{length}`: {len(study.variants)} experiments from the settings of params.yaml"
        + (f", all with `{shared}`" if shared else "")
        + ". Loss and bits per byte are of the whole validation text.",
        "",
        f"| {study.axis} | changed | weights | tokens | loss (nats per token) | bits per byte |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for label, settings in study.variants.items():
        changed = " ".join(f"{key}={value}" for key, value in settings.items())
        row = f"| {label} | {f'`{changed}`' if changed else ''} | "
        if result := of_label.get(label):
            bits = f"{result.bits_per_byte:.4f}"
            row += f"{result.parameters:,} | {result.tokens:,} | {result.loss:.4f} | "
            row += f"**{bits}** |" if result is best else f"{bits} |"
        else:
            row += "| | did not finish | |"
        lines.append(row)
    if (floor := _floor(results)) is not None:
        lines += [
            "",
            f"No model can be expected below {floor:.4f} bits per byte (the dashed line).",
        ]
    lines += ["", f"![{study.title}]({name}.svg)"]
    if study.curves:
        lines += ["", f"![{CURVES_TITLE}]({name}{CURVES})"]
    return "\n".join([*lines, ""])


def _floor(results: list[Result]) -> float | None:
    """Return the floor of the validation text, if it is known and the same for all results."""
    floors = {result.floor for result in results}
    return floors.pop() if len(floors) == 1 else None


def chart(study: Study, results: list[Result]) -> str:
    """Return an SVG of bits per byte over the variants: a line with points, or a bar for each.

    The floor, where it is known, is a dashed line.
    """
    rows = [
        {study.axis: float(result.label) if study.numeric else result.label}
        | {"bits per byte": result.bits_per_byte}
        for result in results
    ]
    if study.numeric:
        marks: Any = {"type": "line", "point": True}
        variants: dict[str, Any] = {"type": "quantitative", "scale": {"type": "log", "nice": False}}
        variants["axis"] = {"values": [row[study.axis] for row in rows], "format": "~g"}
        scores: dict[str, Any] = {"scale": {"zero": False}}
        across, up = "x", "y"
    else:
        marks = "bar"
        variants = {"type": "nominal", "sort": None, "axis": {"labelLimit": 400}}
        scores = {}
        across, up = "y", "x"
    encoding = {
        across: {"field": study.axis, **variants},
        up: {
            "field": "bits per byte",
            "type": "quantitative",
            "title": "validation (bits per byte)",
            **scores,
        },
    }
    layers = [{"mark": marks, "encoding": encoding}, *_floor_line(up, _floor(results))]
    return _svg(study.title, rows, layers)


def curves(study: Study, results: list[Result]) -> str:
    """Return an SVG of the validation losses during training, over the FLOPs of the training.

    Where a curve is the lowest, its variant makes the most of that much compute.
    """
    rows = [
        {study.axis: result.label, "flops": flops, "loss": loss}
        for result in results
        for flops, loss in result.curve
    ]
    loss: dict[str, Any] = {"field": "loss", "type": "quantitative"}
    loss |= {"title": "loss (nats per token)", "scale": {"type": "log", "nice": False}}
    flops = {"field": "flops", "type": "quantitative"}
    flops |= {"title": "FLOPs of the training", "axis": {"format": "~e"}}
    colour = {"field": study.axis, "type": "nominal", "sort": list(study.variants)}
    encoding = {
        "x": flops | {"scale": {"type": "log", "nice": False}},
        "y": loss,
        "color": colour | {"legend": {"orient": "bottom"}},
    }
    mark = {"type": "line", "point": True}
    floor = _floor(results)
    of_tokens = None if floor is None else floor * results[0].loss / results[0].bits_per_byte
    layers = [{"mark": mark, "encoding": encoding}, *_floor_line("y", of_tokens)]
    return _svg(CURVES_TITLE, rows, layers)


def _floor_line(axis: str, floor: float | None) -> list[dict[str, Any]]:
    """Return the layers of the floor: a dashed line and its name; none if it is not known."""
    if floor is None:
        return []
    start: dict[str, Any]
    if axis == "y":
        text, start = {"align": "left", "dx": 4, "dy": -6}, {"x": {"value": 0}}
    else:
        text, start = {"align": "center", "dy": -6}, {"y": {"value": 0}}  # above the bars
    once = {"data": {"values": [{}]}}  # not for each row of the chart
    rule = {"type": "rule", "strokeDash": [4, 4]}
    word = {"type": "text", "text": "floor", **text}
    return [
        once | {"mark": rule, "encoding": {axis: {"datum": floor}}},
        once | {"mark": word, "encoding": {axis: {"datum": floor}} | start},
    ]


def _svg(title: str, rows: list[dict[str, Any]], layers: list[dict[str, Any]]) -> str:
    return vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "title": title,
            "width": WIDTH,
            "height": HEIGHT,
            "background": "white",
            "data": {"values": rows},
            "layer": layers,
        }
    )


def _results(names: dict[str, str], *, curves: bool) -> list[Result]:
    """Return the results of the experiments that finished, with `curves` with theirs."""
    finished = experiments("success")
    results = []
    for name, label in names.items():
        if name in finished:
            data = finished[name]
            train, scores, details = (
                data["metrics"][path.as_posix()]["data"]
                for path in (TRAIN_METRICS, EVALUATE_METRICS, EVALUATE_DETAILS)
            )
            numbers = train["parameters"], train["tokens"], scores["loss"], scores["bits_per_byte"]
            curve = _curve(data) if curves else ()
            results.append(Result(label, *numbers, details.get("floor_bits_per_byte"), curve))
    return results


def _curve(data: dict[str, Any]) -> tuple[Point, ...]:
    """Return the validation losses of an experiment over the FLOPs of its training."""
    from lmlib.model import ModelParams, flops_per_token  # here: torch takes seconds
    from lmlib.params import from_dict

    sizes = data["params"][PARAMS.as_posix()]["data"]["model"]
    vocabulary = data["metrics"][TOKENIZER_METRICS.as_posix()]["data"]["vocab_size"]
    train = data["metrics"][TRAIN_METRICS.as_posix()]["data"]
    per_token = flops_per_token(from_dict(ModelParams, sizes, where="model"), vocabulary)
    per_step = per_token * train["tokens"] / train["steps"]
    shown = ["git", "show", f"{data['rev']}:{VALID_CURVE.as_posix()}"]
    text = subprocess.run(shown, stdout=subprocess.PIPE, check=True).stdout.decode()
    return tuple((step * per_step, loss) for step, loss in read_curve(text))


def experiments(*states: str) -> dict[str, dict[str, Any]]:
    """Return DVC's data on the experiments since the last commit in these states, by name.

    States are "queued", "running", "failed" and "success". Only the last have metrics of their own:
    DVC shows the others with those of the commit they started from.
    """
    done = subprocess.run(["dvc", "exp", "show", "--json"], stdout=subprocess.PIPE, check=True)
    groups = [group for commit in json.loads(done.stdout) for group in commit["experiments"] or []]
    return {
        entry["name"]: entry["data"]
        for group in groups
        if (group["executor"] or {}).get("state", "success") in states
        for entry in group["revs"]
    }


def own_settings(given: list[str], study: Study, params: dict[str, Any]) -> Settings:
    """Return the given settings; raise ValueError for one not in `params` or set by the study."""
    parts = (setting.partition("=") for setting in given)
    settings = {key: value for key, _, value in parts}
    changed = {key for variant in study.variants.values() for key in variant}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if key in changed:
            reason = "is what the study changes"
        elif name not in params.get(section, ()):
            reason = f"is not in {PARAMS}"
        elif not value:
            reason = "has no value"
        else:
            continue
        raise ValueError(f"-S {key}: {reason}; write KEY=VALUE with another key")
    return settings


def check_settings(params: dict[str, Any], settings: Settings, where: str) -> None:
    """Raise ValueError, which begins with `where`, for settings that the stage `train` refuses."""
    from lmlib.model import ModelParams  # here: torch takes seconds
    from lmlib.optim import OptimParams
    from lmlib.params import from_dict
    from lmlib.training import Settings as AllSettings
    from lmlib.training import TrainParams

    sections = {name: dict(params[name]) for name in ("model", "optim", "train")}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if section in sections:
            sections[section][name] = parse_yaml(value, f"{where}: {key}")
    try:
        AllSettings(
            model=from_dict(ModelParams, sections["model"], where="model"),
            optim=from_dict(OptimParams, sections["optim"], where="optim"),
            train=from_dict(TrainParams, sections["train"], where="train"),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def committed(paths: list[Path]) -> list[Path]:
    """Return those of the files that git knows."""
    command = ["git", "ls-files", "-z", "--", *map(str, paths)]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name]


def _dvc(*arguments: str) -> None:
    """Run a command of DVC; raise OSError when it fails."""
    status = subprocess.run(["dvc", *arguments]).returncode
    if status:
        raise OSError(f"`dvc {' '.join(arguments)}` ended with {status}; see above")


def positive(text: str) -> int:
    """Return the number; argparse turns the ValueError into a message."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.study", description="Run a study of DVC experiments."
    )
    parser.add_argument("study", choices=STUDIES_BY_NAME)
    parser.add_argument("--jobs", type=positive, default=2, help="run at a time (%(default)s)")
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="length; the study's own is in studies.yaml"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a committed page")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of params.yaml for every experiment",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
