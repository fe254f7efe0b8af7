"""The benchmark of the server: the rows it prints."""

import sys

import pytest

from tests.benchmarks import bench_serve
from tests.benchmarks.bench_serve import Score, rows_of
from tests.benchmarks.timing import Spread


def test_each_number_of_clients_gets_its_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--clients", "1", "3", "--repeats", "1", "--new-tokens", "4"]
    monkeypatch.setattr(sys, "argv", ["bench_serve", *few])
    bench_serve.main()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("| 1 ", "| 3 "))
    ]
    assert [row[:2] for row in rows] == [
        ["1", "whole"],
        ["3", "whole"],
        ["1", "streamed"],
        ["3", "streamed"],
    ]


def test_ratios_are_of_the_same_turn_and_the_same_kind_of_answer() -> None:
    one = Score(1, True, [1.0, 2.0], [1.0, 1.0], [1.0, 1.0])
    many = Score(16, True, [4.0, 6.0], [1.0, 1.0], [1.0, 1.0])
    whole = Score(1, False, [9.0, 9.0], [1.0, 1.0], [1.0, 1.0])
    ratio = rows_of([whole, one, many])[2]["ratio"]
    assert ratio == Spread(3.5, 3.0, 4.0)
