"""lmlib/optim/adamw.py: the optimizer and its parameter groups."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW, decay_groups


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_first_two_steps_by_hand() -> None:
    """p = 1, lr = 0.1, weight_decay = 0.5, betas (0.5, 0.5), gradients 2 and then 0.

    Step 1: m = 1, v = 2, corrected by 1/2 to 2 and 4:   p = 0.95 - 0.1 * 2 / 2 = 0.85
    Step 2: m = 1/2, v = 1, corrected by 3/4 to 2/3 and 4/3:
            p = 0.85 * 0.95 - 0.1 * (2/3) / sqrt(4/3) = 0.8075 - 0.1 / sqrt(3)
    """
    p = parameter(1.0)
    optimizer = AdamW([p], lr=0.1, betas=(0.5, 0.5), eps=0.0, weight_decay=0.5)
    for gradient, expected in ((2.0, 0.85), (0.0, 0.8075 - 0.1 / 3**0.5)):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        assert p.item() == pytest.approx(expected, rel=1e-14)


def test_eps_is_added_to_the_corrected_root() -> None:
    """The corrected m and root of v are both 2: with eps = 2 the step is lr * 2 / 4."""
    p = parameter(1.0)
    p.grad = torch.full_like(p, 2.0)
    AdamW([p], lr=0.1, betas=(0.9, 0.99), eps=2.0, weight_decay=0.0).step()
    assert p.item() == pytest.approx(0.95, rel=1e-14)


def make_groups() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

    return [
        {"params": [weights(3, 4), weights(5)], "weight_decay": 0.3, "betas": (0.8, 0.95)},
        {"params": [weights(2, 2)], "lr": 0.02, "eps": 1e-3, "weight_decay": 0.0},
    ]


def test_many_steps_equal_torch() -> None:
    """Settings per group, a learning rate that changes, gradients sometimes missing."""
    ours, theirs = make_groups(), make_groups()
    optimizers = (
        AdamW(ours, lr=0.01, weight_decay=0.1),
        torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1),
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(60):
        for group, (our_group, their_group) in enumerate(zip(ours, theirs, strict=True)):
            for p, q in zip(our_group["params"], their_group["params"], strict=True):
                missing = torch.rand((), generator=generator) < 0.2
                gradient = torch.randn(p.shape, generator=generator, dtype=p.dtype)
                p.grad, q.grad = (None, None) if missing else (gradient.clone(), gradient.clone())
            for optimizer in optimizers:
                optimizer.param_groups[group]["lr"] = 0.01 * (group + 1) / (step + 1)
        for optimizer in optimizers:
            optimizer.step()
    for our_group, their_group in zip(ours, theirs, strict=True):
        for p, q in zip(our_group["params"], their_group["params"], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


SHAPES = ((3, 50), (5,), (), (0, 4), (130,), (2, 2))


def stepped(dtype: torch.dtype = torch.float32, *, transposed: bool = False) -> list[Tensor]:
    """Return tensors after three scaled steps; `transposed` ones are the same, not contiguous."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in SHAPES:
        start = torch.randn(shape, generator=generator).to(dtype)
        memory = start.mT.contiguous().mT if transposed and start.ndim == 2 else start
        parameters.append(nn.Parameter(memory))
    optimizer = AdamW(parameters, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step(grad_scale=torch.tensor(0.5))
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("num_threads", [2, 3])
def test_the_bits_do_not_depend_on_the_number_of_threads(
    num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with more threads than some tensor has elements."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = stepped()
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    for p, q in zip(stepped(), alone, strict=True):
        assert torch.equal(p, q)


def test_the_kernel_and_the_operations_of_pytorch_agree() -> None:
    """Tensors that are not contiguous, or have a dtype that NumPy lacks, use PyTorch."""
    for p, q in zip(stepped(transposed=True), stepped(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    for p, q in zip(stepped(torch.bfloat16), stepped(), strict=True):
        torch.testing.assert_close(p.float(), q, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("transposed", [False, True])
def test_settings_in_any_form(transposed: bool) -> None:
    """Numbers of NumPy and scalar tensors, for the kernel and for PyTorch's operations."""
    as_numbers, as_tensors = (
        [nn.Parameter(torch.ones(2, 3).mT if transposed else torch.ones(2, 3))] for _ in range(2)
    )
    for parameters, convert in ((as_numbers, float), (as_tensors, torch.tensor)):
        optimizer = AdamW(parameters)
        optimizer.param_groups[0] |= {
            "lr": convert(0.5),
            "betas": (np.float64(0.5), convert(0.25)),
            "eps": convert(0.25),
            "weight_decay": convert(0.125),
        }
        for p in parameters:
            p.grad = torch.full_like(p, 2.0)
        optimizer.step(grad_scale=torch.tensor(0.5))
    assert torch.equal(as_numbers[0], as_tensors[0])


def test_a_gradient_whose_memory_holds_its_negative() -> None:
    """As autograd makes of complex numbers: the values count."""
    plain, viewed = parameter(1.0), parameter(1.0)
    plain.grad = torch.full_like(plain, 2.0)
    viewed.grad = torch.full_like(plain, -2j, dtype=torch.complex128).conj().imag
    assert viewed.grad.is_neg()
    for p in (plain, viewed):
        AdamW([p], lr=0.1).step()
    assert plain < 1
    torch.testing.assert_close(plain, viewed)


def test_defaults_are_those_of_torch() -> None:
    ours = AdamW([parameter(1.0)]).param_groups[0]
    theirs = torch.optim.AdamW([parameter(1.0)]).param_groups[0]
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert ours[name] == theirs[name], name


def test_decay_is_decoupled_and_scaled_by_lr() -> None:
    """With a zero gradient only the decay acts: 1 * (1 - 0.1 * 0.5). Coupled decay differs."""
    p = parameter(1.0)
    p.grad = torch.zeros_like(p)
    AdamW([p], lr=0.1, weight_decay=0.5).step()
    assert p.item() == pytest.approx(0.95, rel=1e-14)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    """It does not decay and has no state; its t starts with its first gradient."""
    with_gradient, without = parameter(1.0), parameter(1.0)
    optimizer = AdamW([with_gradient, without], lr=0.1, eps=0.0, weight_decay=0.5)
    with_gradient.grad = torch.ones_like(with_gradient)
    optimizer.step()
    assert without.item() == 1.0
    assert without not in optimizer.state
    without.grad = torch.ones_like(without)
    optimizer.step()
    assert without.item() == pytest.approx(0.85, rel=1e-14)


def test_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    p = parameter(3.0)
    optimizer = AdamW([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 9.0
    assert p.item() < 3.0
    assert optimizer.step() is None


def test_saved_and_loaded_state_continues_bit_for_bit() -> None:
    def steps(optimizer: AdamW, p: nn.Parameter, numbers: range) -> None:
        for number in numbers:
            p.grad = torch.tensor([0.3 * number, -1.0 / (number + 1)], dtype=p.dtype)
            optimizer.step()

    whole = parameter(1.0, 2.0)
    steps(AdamW([whole]), whole, range(20))

    half = parameter(1.0, 2.0)
    first = AdamW([half])
    steps(first, half, range(10))
    rest = nn.Parameter(half.detach().clone())
    second = AdamW([rest], lr=99.0)
    second.load_state_dict(first.state_dict())
    steps(second, rest, range(10, 20))
    assert torch.equal(rest, whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: AdamW(p, lr=-1.0), "lr is -1.0; it must be at least 0"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), r"betas are \(0.9, 1.0\); both must be in \[0, 1\)"),
        (lambda p: AdamW(p, betas=(-0.1, 0.9)), r"betas are \(-0.1, 0.9\)"),
        (lambda p: AdamW(p, eps=-1e-8), "eps is -1e-08; it must be at least 0"),
        (lambda p: AdamW(p, weight_decay=-1.0), "weight_decay is -1.0; it must be at least 0"),
    ],
)
def test_settings_out_of_range(make: Callable[[list[nn.Parameter]], AdamW], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([parameter(1.0)])


def language_model(**changes: Any) -> TransformerLM:
    sizes: dict[str, Any] = {
        "context_length": 4,
        "d_model": 8,
        "num_layers": 2,
        "num_heads": 2,
        "d_ff": 8,
    }
    return TransformerLM(ModelParams(**(sizes | changes)), 20)


@pytest.mark.parametrize("tie", [False, True])
def test_matrices_decay_and_gains_do_not(tie: bool) -> None:
    """Each parameter is in one group, once; a tied matrix listed twice would decay twice."""
    model = language_model(tie_embeddings=tie)
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices, gains = decay_groups(model, 0.1)
    assert (matrices["weight_decay"], gains["weight_decay"]) == (0.1, 0.0)
    decaying = [names[parameter] for parameter in matrices["params"]]
    kept = [names[parameter] for parameter in gains["params"]]
    layers = [f"layers.{i}.{ln}.weight" for i in range(2) for ln in ("ln1", "ln2")]
    assert sorted(kept) == sorted([*layers, "ln_final.weight"])
    assert sorted(decaying + kept) == sorted(names.values())


def test_a_model_without_norms_has_one_group() -> None:
    """An empty group would be an error, or an empty entry in the optimizer's state."""
    groups = decay_groups(language_model(norm="none"), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1]


def test_a_group_may_have_weights_of_two_dtypes() -> None:
    """Each is updated as it would be alone, and nothing beyond it."""

    def stepped(*dtypes: torch.dtype) -> list[Tensor]:
        wholes = [torch.ones(16, dtype=dtype) for dtype in dtypes]
        params = [nn.Parameter(whole[:4]) for whole in wholes]
        for param in params:
            param.grad = torch.arange(4, dtype=param.dtype)
        AdamW(params, lr=0.1).step()
        return wholes

    both = stepped(torch.float64, torch.float32)
    for whole, dtype in zip(both, (torch.float64, torch.float32), strict=True):
        assert torch.equal(whole, stepped(dtype)[0])
        assert torch.equal(whole[4:], torch.ones(12, dtype=dtype))
