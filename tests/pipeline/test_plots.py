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
# of a bar, of a point of a curve that has few, or of the start of a line
POINT = re.compile(r"(?:bar|point|line mark)\|([^:]*): (\S+); ([^:]*): (\S+); (?:rev|curve): (.+)")


class Drawn(NamedTuple):
    """What a chart shows of one file of numbers."""

    title: str
    file: str
    x: str
    y: str
    x_label: str
    y_label: str
    curve: str = ""  # its name in the legend, where a chart has several


DRAWN = [
    Drawn("Training and validation loss", "train.csv", "step", "loss", "step", LOSS, "training"),
    Drawn("Training and validation loss", "valid.csv", "step", "loss", "step", LOSS, "validation"),
    Drawn("Training and validation loss", "floor.csv", "step", "loss", "step", LOSS, "floor"),
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
        ".map(part => [part.getBoundingClientRect().left,"
        " part.ariaRoleDescription + '|' + part.ariaLabel])"
        ".sort(([left], [other]) => left - other).map(([left, label]) => label)"
    )
    with open_browser(profile, offline=True) as browser:
        browser.open(page)
        browser.wait_for(drawn)
        return browser.value(labels)


def drawn_points(labels: list[str], drawn: Drawn, name: str) -> list[tuple[float, float]]:
    """Return the points of a curve or bars, by their name, that have labels."""
    found = [match.groups() for match in map(POINT.fullmatch, labels) if match]
    where = (drawn.x_label, drawn.y_label, name)
    points = [(float(x), float(y)) for a, x, b, y, of in found if (a, b, of) == where]
    return list(dict.fromkeys(points))  # the start of a line has a label, too


def rows(lab: Project, drawn: Drawn) -> list[tuple[float, float]]:
    with (lab.folder / "models/plots" / drawn.file).open(encoding="utf-8", newline="") as file:
        return [(float(row[drawn.x]), float(row[drawn.y])) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def shown(lab: Project, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `dvc plots show` draws."""
    return draw(lab, tmp_path_factory.mktemp("browser"), "show")


def test_every_chart_has_a_title_and_units(shown: list[str]) -> None:
    titles = [label for label in shown if label.startswith("title|Title text")]
    assert sorted(titles) == sorted(f"title|Title text '{title}'" for title in CHARTS)
    for axis in ("x", "y"):
        labelled = re.findall(rf"{axis.upper()}-axis titled '([^']*)'", "\n".join(shown))
        expected = [chart.x_label if axis == "x" else chart.y_label for chart in CHARTS.values()]
        assert Counter(labelled) == Counter(expected)


@pytest.mark.parametrize("drawn", DRAWN, ids=lambda drawn: f"{drawn.title}: {drawn.file}")
def test_charts_show_the_numbers_of_the_files(lab: Project, shown: list[str], drawn: Drawn) -> None:
    """A point for each row, so that one row is seen, too; bars for lengths, 10 right of 9."""
    expected = rows(lab, drawn)
    if drawn.curve == "floor":  # a line, of which the start has a label
        expected = expected[:1]
    points = drawn_points(shown, drawn, drawn.curve or "workspace")
    assert len(points) == len(expected)
    for point, row in zip(points, expected, strict=True):
        assert point == pytest.approx(row, rel=1e-9)


def test_charts_have_one_size_and_no_controls(
    lab: Project, shown: list[str], tmp_path: Path
) -> None:
    """The frames of all charts, inside their axes, and no slider of DVC's own templates."""
    assert shown
    frames = (
        "[...document.querySelectorAll('.mark-group.role-frame.root > g > path.background')]"
        ".map(frame => frame.getAttribute('d'))"
    )
    with open_browser(tmp_path, offline=True) as browser:
        browser.open((lab.folder / "dvc_plots/index.html").as_uri())
        browser.wait_for(f"document.querySelectorAll('svg.marks').length == {len(CHARTS)}")
        assert set(browser.value(frames)) == {"M0.5,0.5h480v280h-480Z"}
        assert browser.value("document.querySelectorAll('input, .vega-bind').length") == 0


def test_the_legend_is_in_words(shown: list[str]) -> None:
    assert any(label.endswith("with 2 values: training, validation") for label in shown)


def test_diff_draws_both_revisions(lab: Project, tmp_path: Path) -> None:
    """Every curve twice, even if nothing has changed; the tokens of each vocabulary."""
    labels = draw(lab, tmp_path, "diff", "main", "longer")
    for drawn in DRAWN[:-1]:
        main, longer = (
            drawn_points(labels, drawn, f"{rev}: {drawn.curve}" if drawn.curve else rev)
            for rev in ("main", "longer")
        )
        assert len(main) == (1 if drawn.curve == "floor" else len(rows(lab, drawn)))
        assert longer == main
    main, longer = (drawn_points(labels, DRAWN[-1], rev) for rev in ("main", "longer"))
    assert sum(tokens for _, tokens in main) == 512 - 1  # all but the special token
    assert longer == [*main, (10, 7), (11, 5), (100, 3)]
