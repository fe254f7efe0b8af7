"""Checkpoints and finished models."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmlib.checkpoint import (
    load_checkpoint,
    load_model,
    plain_state_dict,
    save_checkpoint,
    save_model,
)
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW

PARAMS = ModelParams(context_length=8, d_model=8, num_layers=2, num_heads=2, d_ff=16)
VOCAB_SIZE = 11

pytestmark = pytest.mark.usefixtures("without_digests")


def trained(seed: int, steps: int = 3) -> tuple[TransformerLM, AdamW]:
    """Return a model after a few steps, and its optimizer with a non-empty state."""
    model = TransformerLM(PARAMS, VOCAB_SIZE, seed=seed)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        take_step(model, optimizer)
    return model, optimizer


def take_step(model: TransformerLM, optimizer: AdamW) -> None:
    model(torch.arange(8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def assert_same_bits(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("as_text", [True, False])
def test_checkpoint_to_a_path(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    model, optimizer = trained(seed=1)
    save_checkpoint(model, optimizer, 3, str(path) if as_text else path)
    other, other_optimizer = trained(seed=2, steps=0)
    assert load_checkpoint(str(path) if as_text else path, other, other_optimizer) == 3
    assert_same_bits(other.state_dict(), model.state_dict())
    assert_same_bits(other_optimizer.state_dict(), optimizer.state_dict())


def test_checkpoint_to_a_file_object() -> None:
    model, optimizer = trained(seed=1)
    buffer = io.BytesIO()
    save_checkpoint(model, optimizer, 3, buffer)
    buffer.seek(0)
    other, other_optimizer = trained(seed=2, steps=0)
    assert load_checkpoint(buffer, other, other_optimizer) == 3
    assert_same_bits(other.state_dict(), model.state_dict())


def test_training_resumes_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    """5 steps equal 3 steps, save, load, 2 steps: the moments and the step count are restored."""
    whole, _ = trained(seed=1, steps=5)
    model, optimizer = trained(seed=1, steps=3)
    buffer = io.BytesIO()
    save_checkpoint(model, optimizer, 3, buffer)
    buffer.seek(0)
    resumed, optimizer = trained(seed=2, steps=1)
    load_checkpoint(buffer, resumed, optimizer)
    for _ in range(2):
        resumed(torch.arange(8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same_bits(resumed.state_dict(), whole.state_dict())


def test_checkpoint_has_the_same_bytes_under_every_name(tmp_path: Path) -> None:
    """torch.save alone would write the file's name into it."""
    model, optimizer = trained(seed=1)
    save_checkpoint(model, optimizer, 3, tmp_path / "a.pt")
    save_checkpoint(model, optimizer, 3, tmp_path / "another.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_checkpoint_of_a_compiled_model_fits_the_plain_one(tmp_path: Path) -> None:
    """In both directions: checkpoints do not depend on whether a model is compiled."""

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

    plain = network()
    compiled: Any = torch.compile(plain, backend="eager")
    assert "_orig_mod.0.weight" in compiled.state_dict()
    assert list(plain_state_dict(compiled)) == ["0.weight", "0.bias", "1.weight", "1.bias"]

    optimizer = AdamW(compiled.parameters())
    save_checkpoint(compiled, optimizer, 0, tmp_path / "compiled.pt")
    other = network()
    load_checkpoint(tmp_path / "compiled.pt", other, AdamW(other.parameters()))
    assert_same_bits(other.state_dict(), plain.state_dict())

    save_checkpoint(network(), optimizer, 0, tmp_path / "plain.pt")
    load_checkpoint(tmp_path / "plain.pt", compiled, optimizer)
    expected = torch.load(tmp_path / "plain.pt", weights_only=True)["model"]
    assert_same_bits(plain.state_dict(), expected)


def test_saving_a_model_does_not_write_into_the_old_file(tmp_path: Path) -> None:
    """DVC's cache holds a hard link to it."""
    sizes = ModelParams(context_length=4, d_model=8, num_layers=1, num_heads=2, d_ff=8)
    old = TransformerLM(sizes, 11, seed=1)
    save_model(tmp_path / "lm", old)
    cached = tmp_path / "cached"
    cached.hardlink_to(tmp_path / "lm" / "model.safetensors")
    before = cached.read_bytes()
    save_model(tmp_path / "lm", TransformerLM(sizes, 11, seed=2))
    assert cached.read_bytes() == before
    assert (tmp_path / "lm" / "model.safetensors").read_bytes() != before


# -- models


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_model_round_trip(tmp_path: Path, tie_embeddings: bool) -> None:
    params = replace(PARAMS, tie_embeddings=tie_embeddings, norm="post", rope_theta=500.0)
    params = replace(params, num_kv_heads=1, attention_window=3, qk_norm=True, logit_softcap=9.0)
    model = TransformerLM(params, VOCAB_SIZE, seed=5)
    save_model(tmp_path / "lm", model)
    loaded = load_model(tmp_path / "lm")
    assert loaded.params == params
    assert loaded.vocab_size == VOCAB_SIZE
    assert not loaded.training
    assert_same_bits(loaded.state_dict(), model.state_dict())
    assert_same_bits(loaded(torch.arange(8)), model(torch.arange(8)))
    assert (loaded.lm_head.weight is loaded.token_embeddings.weight) == tie_embeddings


def test_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    save_model(tmp_path, TransformerLM(replace(PARAMS, tie_embeddings=True), VOCAB_SIZE))
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_bfloat16_weights_load_as_float32(tmp_path: Path) -> None:
    """Each bfloat16 is also a float32: no value changes."""
    model = TransformerLM(PARAMS, VOCAB_SIZE).to(torch.bfloat16)
    save_model(tmp_path, model)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    loaded = load_model(tmp_path)
    assert loaded.lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight.float(), rtol=0, atol=0)


