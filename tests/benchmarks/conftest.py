"""Settings for the tests of the benchmarks."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Take back how exact nanoGPT lets products be: it holds for the whole process."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
