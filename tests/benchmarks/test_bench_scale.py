"""The benchmark of large corpora: the rows it prints, and what it makes of them."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks import bench_scale
from tests.benchmarks.bench_scale import estimates


@pytest.mark.slow
def test_each_format_gets_its_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = ["--sizes", "0.001", "--base-bytes", "20000", "--cores", "1"]
    arguments = ["--folder", str(tmp_path), *few, "--formats", "parquet", "txt"]
    monkeypatch.setattr(bench_scale, "VOCAB_SIZE", 500)
    monkeypatch.setattr(sys, "argv", ["bench_scale", *arguments])
    bench_scale.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "| 0.001" in line]
    assert [(row[1].split(",")[0], row[3]) for row in rows] == [
        ("2 parquet", "tokenizer"),
        ("2 parquet", "encode"),
        ("2 txt", "tokenizer"),
        ("2 txt", "encode"),
    ]
    assert not list(tmp_path.iterdir())


def test_estimates_grow_with_the_text() -> None:
    """A day of 32 cores is 768 core hours; each machine reads the files twice in it."""
    rows = [
        {"task": task, "CPU, s/GB": seconds, "files": "20 parquet, 2 GB", "text, GB": "10"}
        for task, seconds in (("tokenizer", 3.6), ("encode", 7.2))
    ]
    one, fifty = estimates(rows, (1, 500))
    assert (one["core hours, tokenizer"], one["core hours, encode"]) == (1, 2)
    assert one["machines of 32 cores, one day"] == 1
    assert fifty["machines of 32 cores, one day"] == 2
    assert fifty["read by each, MB/s"] == pytest.approx(2 * 0.2 * 500e6 / 2 / 86_400)
