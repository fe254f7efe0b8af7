"""What `dvc plots` draws, in a browser without network access."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.browser import open_browser
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline
LOSS = "loss (nats per token)"
LENGTHS = "token_lengths.csv"
POINT = re.compile(r"([^:]*): (\S+); ([^:]*): (\S+); rev: ([^;]+)(?:; filename: (\S+))?")


class Drawn(NamedTuple):
    """What a chart shows of one file of numbers."""

    title: str
    file: str
    x: str
    y: str
    x_label: str
    y_label: str
    told_apart: bool = False  # by the name of the file, since the chart has two


DRAWN = [
    Drawn("Training and validation loss", "train.csv", "step", "loss", "step", LOSS, True),
    Drawn("Training and validation loss", "valid.csv", "step", "loss", "step", LOSS, True),
    Drawn("Training and validation loss", "floor.csv", "step", "loss", "step", LOSS, True),
    Drawn(
        "Gradient norm", "train.csv", "step", "grad_norm", "step", "gradient norm before clipping"
    ),
    Drawn("Learning rate", "train.csv", "step", "lr", "step", "learning rate"),
    Drawn("Validation loss, estimated during training", "valid.csv", "step", "loss", "step", LOSS),
    Drawn(
        "Validation loss by position in the context",
        "position.csv",
        "context",
        "loss",
        "tokens of context",
        LOSS,
    ),
    Drawn(
        "Lengths of the tokens in the vocabulary",
        LENGTHS,
        "bytes",
        "tokens",
        "length (bytes)",
        "tokens",
    ),
]
CHARTS = {drawn.title: drawn for drawn in DRAWN}


@pytest.fixture(scope="module")
def lab(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with the library that draws, on a branch whose vocabulary has longer tokens."""
    lab = project.clone(tmp_path_factory.mktemp("plots") / "clone")
    lab.run("python", "-m", "stages.vega")
    lab.run("git", "checkout", "--quiet", "-b", "longer")
    with (lab.folder / "models/plots" / LENGTHS).open("a", encoding="utf-8") as file:
        file.write("10,7\n11,5\n100,3\n")  # as text, they would sort before 2
    lab.run("git", "commit", "--quiet", "--all", "--message=longer")
    return lab


def draw(lab: Project, profile: Path, *command: str) -> list[str]:
    """Return the labels, from left to right, of all parts of the charts that a command draws."""
    page = lab.run("dvc", "plots", *command).strip().splitlines()[-1]
    drawn = f"document.querySelectorAll('svg.marks').length == {len(CHARTS)}"
    labels = (
        "[...document.querySelectorAll('[aria-label]')]"
        ".map(part => [part.getBoundingClientRect().left, part.ariaLabel])"
        ".sort(([left], [other]) => left - other).map(([left, label]) => label)"
    )
    with open_browser(profile, offline=True) as browser:
        browser.open(page)
        browser.wait_for(drawn)
        return browser.value(labels)


def drawn_points(labels: list[str], drawn: Drawn, rev: str) -> list[tuple[float, float]]:
    """Return the points of a file that have labels: all bars, the ends of a line."""
    found = [match.groups() for match in map(POINT.fullmatch, labels) if match]
    name = drawn.file if drawn.told_apart else None
    where = (drawn.x_label, drawn.y_label, rev, name)
    points = [(float(x), float(y)) for a, x, b, y, of, file in found if (a, b, of, file) == where]
    return list(dict.fromkeys(points))  # the start of a line has two labels


def rows(lab: Project, drawn: Drawn) -> list[tuple[float, float]]:
    with (lab.folder / "models/plots" / drawn.file).open(encoding="utf-8", newline="") as file:
        return [(float(row[drawn.x]), float(row[drawn.y])) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def shown(lab: Project, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `dvc plots show` draws."""
    return draw(lab, tmp_path_factory.mktemp("browser"), "show")


def test_every_chart_has_a_title_and_units(shown: list[str]) -> None:
    titles = [label for label in shown if label.startswith("Title text")]
    assert sorted(titles) == sorted(f"Title text '{title}'" for title in CHARTS)
    for axis in ("x", "y"):
        labelled = re.findall(rf"{axis.upper()}-axis titled '([^']*)'", "\n".join(shown))
        expected = [chart.x_label if axis == "x" else chart.y_label for chart in CHARTS.values()]
        assert Counter(labelled) == Counter(expected)


@pytest.mark.parametrize("drawn", DRAWN, ids=lambda drawn: f"{drawn.title}: {drawn.file}")
def test_charts_show_the_numbers_of_the_files(lab: Project, shown: list[str], drawn: Drawn) -> None:
    """Lines from the first to the last; a bar for each length, 10 right of 9."""
    expected = rows(lab, drawn)
    if drawn.file != LENGTHS:
        expected = [expected[0], expected[-1]]
    points = drawn_points(shown, drawn, "workspace")
    assert len(points) == len(expected)
    for point, row in zip(points, expected, strict=True):
        assert point == pytest.approx(row, rel=1e-9)


def test_diff_draws_both_revisions(lab: Project, tmp_path: Path) -> None:
    """Every curve twice, even if nothing has changed; the tokens of each vocabulary."""
    labels = draw(lab, tmp_path, "diff", "main", "longer")
    for drawn in DRAWN[:-1]:
        assert len(drawn_points(labels, drawn, "main")) == 2
        assert drawn_points(labels, drawn, "longer") == drawn_points(labels, drawn, "main")
    main, longer = (drawn_points(labels, DRAWN[-1], rev) for rev in ("main", "longer"))
    assert sum(tokens for _, tokens in main) == 512 - 1  # all but the special token
    assert longer == [*main, (10, 7), (11, 5), (100, 3)]
