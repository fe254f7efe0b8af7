"""MFU: operations counted by hand, peaks of devices by their CUDA names."""

from typing import Any

import pytest
import torch

from lmlib.model import ModelParams, TransformerLM
from lmlib.monitoring.throughput import Meter, flops_per_token, peak_flops

SIZES: dict[str, Any] = {
    "context_length": 8,
    "d_model": 4,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 6,
}


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_flops_by_hand(tie_embeddings: bool) -> None:
    """Two layers of 4 * 4 * 4 + 3 * 4 * 6 weights, an output of 4 * 10; half of 12 * 2 * 4 * 8.

    The embedding table counts in neither model: tied, its matrix counts as the output's.
    """
    model = TransformerLM(ModelParams(**SIZES, tie_embeddings=tie_embeddings), 10)
    assert flops_per_token(model) == 6 * (2 * (64 + 72) + 40) + 12 * 2 * 4 * 4


@pytest.mark.parametrize(
    ("changes", "matrices", "pairs"),
    [
        ({"num_kv_heads": 1}, 2 * (48 + 72) + 40, 64 // 2),  # half of two matrices of 4 * 4 less
        ({"attention_window": 2}, 2 * (64 + 72) + 40, 8 * 2 - 2),
        ({"attention_window": 100}, 2 * (64 + 72) + 40, 64 // 2),
    ],
)
def test_flops_of_groups_and_windows(changes: dict[str, Any], matrices: int, pairs: int) -> None:
    """A window of 2 misses half a square of 2 * 2 at the start of the text of 8."""
    model = TransformerLM(ModelParams(**SIZES, **changes), 10)
    assert flops_per_token(model) == 6 * matrices + 12 * 2 * 4 * pairs // 8


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 1},
        {"attention_window": 2},
        {"qk_norm": True, "ffn": "relu2", "logit_softcap": 9.0},
    ],
    ids=str,
)
def test_flops_agree_with_pytorchs_count(changes: dict[str, Any]) -> None:
    """For a step with plain attention, which computes the masked pairs, too."""
    from torch.utils.flop_counter import FlopCounterMode

    params = ModelParams(**SIZES, **changes, attention="plain")
    model = TransformerLM(params, 10)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    seen = 8 * 2 - 2 if "attention_window" in changes else 8 * 8 // 2  # of 8 * 8 pairs
    masked = 12 * params.num_layers * params.d_model * (8 * 8 - seen)
    assert counter.get_total_flops() == 8 * flops_per_token(model) + masked


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4),
        ("NVIDIA H100 PCIe", torch.float16, 756),
        ("NVIDIA H200", torch.float32, 66.9),
        ("NVIDIA A100-SXM4-40GB", torch.bfloat16, 312),
        ("A100-PCIE-40GB", torch.bfloat16, 312),
        ("NVIDIA A100 80GB PCIe", torch.float32, 19.5),
        ("NVIDIA A10", torch.bfloat16, 125),
        ("NVIDIA L4", torch.bfloat16, 121),
        ("NVIDIA L40S", torch.bfloat16, 362),
        ("Tesla T4", torch.float16, 65),
        ("Tesla V100-SXM2-16GB", torch.float16, 125),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165.2),
    ],
)
def test_peaks(name: str, dtype: torch.dtype, tera: float) -> None:
    assert peak_flops(name, dtype) == tera * 1e12


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cpu", torch.float32),
        ("NVIDIA A10G", torch.bfloat16),  # not an A10
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16),  # a part of one
        ("Tesla T4", torch.bfloat16),  # emulated there
    ],
)
def test_unknown_peaks(name: str, dtype: torch.dtype) -> None:
    assert peak_flops(name, dtype) is None


def test_float32_counts_as_tf32_where_it_is_allowed() -> None:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert peak_flops("NVIDIA A100-SXM4-80GB", torch.float32) == 156e12
        assert peak_flops("Tesla T4", torch.float32) == 8.1e12  # has no TF32
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list whose only item is the time."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_meter_leaves_pauses_out(clock: list[float]) -> None:
    """600 tokens in 2 of 12 s, then 100 in 5."""
    meter = Meter(TransformerLM(ModelParams(**SIZES), 10), torch.device("cpu"), torch.float32)
    clock[0] += 2
    meter.count(500)
    with meter.pause():
        clock[0] += 10
    meter.count(100)
    assert meter.read() == {"train/tokens_per_s": 300.0}
    clock[0] += 5
    meter.count(100)
    assert meter.read() == {"train/tokens_per_s": 20.0}


def test_meter_of_a_known_device(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA L4")
    model = TransformerLM(ModelParams(**SIZES), 10)
    meter = Meter(model, torch.device("cuda"), torch.bfloat16)
    clock[0] += 1
    meter.count(1_000_000)
    assert meter.read()["train/mfu"] == pytest.approx(1e6 * flops_per_token(model) / 121e12)
