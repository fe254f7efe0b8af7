"""Loss curves: read from their files, and drawn in a terminal."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]  # (step, loss)

HEIGHT = 8
SMALLEST = 1e-4  # nats: the scale is logarithmic, and a loss may be 0
LABEL = 6  # characters of a number on the axis


@dataclass(frozen=True)
class Look:
    """Characters for what is drawn, and the codes around what should be dim."""

    valid: str = "•"
    train: str = "·"
    floor: str = "─"
    axis: str = "┤"
    side: str = "│"
    corner: str = "└"
    bottom: str = "─"
    dim: str = ""
    plain: str = ""

    def faint(self, text: str) -> str:
        """Return text that a terminal shows dimmer."""
        return f"{self.dim}{text}{self.plain}" if text.strip() else text


UNICODE = Look()
ASCII = Look(valid="*", train=".", floor="-", axis="|", side="|", corner="+", bottom="-")


def read_curve(text: str) -> list[Point]:
    """Return the columns step and loss of a CSV text; raise ValueError if they are not there."""
    try:
        return [
            (float(row["step"]), float(row["loss"])) for row in csv.DictReader(io.StringIO(text))
        ]
    except (KeyError, TypeError) as error:
        raise ValueError("not a curve: it needs numbers in the columns step and loss") from error


def draw(
    valid: Sequence[Point],
    train: Sequence[Point],
    floor: float | None,
    *,
    width: int,
    look: Look = UNICODE,
) -> list[str]:
    """Return lines of at most `width` characters: losses on a logarithmic scale over steps.

    The validation loss is in front of the training loss, and both of the floor. No lines if there
    is nothing to draw or no room.
    """
    columns = width - LABEL - 2
    losses = [loss for _, loss in (*valid, *train)] + ([] if floor is None else [floor])
    if not (valid or train) or columns < 10:
        return []
    low, high = (math.log(max(SMALLEST, x)) for x in (min(losses), max(losses)))
    last = max(step for step, _ in (*valid, *train))

    def row(loss: float) -> int:
        """Return the line, from the top."""
        height = (math.log(max(SMALLEST, loss)) - low) / max(high - low, 1e-9)
        return round((HEIGHT - 1) * (1 - height))

    def column(step: float) -> int:
        return round((columns - 1) * step / max(last, 1))

    cells = [[" "] * columns for _ in range(HEIGHT)]
    if floor is not None:
        cells[row(floor)] = [look.faint(look.floor)] * columns
    for curve, mark in (train, look.faint(look.train)), (valid, look.valid):
        for at in range(columns):
            if (loss := _between(curve, at, column)) is not None:
                cells[row(loss)][at] = mark
    labels = {0: math.exp(high), HEIGHT - 1: math.exp(low)}
    if valid:
        labels.setdefault(row(valid[-1][1]), valid[-1][1])
    lines = []
    for number, cell in enumerate(cells):
        label = f"{labels[number]:.2f}" if number in labels else ""
        side = look.axis if label else look.side
        lines.append(f"{label:>{LABEL}} {side}{''.join(cell)}".rstrip())
    lines.append(f"{'':{LABEL}} {look.corner}{look.bottom * columns}")
    end = f"{last:,.0f} steps"
    lines.append(f"{'':{LABEL}}  0{end:>{columns - 1}}")
    return lines


def _between(curve: Sequence[Point], at: int, column: Callable[[float], int]) -> float | None:
    """Return the curve's loss in a column, on a straight line between its points; None outside."""
    before = [point for point in curve if column(point[0]) <= at]
    after = [point for point in curve if column(point[0]) >= at]
    if not before or not after:
        return None
    (left, low), (right, high) = before[-1], after[0]
    if column(left) == at:
        return low
    share = (at - column(left)) / (column(right) - column(left))
    return low + share * (high - low)
