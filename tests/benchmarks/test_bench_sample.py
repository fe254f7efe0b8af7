"""The sampling benchmark: the rows it prints, and that it would tell unequal tokens."""

import sys
from pathlib import Path

import pytest

from lmlib.model import ModelParams
from tests.benchmarks import bench_sample
from tests.benchmarks.bench_sample import Score, row_of, version_of_llama_cpp
from tests.benchmarks.contest import ROOT

PEERS = ROOT / ".venv-bench" / "bin" / "python"
needs_llama_cpp = pytest.mark.skipif(
    not version_of_llama_cpp(PEERS),
    reason="llama-cpp-python is not in .venv-bench; `make .venv-bench/.ready` installs it",
)
TINY = ModelParams(context_length=16, d_model=32, num_layers=1, num_heads=2, d_ff=48)


@pytest.mark.slow
@pytest.mark.parametrize(
    "peers",
    [
        pytest.param(Path("/no/such/python"), id="without llama.cpp"),
        pytest.param(PEERS, id="llama.cpp", marks=[needs_llama_cpp]),
    ],
)
def test_contenders_continue_alike_and_each_gets_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], peers: Path
) -> None:
    """As many tokens as the context allows, so that neither slides."""
    monkeypatch.setitem(bench_sample.SIZES, "default", TINY)
    monkeypatch.setattr(bench_sample, "VOCAB_SIZE", 300)
    few = ["--sizes", "default", "--repeats", "2", "--new-tokens", "16", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_sample", *few, "--peers", str(peers)])
    bench_sample.main()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| default")
    ]
    peers_found = ["llama.cpp"] if peers.is_file() else []
    contenders = ["ours", "transformers", "ours, bfloat16", *peers_found]
    assert [(row[0], row[1]) for row in rows] == [
        *(("default, batch 1", name) for name in [*contenders, "ours, no cache"]),
        *(("default, batch 16", name) for name in contenders),
    ]
    same = {row[-1] for row in rows if row[1] not in ("ours", "ours, bfloat16")}
    assert same == {"equal"}


def test_ratios_are_of_the_same_turn_and_unequal_tokens_are_counted() -> None:
    ours = Score("ours", list, seconds=[1.0, 4.0], cpu_seconds=[1.0, 2.0], tokens=[[1, 2], [3, 4]])
    theirs = Score(
        "peer", list, seconds=[3.0, 8.0], cpu_seconds=[2.0, 8.0], tokens=[[1, 2], [3, 5]]
    )
    row = row_of("task", theirs, ours)
    assert (row["ratio"].low, row["ratio"].high) == (2.0, 3.0)  # type: ignore[attr-defined]
    assert (row["CPU ratio"].low, row["CPU ratio"].high) == (2.0, 4.0)  # type: ignore[attr-defined]
    assert row["tokens"] == "1 of 2 equal"
    assert row["ms/step"] == pytest.approx(5.5e3 / 2)
