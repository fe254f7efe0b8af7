"""README's picture of the losses, as SVG that is readable on white and on black."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from stages.curves import SMALLEST, Point

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 140, 16, 44  # around the axes; at the right the names of the lines
TICKS = [factor * 10.0**power for power in range(-4, 3) for factor in (1, 2, 5)]

LINE = 16  # between lines of text

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.strong { fill: #1f2328; font-weight: 600; }
.axis { stroke: #8c959f; stroke-width: 1; fill: none; }
.grid { stroke: #8c959f; stroke-opacity: .25; }
.train { stroke: #8c959f; stroke-width: 1.5; fill: none; }
.valid { stroke: #0969da; stroke-width: 2.5; fill: none; }
.floor { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 6 4; }
.box { fill: #ddf4ff; stroke: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1; }
  .strong { fill: #f0f6fc; }
  .valid { stroke: #4493f8; }
  .floor { stroke: #db6d28; }
  .box { fill: #121d2f; stroke: #4493f8; }
}"""


def losses_picture(train: Sequence[Point], valid: Sequence[Point], floor: Sequence[Point]) -> str:
    """Return a chart of the losses by step, in nats per token, on a logarithmic scale.

    floor: two points of a line that no model can be expected to cross; may be empty
    """
    points = [*train, *valid, *floor]
    last = max((step for step, _ in points), default=1.0)
    values = [max(SMALLEST, loss) for _, loss in points] or [1.0]
    low, high = math.log(min(values) / 1.1), math.log(max(values) * 1.1)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss: float) -> float:
        share = (math.log(max(SMALLEST, loss)) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def parts() -> Iterator[str]:
        for tick in TICKS:
            if low <= math.log(tick) <= high:
                yield line("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick))
                yield text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end")
        for step in (0.0, last / 2, last):
            yield text(x(step), HEIGHT - BOTTOM + 18, f"{step:,.0f}", "middle")
        yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "step", "middle")
        yield text(WIDTH - RIGHT, TOP + 10, "loss, nats per token (log scale)", "end")
        corner = f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"
        yield f'<path class="axis" d="{corner}"/>'
        free = HEIGHT - BOTTOM + LINE  # the lowest place for a name
        for name, curve in (("floor", floor), ("train", train), ("valid", valid)):
            if not curve:
                continue
            path = "L".join(f"{x(step):.1f} {y(loss):.1f}" for step, loss in curve)
            yield f'<path class="{name}" d="M{path}"/>'
            free = min(free - LINE, y(curve[-1][1]) + 4)
            label = f"{LABELS[name]} {curve[-1][1]:.3f}"
            yield text(WIDTH - RIGHT + 8, free, label, "start", strong=name == "valid")

    return svg("Training and validation loss by step", WIDTH, HEIGHT, parts())


LABELS = {"floor": "floor", "train": "training", "valid": "validation"}


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line between two points."""
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:.1f}" x2="{x2:g}" y2="{y2:.1f}"/>'


def text(x: float, y: float, text: str, anchor: str, *, strong: bool = False) -> str:
    """Return a text at a point; `anchor` says which part of it: start, middle or end."""
    kind = ' class="strong"' if strong else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(title: str, width: float, height: float, parts: Iterator[str]) -> str:
    """Return a picture made of parts."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">'
    body = "\n".join(parts)
    return f"{head}\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n{body}\n</svg>\n"
