"""Print the page of all parameters; run by hand.

Run: python -m stages.parameters > stages/PARAMETERS.md

Default and meaning come from params.yaml and its comments, the allowed values from the dataclasses
of lmlib, and which stages read a parameter from dvc.yaml.
"""

import re
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from lmlib.cluster import ClusterParams
from lmlib.corpus import CorpusParams
from lmlib.encoding import EncodeParams
from lmlib.evaluation import EvaluationParams
from lmlib.files import read_yaml
from lmlib.model import ModelParams
from lmlib.optim import OptimParams
from lmlib.params import Bound
from lmlib.sampling import SamplingParams
from lmlib.tokenizer import TokenizerParams
from lmlib.training import TrainParams
from stages.cli import run_stage, say
from stages.paths import PARAMS

SECTIONS: dict[str, type] = {
    "corpus": CorpusParams,
    "tokenizer": TokenizerParams,
    "encode": EncodeParams,
    "cluster": ClusterParams,
    "model": ModelParams,
    "optim": OptimParams,
    "train": TrainParams,
    "evaluation": EvaluationParams,
    "sampling": SamplingParams,
}
INTRODUCTION = """\
# Parameters

All keys of [params.yaml](../params.yaml), as `python -m stages.parameters` prints them. A key that
is unknown, missing, of the wrong type or out of bounds is an error that names it. An experiment
changes one with `dvc exp run -S SECTION.KEY=VALUE`: DVC then runs the stages that read it, and
those that depend on what they write.
"""


def main() -> None:
    """Print the page."""
    text = PARAMS.read_text(encoding="utf-8")
    say(INTRODUCTION)
    for section, cls in SECTIONS.items():
        values = read_yaml(PARAMS)[section]
        meanings = dict(_comments(text, section))
        hints = typing.get_type_hints(cls, include_extras=True)
        say(f"\n## {section}\n\nRead by: {_readers(section)}.\n\n")
        say("| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n")
        for key in values:
            cells = f"`{key}`", _default(text, section, key), _allowed(hints[key]), meanings[key]
            say("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")


def _comments(text: str, section: str) -> Iterator[tuple[str, str]]:
    """Yield each key of a section with its comment: of the lines before it, and of its own line."""
    before: list[str] = []
    for line in _lines(text, section):
        if line.startswith("  #"):
            before.append(line[3:].strip())
        elif match := re.match(r"  (\w+):[^#]*(?:#(.*))?", line):
            own = (match[2] or "").strip()
            yield match[1], "; ".join(filter(None, [" ".join(before), own]))
            before = []


def _default(text: str, section: str, key: str) -> str:
    """Return a key's value as the file writes it; a list in one line."""
    lines = _lines(text, section)
    first = next(i for i, line in enumerate(lines) if line.startswith(f"  {key}:"))
    value = lines[first].partition(":")[2].partition(" #")[0].strip()
    items = []
    for line in lines[first + 1 :]:
        if not line.startswith("    -"):
            break
        items.append(line.partition("-")[2].strip())
    return f"`{value or '[' + ', '.join(items) + ']'}`"


def _lines(text: str, section: str) -> list[str]:
    """Return the lines of a section, without its name."""
    body = re.split(rf"^{section}:.*\n", text, flags=re.MULTILINE)[1]
    return re.split(r"^\w", body, flags=re.MULTILINE)[0].splitlines()


def _allowed(hint: Any) -> str:
    """Return which values a type allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [note.text for note in hint.__metadata__ if isinstance(note, Bound)]
        kind = "whole number, " if arguments[0] is int else ""
        return kind + ", ".join(bounds) if bounds else _allowed(arguments[0])
    if origin is Literal:
        return " | ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_allowed, arguments))
    if origin is tuple:
        items = arguments if arguments[-1] is not Ellipsis else arguments[:1]
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} times "
        return f"list of {count}{_allowed(items[0])}"
    names = {int: "whole number", float: "number", bool: "`true` | `false`", str: "text"}
    return names[hint]


def _readers(section: str) -> str:
    """Return the stages that read a section, or keys of it."""
    found = []
    for name, stage in read_yaml("dvc.yaml")["stages"].items():
        read = [entry for entry in stage.get("params", []) if entry.partition(".")[0] == section]
        if read:
            keys = [f"`{entry}`" for entry in read if "." in entry]
            found.append(f"`{name}`" + (f" ({', '.join(keys)} only)" if keys else ""))
    return ", ".join(found)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    run_stage(main)