def test_same_model_same_bytes(tmp_path: Path) -> None:
    """DVC hashes them: a rerun must not look like a change."""
    for name in ("a", "b"):
        save_model(tmp_path / name, TransformerLM(PARAMS, VOCAB_SIZE, seed=1))
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file_of_a_model(tmp_path: Path, missing: str) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing}: missing; there is no model here"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        *["", "{", "[1]", "3", "{}", "[" * 100_000],
        *(f'{{"vocab_size": {size}}}' for size in ('"many"', "null", "true", "11.0", "-1", "0")),
    ],
    ids=range(12),
)
def test_foreign_config(tmp_path: Path, config: str) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    message = r"config\.json: (not valid JSON|holds a|not the configuration of a model)"
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_config_of_an_earlier_version(tmp_path: Path) -> None:
    """It lacks parameters that were added since; its model has nothing of what they name."""
    model = TransformerLM(PARAMS, VOCAB_SIZE, seed=1)
    save_model(tmp_path, model)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for name in ("num_kv_heads", "attention_window", "qk_norm", "logit_softcap"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = load_model(tmp_path)
    assert loaded.params == PARAMS
    assert loaded(torch.arange(8)).equal(model(torch.arange(8)))


def test_config_without_a_key(tmp_path: Path) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["norm"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json\.norm is missing"):
        load_model(tmp_path)


def truncate(content: bytes) -> bytes:
    return content[:-1]


def empty(_content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [truncate, empty])
def test_damaged_weights(tmp_path: Path, damage: Any) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or not a file of weights"):
        load_model(tmp_path)


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Save a model, and change its file of weights; None removes one."""
    save_model(folder, TransformerLM(PARAMS, VOCAB_SIZE))
    path = folder / "model.safetensors"
    weights = load_file(path) | {f"{name}.weight": value for name, value in changes.items()}
    save_file({name: value for name, value in weights.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"the weights have no ln_final\.weight, which config\.json calls for"),
        (
            torch.ones(4),
            r"ln_final\.weight has the shape \(4,\); by config\.json it should have \(8,",
        ),
        (torch.ones(8, 1), r"ln_final\.weight has the shape \(8, 1\)"),
        (
            torch.ones(8, dtype=torch.int64),
            r"ln_final\.weight holds I64; weights should be one of F",
        ),
        (torch.ones(8, dtype=torch.uint8), r"ln_final\.weight holds U8"),
        (torch.ones(8, dtype=torch.bool), r"ln_final\.weight holds BOOL"),
        (torch.ones(8, dtype=torch.float8_e4m3fn), r"ln_final\.weight holds F8_E4M3"),
        (torch.full((8,), math.nan), r"ln_final\.weight holds values that are not finite"),
        (torch.full((8,), -math.inf), r"ln_final\.weight holds values that are not finite"),
        (
            torch.full((8,), 1e300, dtype=torch.float64),
            r"ln_final\.weight holds values that are not f",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, value: torch.Tensor | None, message: str
) -> None:
    change_weights(tmp_path, ln_final=value)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_a_weight_that_the_model_does_not_have(tmp_path: Path) -> None:
    change_weights(tmp_path, extra=torch.ones(3))
    message = (
        r"model\.safetensors: has 'extra\.weight', which a model of config\.json does not have"
    )
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_layers": 100_000}, ValueError, r"the weights have no layers\.2\."),
        ({"num_layers": 10**12}, ValueError, r"the weights have no layers\.2\."),
        ({"num_layers": 1}, ValueError, r"has 'layers\.1\..*', which a model of config\.json does"),
        ({"d_ff": 10**12}, ValueError, r"layers\.0\.ffn\.w1\.weight has the shape \(16, 8\); by"),
        ({"vocab_size": 10**18}, ValueError, r"token_embeddings\.weight has the shape \(11, 8\)"),
        (
            {"norm": "none"},
            ValueError,
            r"has '.*ln.*', which a model of config\.json does not have",
        ),
        ({"tie_embeddings": True}, ValueError, r"has 'lm_head\.weight', which a model of config"),
        ({"d_model": 10**18}, ValueError, r"config\.json: d_model is 10+; it must be from 1 to"),
        ({"context_length": 10**12}, MemoryError, r"config\.json: its model needs at least 16,000"),
    ],
)
def test_config_is_compared_with_the_weights_before_a_model_is_built(
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    monkeypatch.setattr(TransformerLM, "__init__", lambda *_: pytest.fail("built a model"))
    with pytest.raises(error, match=message):
        load_model(tmp_path)
