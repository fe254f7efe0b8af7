"""The sampling benchmark: the rows it prints, and that it would tell unequal tokens."""

import sys

import pytest

from lmlib.model import ModelParams
from tests.benchmarks import bench_sample
from tests.benchmarks.bench_sample import Score, row_of

TINY = ModelParams(context_length=16, d_model=32, num_layers=1, num_heads=2, d_ff=48)


def test_contenders_continue_alike_and_each_gets_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many tokens as the context allows, so that neither slides."""
    monkeypatch.setitem(bench_sample.SIZES, "default", TINY)
    monkeypatch.setattr(bench_sample, "VOCAB_SIZE", 300)
    few = ["--sizes", "default", "--repeats", "2", "--new-tokens", "16", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_sample", *few])
    bench_sample.main()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| default")
    ]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("default, batch 1", "ours", ""),
        ("default, batch 1", "transformers", "equal"),
        ("default, batch 1", "ours, no cache", "equal"),
        ("default, batch 16", "ours", ""),
        ("default, batch 16", "transformers", "equal"),
    ]


def test_ratios_are_of_the_same_turn_and_unequal_tokens_are_counted() -> None:
    ours = Score("ours", list, [1.0, 4.0], [1.0, 2.0], [[1, 2], [3, 4]])
    theirs = Score("peer", list, [3.0, 8.0], [2.0, 8.0], [[1, 2], [3, 5]])
    row = row_of("task", theirs, ours)
    assert (row["ratio"].low, row["ratio"].high) == (2.0, 3.0)  # type: ignore[attr-defined]
    assert (row["CPU ratio"].low, row["CPU ratio"].high) == (2.0, 4.0)  # type: ignore[attr-defined]
    assert row["tokens"] == "1 of 2 equal"
    assert row["ms/step"] == pytest.approx(5.5e3 / 2)
