"""Loss curves in a terminal."""

import dataclasses

import pytest

from stages.curves import ASCII, HEIGHT, UNICODE, draw, read_curve

VALID = [(0.0, 8.0), (10.0, 1.0)]


def test_a_straight_line_by_hand() -> None:
    """From 8 to 1/16 nats are 7 halvings, one a line; ten columns from step 0 to step 18."""
    valid = [(2.0 * step, 8 * 2.0**-step) for step in range(8)] + [(18.0, 0.0625)]
    lines = draw(valid, [], None, width=18, look=ASCII)
    assert lines == [
        "  8.00 |*",
        "       | *",
        "       |  *",
        "       |   *",
        "       |    *",
        "       |     *",
        "       |      *",
        "  0.06 |       ***",
        "       +----------",
        "        0 18 steps",
    ]


def test_validation_is_in_front_of_training_and_that_of_the_floor() -> None:
    train = [(0.0, 8.0), (5.0, 1.0), (10.0, 1.0)]
    lines = draw([(10.0, 1.0)], train, 1.0, width=30, look=ASCII)
    bottom = lines[HEIGHT - 1].partition("|")[2]
    assert set(bottom) == {"-", ".", "*"}
    assert bottom[-1] == "*"
    assert set(lines[0].partition("|")[2]) == {"."}


def test_a_single_validation_is_a_point() -> None:
    lines = draw([(10.0, 2.0)], [], None, width=30)
    assert sum(line.count("•") for line in lines) == 1


def test_what_is_dim_takes_no_more_room() -> None:
    dim = dataclasses.replace(UNICODE, dim="\x1b[2m", plain="\x1b[0m")
    plain = draw(VALID, VALID, 0.5, width=60)
    shown = draw(VALID, VALID, 0.5, width=60, look=dim)
    assert [line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in shown] == plain
    assert max(map(len, plain)) == 60


@pytest.mark.parametrize("width", [0, 17])
def test_nothing_without_room(width: int) -> None:
    assert draw(VALID, [], None, width=width) == []


def test_nothing_without_curves() -> None:
    assert draw([], [], 0.5, width=80) == []


def test_a_loss_of_zero_has_a_place() -> None:
    assert draw([(0.0, 1.0), (10.0, 0.0)], [], None, width=30)[HEIGHT - 1].endswith("•")


def test_a_curve_is_read_from_its_columns() -> None:
    assert read_curve("step,loss,lr\n10,2.5,0.1\n") == [(10.0, 2.5)]
    assert read_curve("step,loss\n") == []
    with pytest.raises(ValueError, match="not a curve: it needs numbers"):
        read_curve("step,cost\n1,2\n")
