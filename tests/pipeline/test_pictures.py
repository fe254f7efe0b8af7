"""README's pictures: valid SVG whose lines and words are those of the numbers."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from lmlib.files import read_yaml
from stages import pictures, pipeline_picture
from stages.pictures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, losses_picture
from tests.pipeline.imports import ROOT

SVG = "{http://www.w3.org/2000/svg}"
TRAIN = [(1.0, 8.0), (50.0, 2.0), (100.0, 0.5)]
VALID = [(50.0, 4.0), (100.0, 1.0)]
FLOOR = [(1.0, 0.25), (100.0, 0.25)]


def points(picture: str, name: str) -> list[tuple[float, float]]:
    """Return the points of a line."""
    root = ElementTree.fromstring(picture)
    (path,) = (each for each in root.iter(f"{SVG}path") if each.get("class") == name)
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))]


def words(picture: str) -> list[str]:
    """Return the texts."""
    return [str(each.text) for each in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_lines_are_where_their_numbers_are() -> None:
    """Equal ratios are equal distances, and equal losses are at equal heights."""
    picture = losses_picture(TRAIN, VALID, FLOOR)
    train, valid, floor = (points(picture, name) for name in ("train", "valid", "floor"))
    (_, eight), (_, two), (_, half) = train
    assert two - eight == pytest.approx(half - two, abs=0.2)
    (x_first, four), (x_last, one) = valid
    assert (two - eight) / 2 == pytest.approx(four - eight, abs=0.2)
    assert half - one == pytest.approx(one - (two + half) / 2 + (half - two) / 2, abs=40)
    assert x_first - LEFT == pytest.approx((x_last - LEFT) / 2, abs=0.1)
    assert floor[0][1] == floor[1][1] > half
    for x, y in [*train, *valid, *floor]:
        assert LEFT <= x <= WIDTH - RIGHT + 0.1
        assert TOP <= y <= HEIGHT - BOTTOM


def test_lines_have_names_and_last_values_that_do_not_overlap() -> None:
    picture = losses_picture(TRAIN, [(100.0, 0.5)], [(1.0, 0.49), (100.0, 0.49)])
    assert {"training 0.500", "validation 0.500", "floor 0.490"} <= {*words(picture)}
    root = ElementTree.fromstring(picture)
    named = [each for each in root.iter(f"{SVG}text") if " 0." in str(each.text)]
    heights = sorted(float(each.get("y", 0)) for each in named)
    assert all(below - above >= pictures.LINE for above, below in itertools.pairwise(heights))


@pytest.mark.parametrize(
    ("train", "valid", "floor"),
    [
        ([], [], []),
        (TRAIN, [], []),
        ([(1.0, 3.0)], [(1.0, 3.0)], []),
        ([(1.0, 0.0)], [(1.0, 1e-9)], FLOOR),
        ([(1.0, 500.0)], VALID, FLOOR),
    ],
)
def test_few_points_and_odd_ones(
    train: list[tuple[float, float]],
    valid: list[tuple[float, float]],
    floor: list[tuple[float, float]],
) -> None:
    picture = losses_picture(train, valid, floor)
    assert "nan" not in picture
    assert "loss, nats per token (log scale)" in words(picture)
    assert ("floor 0.250" in words(picture)) == bool(floor)


def test_the_picture_of_the_pipeline_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this fails: python -m stages.pipeline_picture > stages/pipeline.svg."""
    monkeypatch.chdir(ROOT)
    pipeline_picture.main()
    picture = capsys.readouterr().out
    assert picture == (ROOT / "stages" / "pipeline.svg").read_text(encoding="utf-8")
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    assert [word for word in words(picture) if "/" not in word] == [*stages]
    assert "models/tokenizer" in words(picture)


def test_the_committed_picture_is_that_of_the_committed_curves() -> None:
    """It has their last losses."""
    curve = (ROOT / "models/plots/valid.csv").read_text().splitlines()[-1]
    picture = (ROOT / "models/plots/losses.svg").read_text(encoding="utf-8")
    assert f"validation {float(curve.split(',')[1]):.3f}" in words(picture)
