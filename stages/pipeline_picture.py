"""Print README's picture of the pipeline; run by hand, after a change of dvc.yaml.

Run: python -m stages.pipeline_picture > stages/pipeline.svg
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lmlib.files import read_yaml
from stages.cli import run_stage, say
from stages.paths import PIPELINE
from stages.pictures import LINE, line, svg, text

BOX_WIDTH, BOX_HEIGHT, GAP = 126, 40, 18


def main() -> None:
    """Print the picture."""
    say(pipeline_picture(read_yaml(PIPELINE)["stages"]))


def pipeline_picture(stages: Mapping[str, Any]) -> str:
    """Return a picture of the stages in order, with what each writes."""
    names = {name: _outs(stage) for name, stage in stages.items()}
    width = len(names) * (BOX_WIDTH + GAP) + GAP
    height = GAP + BOX_HEIGHT + GAP + LINE * max(map(len, names.values())) + GAP

    def parts() -> Iterator[str]:
        middle = GAP + BOX_HEIGHT / 2
        for number, (name, outs) in enumerate(names.items()):
            left = GAP + number * (BOX_WIDTH + GAP)
            box = f'x="{left}" y="{GAP}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"'
            yield f'<rect class="box" {box}/>'
            yield text(left + BOX_WIDTH / 2, middle + 4, name, "middle", strong=True)
            if number:
                yield line("axis", left - GAP, middle, left - 5, middle)
                tip = f"M{left - 6} {middle - 4}L{left} {middle}L{left - 6} {middle + 4}"
                yield f'<path class="axis" d="{tip}"/>'
            for number_of_line, out in enumerate(outs, start=1):
                at = GAP + BOX_HEIGHT + GAP / 2 + LINE * number_of_line
                yield text(left + BOX_WIDTH / 2, at, out, "middle")

    return svg("The stages of the pipeline, and what they write", width, height, parts())


def _outs(stage: Mapping[str, Any]) -> list[str]:
    """Return the names of what a stage writes, without metrics and plots."""
    outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
    return [out for out in outs if not out.startswith("models/plots/")]


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    run_stage(main)
