"""lmlib/optim/build.py: how each parameter is updated, and resuming from a state."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch

from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW, Muon, OptimParams, build_optimizer

ADAMW = OptimParams(
    name="adamw",
    lr=0.01,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    schedule="cosine",
    warmup_steps=2,
    min_lr_fraction=0.1,
    decay_fraction=0.4,
    max_grad_norm=1.0,
    muon_lr=0.03,
    muon_momentum=0.9,
)
MUON = replace(ADAMW, name="muon")


def language_model(seed: int = 0, **changes: Any) -> TransformerLM:
    sizes: dict[str, Any] = {
        "context_length": 4,
        "d_model": 8,
        "num_layers": 2,
        "num_heads": 2,
        "d_ff": 12,
    }
    return TransformerLM(ModelParams(**(sizes | changes)), 20, seed=seed)


def groups_of(model: TransformerLM, params: OptimParams) -> list[tuple[dict[str, Any], set[str]]]:
    names = {p: name for name, p in model.named_parameters()}
    groups = build_optimizer(model, params).param_groups
    placed = [names[p] for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(names.values())  # each once
    return [(group, {names[p] for p in group["params"]}) for group in groups]


@pytest.mark.parametrize("tie", [False, True])
def test_adamw_takes_everything_and_decays_matrices(tie: bool) -> None:
    model = language_model(tie_embeddings=tie)
    assert type(build_optimizer(model, ADAMW)) is AdamW
    (matrices, _), (gains, gain_names) = groups_of(model, ADAMW)
    assert (matrices["weight_decay"], gains["weight_decay"]) == (0.1, 0.0)
    assert all(".ln" in f".{name}" for name in gain_names)
    for group in (matrices, gains):
        assert (group["lr"], group["lr_scale"]) == (0.01, 1.0)
        assert (group["betas"], group["eps"]) == ((0.9, 0.95), 1e-8)


@pytest.mark.parametrize("tie", [False, True])
def test_muon_takes_the_matrices_of_the_blocks(tie: bool) -> None:
    """Embeddings are matrices too, but each row learns separately: they get AdamW."""
    model = language_model(tie_embeddings=tie)
    assert type(build_optimizer(model, MUON)) is Muon
    (ends, end_names), (gains, gain_names), (hidden, hidden_names) = groups_of(model, MUON)
    assert end_names == {"token_embeddings.weight"} | (set() if tie else {"lm_head.weight"})
    assert all(".ln" in f".{name}" for name in gain_names)
    assert len(hidden_names) == 2 * (4 + 3)
    assert [group["momentum"] for group in (ends, gains, hidden)] == [None, None, 0.9]
    assert [group["weight_decay"] for group in (ends, gains, hidden)] == [0.1, 0.0, 0.1]
    assert [group["lr_scale"] for group in (ends, gains, hidden)] == [1.0, 1.0, 3.0]
    assert hidden["lr"] == 0.03


@pytest.mark.parametrize("params", [ADAMW, MUON])
def test_gains_of_queries_and_keys_are_not_decayed(params: OptimParams) -> None:
    """With Muon too they stay with AdamW, as all vectors; the matrices are what they were."""
    plain, normed = (
        groups_of(language_model(qk_norm=qk_norm), params) for qk_norm in (False, True)
    )
    new = {f"layers.{i}.attn.{name}_norm.weight" for i in range(2) for name in "qk"}
    for (before, names_before), (after, names_after) in zip(plain, normed, strict=True):
        is_gains = "ln_final.weight" in names_before
        assert names_after == (names_before | new if is_gains else names_before)
        assert after["weight_decay"] == before["weight_decay"] == (0.0 if is_gains else 0.1)
        assert after["lr_scale"] == before["lr_scale"]


@pytest.mark.parametrize("params", [ADAMW, MUON])
def test_a_model_without_gains(params: OptimParams) -> None:
    """An empty group would be an error of the optimizer."""
    assert all(names for _, names in groups_of(language_model(norm="none"), params))


@pytest.mark.parametrize("params", [ADAMW, MUON])
def test_saved_and_loaded_state_continues_bit_for_bit(params: OptimParams) -> None:
    """Through a file, as in a checkpoint, into an optimizer with other settings."""

    def steps(model: TransformerLM, optimizer: AdamW, numbers: range) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (1 + number) * group["lr_scale"]
            optimizer.step()

    whole = language_model()
    steps(whole, build_optimizer(whole, params), range(6))

    half = language_model()
    first = build_optimizer(half, params)
    steps(half, first, range(3))
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    rest = language_model(seed=1)
    second = build_optimizer(rest, replace(params, lr=9.0, muon_lr=9.0, weight_decay=9.0))
    rest.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    steps(rest, second, range(3, 6))
    for p, q in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q)
