"""MFU: operations counted by hand, peaks of devices by their CUDA names."""

from typing import Any

import pytest
import torch

from lmlib.model import ModelParams, TransformerLM, flops_per_token
from lmlib.monitoring.throughput import Meter, peak_flops

SIZES: dict[str, Any] = {
    "context_length": 8,
    "d_model": 4,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 6,
}


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
        ("NVIDIA A10G", torch.bfloat16, 70),
        ("NVIDIA RTX A6000", torch.bfloat16, 154.8),
        ("NVIDIA L40", torch.bfloat16, 181),
        ("NVIDIA GH200 480GB", torch.bfloat16, 989.4),
        ("NVIDIA H20", torch.bfloat16, 148),
        ("NVIDIA GB200", torch.bfloat16, 2500),
        ("NVIDIA GeForce RTX 5090", torch.float32, 104.8),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165.2),
    ],
)
def test_peaks(name: str, dtype: torch.dtype, tera: float) -> None:
    assert peak_flops(name, dtype) == tera * 1e12


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cpu", torch.float32),
        ("Tesla V100-SXM2-16GB", torch.float16),  # PyTorch no longer runs there
        ("NVIDIA H200 MIG 1g.18gb", torch.bfloat16),
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
    assert meter.read() == {"performance/tokens_per_s": 300.0}
    clock[0] += 5
    meter.count(100)
    assert meter.read() == {"performance/tokens_per_s": 20.0}


def test_meter_of_a_known_device(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA L4")
    model = TransformerLM(ModelParams(**SIZES), 10)
    meter = Meter(model, torch.device("cuda"), torch.bfloat16)
    clock[0] += 1
    meter.count(1_000_000)
    assert meter.read()["performance/mfu"] == pytest.approx(
        1e6 * flops_per_token(model.params, model.vocab_size) / 121e12
    )
