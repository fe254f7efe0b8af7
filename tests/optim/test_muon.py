"""lmlib/optim/muon.py: the orthogonal steps, and AdamW next to them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmlib.optim import AdamW, Muon, newton_schulz


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polynomial(s: Tensor) -> Tensor:
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_newton_schulz_maps_the_singular_values_and_keeps_the_vectors(
    shape: tuple[int, int],
) -> None:
    """Against the polynomial of the singular values, from NumPy's decomposition."""
    batch = random(3, *shape)
    for matrix, result in zip(batch, newton_schulz(batch), strict=True):
        U, s, Vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
        mapped = polynomial(torch.from_numpy(s / np.sqrt((s**2).sum())))
        expected = torch.from_numpy(U) @ torch.diag(mapped) @ torch.from_numpy(Vt)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)  # the 1e-7 of the norm


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_singular_values_come_near_one(dtype: torch.dtype, slack: float) -> None:
    """From 1 down to 1/500 of the norm; bfloat16 has three digits."""
    U, _ = torch.linalg.qr(random(8, 8))
    V, _ = torch.linalg.qr(random(12, 8, seed=1))
    s = torch.logspace(0, -2.6, 8, dtype=torch.float64)
    matrix = U @ torch.diag(s) @ V.T
    result = newton_schulz(matrix[None].to(dtype))
    assert result.dtype == dtype
    values = torch.linalg.svdvals(result[0].double())
    assert values.min() > 0.68 - slack
    assert values.max() < 1.21 + slack


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    """Nor does it overflow, and a gradient of zero does not become NaN."""
    matrix = random(1, 5, 7, dtype=torch.float32)
    torch.testing.assert_close(newton_schulz(1e4 * matrix), newton_schulz(matrix))
    assert newton_schulz(torch.zeros(1, 3, 3)).eq(0).all()


def reference_steps(p: np.ndarray, gradients: list[np.ndarray], settings: Any) -> np.ndarray:
    """Return p after Muon's steps as in the paper: heavy ball, Nesterov, then the root.

    M = momentum M + G is a sum, our m an average: they differ by a factor, which
    orthogonalisation removes.
    """
    M = np.zeros_like(p)
    for G in gradients:
        M = settings["momentum"] * M + G
        U, s, Vt = np.linalg.svd(G + settings["momentum"] * M, full_matrices=False)
        mapped = polynomial(torch.from_numpy(s / np.sqrt((s**2).sum()))).numpy()
        p = p * (1 - settings["lr"] * settings["weight_decay"])
        p = p - settings["lr"] * 0.2 * math.sqrt(max(p.shape)) * (U * mapped) @ Vt
    return p


@pytest.mark.parametrize("batch", [1 << 24, 1])
def test_steps_equal_the_reference(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several matrices of one shape, tall and wide, in one batch or one by one."""
    monkeypatch.setattr("lmlib.optim.muon.BATCH", batch)
    settings = {"lr": 0.03, "weight_decay": 0.2, "momentum": 0.9}
    starts = [random(*shape, seed=k) for k, shape in enumerate([(4, 6), (6, 4), (4, 6), (5, 5)])]
    parameters = [nn.Parameter(start.clone()) for start in starts]
    optimizer = Muon([{"params": parameters, **settings}])
    optimizer.dtype = torch.float64
    gradients = [
        [random(*p.shape, seed=10 * n + k) for n in range(5)] for k, p in enumerate(starts)
    ]
    for step in range(5):
        for p, own in zip(parameters, gradients, strict=True):
            p.grad = own[step].clone()
        optimizer.step()
    for p, start, own in zip(parameters, starts, gradients, strict=True):
        expected = reference_steps(start.numpy(), [g.numpy() for g in own], settings)
        torch.testing.assert_close(p.detach(), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_groups_without_momentum_are_adamw() -> None:
    ours, theirs = (nn.Parameter(random(3, 4)) for _ in range(2))
    hidden = nn.Parameter(random(4, 4, seed=1))
    muon = Muon([{"params": [ours]}, {"params": [hidden], "momentum": 0.9}], lr=0.01)
    adamw = AdamW([theirs], lr=0.01)
    for step in range(5):
        ours.grad = random(3, 4, seed=step)
        theirs.grad, hidden.grad = ours.grad.clone(), random(4, 4, seed=step)
        muon.step()
        adamw.step()
    assert torch.equal(ours, theirs)
    assert set(muon.state[hidden]) == {"m"}


def test_a_matrix_without_gradient_is_left_alone() -> None:
    p, without = nn.Parameter(random(3, 3)), nn.Parameter(random(3, 3, seed=1))
    before = without.detach().clone()
    optimizer = Muon([{"params": [p, without], "momentum": 0.9}], weight_decay=0.5)
    p.grad = random(3, 3, seed=2)
    optimizer.step()
    assert torch.equal(without, before)
    assert without not in optimizer.state


def test_gradients_count_times_grad_scale() -> None:
    """The sum of a small gradient and an old large one shows the scale; a single one would not."""

    def run(*, inside: bool) -> nn.Parameter:
        p = nn.Parameter(random(3, 4, dtype=torch.float32))
        optimizer = Muon([{"params": [p], "momentum": 0.9}])
        for step, factor in enumerate([torch.tensor(1.0), torch.tensor(0.01)]):
            gradient = random(3, 4, seed=step, dtype=torch.float32)
            p.grad = gradient if inside else gradient * factor
            kept = p.grad.clone()
            optimizer.step(grad_scale=factor if inside else None)
            assert torch.equal(p.grad, kept)
        return p

    assert torch.equal(run(inside=True), run(inside=False))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range(momentum: float) -> None:
    group = {"params": [nn.Parameter(random(2, 2))], "momentum": momentum}
    with pytest.raises(ValueError, match=rf"momentum is {momentum}; it must be in \[0, 1\)"):
        Muon([group])


def test_only_matrices_have_momentum() -> None:
    group = {"params": [nn.Parameter(random(2))], "momentum": 0.9}
    message = r"shape \(2,\); only matrices can be orthogonalised: put it in a group without"
    with pytest.raises(ValueError, match=message):
        Muon([group])
