"""The speed of a run: tokens per second, and the share of the device's peak (MFU)."""

import contextlib
import re
import time
from collections.abc import Iterator

import torch

from lmlib.model import TransformerLM, flops_per_token

# Names as CUDA reports them, without the vendor -> dense peak in TFLOP/s of bfloat16 (float16
# where the device has no bfloat16), TF32 and float32, with sums in float32. The datasheets of
# newer devices state twice that, for sparse matrices.
_PEAKS = {
    r"T4": (65.0, None, 8.1),  # NVIDIA T4 datasheet: no bfloat16, no TF32
    # NVIDIA A100, A30 and A10 datasheets
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": (312.0, 156.0, 19.5),
    r"A30": (165.0, 82.0, 10.3),
    r"A10": (125.0, 62.5, 31.2),
    r"A10G": (70.0, 35.0, 35.0),
    r"A40": (149.7, 74.8, 37.4),
    # NVIDIA Ampere GA102, Ada and RTX Blackwell GPU architecture white papers, appendix A
    r"RTX 3090": (71.0, 35.6, 35.6),
    r"RTX A6000": (154.8, 77.4, 38.7),
    r"RTX 4090": (165.2, 82.6, 82.6),
    r"RTX 5090": (209.5, 104.8, 104.8),
    # NVIDIA L4, L40 and L40S datasheets
    r"L4": (121.0, 60.0, 30.3),
    r"L40": (181.0, 90.5, 90.5),
    r"L40S": (362.0, 183.0, 91.6),
    # NVIDIA H100, H200, GH200 and H20 datasheets
    r"H100 80GB HBM3": (989.4, 494.7, 66.9),
    r"H100 PCIe": (756.0, 378.0, 51.0),
    r"H100 NVL": (835.0, 417.0, 60.0),
    r"H200": (989.4, 494.7, 66.9),
    r"H200 NVL": (835.0, 417.0, 60.0),
    r"GH200 \d+GB": (989.4, 494.7, 66.9),
    r"H20": (148.0, 74.0, 44.0),
    # NVIDIA HGX B200 and GB200 datasheets, for one GPU
    r"B200": (2250.0, 1125.0, 75.0),
    r"GB200": (2500.0, 1250.0, 80.0),
}


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of matrix products on a device; None for an unknown one.

    float32 counts as TF32 where PyTorch may use it (torch.set_float32_matmul_precision).
    """
    name = re.sub(r"^(NVIDIA |Tesla |GeForce )*", "", device_name)
    for pattern, (half, tf32, full) in _PEAKS.items():
        if re.fullmatch(pattern, name):
            if dtype == torch.float32:
                rounds = torch.get_float32_matmul_precision() != "highest"
                return 1e12 * (tf32 if rounds and tf32 else full)
            if dtype == torch.bfloat16 and tf32 is None:
                return None  # a device without TF32 is older than bfloat16, and emulates it
            return 1e12 * half
    return None


class Meter:
    """Speed of the training steps alone, on `devices` equal devices; pauses do not count."""

    def __init__(
        self, model: TransformerLM, device: torch.device, dtype: torch.dtype, devices: int = 1
    ) -> None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        peak = peak_flops(name, dtype)
        self.peak_flops = None if peak is None else peak * devices
        self.flops_per_token = flops_per_token(model.params, model.vocab_size)
        self.start = time.perf_counter()
        self.tokens = 0

    def count(self, tokens: int) -> None:
        """Add the tokens of a step."""
        self.tokens += tokens

    def read(self) -> dict[str, float]:
        """Return the speed since the last reading.

        That is performance/tokens_per_s, and on a known device performance/mfu.
        """
        now = time.perf_counter()
        rate = self.tokens / (now - self.start)
        self.start, self.tokens = now, 0
        metrics = {"performance/tokens_per_s": rate}
        if self.peak_flops is not None:
            metrics["performance/mfu"] = rate * self.flops_per_token / self.peak_flops
        return metrics

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the time inside the `with` block."""
        begin = time.perf_counter()
        yield
        self.start += time.perf_counter() - begin
