"""What only a CUDA GPU can show: the same bits in every run, and the results of the CPU.

Run:    pytest tests/test_cuda.py   (alone: with others, or without a GPU, all are skipped)
"""

import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmlib.checkpoint import load_checkpoint, load_model, save_checkpoint, save_model
from lmlib.evaluation import evaluate
from lmlib.functional import cross_entropy
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW, clip_grad_norm_
from lmlib.runtime import Runtime, resolve_device, resolve_dtype
from lmlib.sampling import SamplingParams, generate
from lmlib.sampling.decoders import GraphDecoder, PlainDecoder, decoder_for
from lmlib.training import Interrupted, ResumeStore
from tests.training.test_loop import (
    OPTIM,
    TRAIN,
    assert_same_bits,
    run,
    run_sampled,
    saved_state,
    send,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
VOCAB_SIZE = 300
SIZES = ModelParams(context_length=64, d_model=64, num_layers=2, num_heads=2, d_ff=96)
GROUPED = {"num_kv_heads": 1, "attention_window": 20}


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(0))


def trained(device: torch.device) -> tuple[TransformerLM, AdamW]:
    """Return a model after three steps, and its optimizer."""
    model = TransformerLM(SIZES, VOCAB_SIZE, seed=1).to(device)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    ids = random_ids(4, 65).to(device)
    for _ in range(3):
        cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


# -- the same bits at every run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("compile_", ["off", "on", "graphs"])
@pytest.mark.parametrize("micro_batch_size", ["0", "2"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_interrupted_training_equals_an_uninterrupted_one(
    tmp_path: Path, dtype: str, compile_: str, micro_batch_size: str, optimizer: str
) -> None:
    """In a process of its own: torch.compile cannot read functions whose shapes are checked."""
    code = "import sys; from tests import test_cuda; test_cuda.compare_trainings(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), dtype, compile_, micro_batch_size, optimizer],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def compare_trainings(
    folder: str, dtype: Any, compile_: Any, micro_batch_size: str, optimizer: Any
) -> None:
    """20 steps equal 10 steps, SIGTERM, and 10 more steps, bit for bit.

    With `graphs` they equal those of one launch each, but for the order of sums.
    """
    params = replace(
        TRAIN,
        device="cuda",
        dtype=dtype,
        compile=compile_,
        micro_batch_size=int(micro_batch_size),
    )
    optim = replace(OPTIM, name=optimizer)
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lmlib").addHandler(handler)
    whole, halves = Path(folder) / "whole", Path(folder) / "halves"
    model, result = run(whole, params, optim)
    with pytest.raises(Interrupted):
        run(halves, params, optim, on_step=send(signal.SIGTERM, at_step=10))
    resumed, resumed_result = run(halves, params, optim)
    assert_same_bits(resumed.state_dict(), model.state_dict())
    assert_same_bits(saved_state(halves, 20), saved_state(whole, 20))
    assert resumed_result == result
    assert not [line for line in warnings if "recorded" in line or "uncompiled" in line]
    if compile_ == "graphs":
        _, launched_singly = run(Path(folder) / "on", replace(params, compile="on"), optim)
        for row, other in zip(result.train, launched_singly.train, strict=True):
            assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "residual": "dtype"}], ids=str)
def test_samples_leave_the_bits_of_a_run_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Drawing a token needs a sum that PyTorch cannot do in a fixed order."""
    params = replace(TRAIN, device="cuda", sample_every=4, **changes)
    sampled = run_sampled(tmp_path / "sampled", params)
    plain, result = run(tmp_path / "plain", replace(params, sample_every=0))
    assert_same_bits(sampled.state_dict(), plain.state_dict())
    texts = saved_state(tmp_path / "sampled", 20)["parts"]["samples"]["texts"]
    assert [step for step, _ in texts] == [4, 8, 12, 16, 20]
    assert saved_state(tmp_path / "sampled", 20)["rows"]["train"] == result.train


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["sdpa", "plain"])
@pytest.mark.parametrize("changes", [{}, GROUPED], ids=str)
def test_gradients_are_the_same_at_every_run(
    dtype: torch.dtype, kernel: Any, changes: dict[str, int]
) -> None:
    """A context of many blocks, whose gradients fused attention may add in any order."""
    params = replace(SIZES, context_length=1024, attention=kernel, **changes)
    model = TransformerLM(params, VOCAB_SIZE).to(CUDA)
    ids = random_ids(8, 1025).to(CUDA)
    runs = []
    with Runtime(CUDA).deterministic():
        for _ in range(5):
            with Runtime(CUDA, dtype).autocast():
                loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
            runs.append(torch.autograd.grad(loss, list(model.parameters())))
    for gradients in runs[1:]:
        assert_same_bits(gradients, runs[0])


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_every_model_can_be_trained_in_a_fixed_order(norm: Any, tie_embeddings: bool) -> None:
    """`deterministic` raises RuntimeError for an operation that has no such form."""
    params = replace(SIZES, norm=norm, tie_embeddings=tie_embeddings, position="none", ffn="silu")
    model = TransformerLM(params, VOCAB_SIZE).to(CUDA)
    ids = random_ids(2, 65).to(CUDA)
    with Runtime(CUDA).deterministic():
        cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()


# -- the results of the CPU


def test_evaluation_gives_the_loss_of_the_cpu() -> None:
    model, _ = trained(CPU)
    tokens = random_ids(1000).numpy().astype(np.uint16)
    on_cpu, on_cuda = (
        evaluate(model.to(device), tokens, 4000, context_length=64, batch_size=4, start_id=0)
        for device in (CPU, CUDA)
    )
    assert on_cuda.loss == pytest.approx(on_cpu.loss, abs=1e-5)
    assert on_cuda.tokens == on_cpu.tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_gives_the_tokens_of_the_cpu(temperature: float) -> None:
    """Drawn on the CPU with one seed; the prompts outgrow the context."""
    model, _ = trained(CPU)
    params = SamplingParams(
        prompts=("a",), max_tokens=80, temperature=temperature, top_k=0, top_p=0.9, seed=1
    )
    prompts = [[1, 2, 3], [4], [5, 6]]
    on_cpu = generate(model, prompts, params)
    assert generate(model.to(CUDA), prompts, params) == on_cpu


@pytest.mark.parametrize("changes", [{}, GROUPED], ids=str)
def test_recorded_steps_compute_what_others_do(changes: dict[str, int]) -> None:
    """Rows of different lengths, for some steps, then with one row fewer: recorded again."""
    model = TransformerLM(replace(SIZES, **changes), VOCAB_SIZE, seed=1).to(CUDA)
    windows = [[1, 2, 3], [4], [5] * 40]
    with torch.inference_mode():
        decoders = GraphDecoder(model), PlainDecoder(model)
        caches = [decoder.fill(windows) for decoder in decoders]
        for tokens in ([6, 7, 8], [9, 10, 11], [12, 13], [14, 15]):
            if len(tokens) < len(caches[0].lengths):
                caches = [cache.select([2, 0]) for cache in caches]
            recorded, expected = (
                decoder.logits(cache, tokens)
                for decoder, cache in zip(decoders, caches, strict=True)
            )
            torch.testing.assert_close(recorded, expected, rtol=1e-4, atol=1e-5)
            assert caches[0].lengths == caches[1].lengths
        assert decoders[0].can_record


def test_generation_on_cuda_slides_on() -> None:
    """The cache is refilled in place, under the recorded step."""
    model = trained(CUDA)[0]
    assert isinstance(decoder_for(model), GraphDecoder)
    params = SamplingParams(prompts=(), max_tokens=150, temperature=0.0, top_k=0, top_p=1.0, seed=1)
    prompts = [[1, 2, 3], [4]]
    assert generate(model, prompts, params) == generate(model, prompts, params, use_cache=False)


@pytest.mark.parametrize(("source", "target"), [(CUDA, CPU), (CPU, CUDA)])
def test_checkpoints_move_between_devices(
    tmp_path: Path, source: torch.device, target: torch.device
) -> None:
    """Weights and moments keep their bits, and move to the new model's device."""
    model, optimizer = trained(source)
    save_checkpoint(model, optimizer, 3, tmp_path / "checkpoint.pt")
    ResumeStore(tmp_path / "resume").save(model, optimizer, 3, {"train": [], "valid": []})
    save_model(tmp_path / "lm", model)

    for store in (None, ResumeStore(tmp_path / "resume")):
        other = TransformerLM(SIZES, VOCAB_SIZE, seed=2).to(target)
        other_optimizer = AdamW(other.parameters(), lr=1.0)
        if store is None:
            assert load_checkpoint(tmp_path / "checkpoint.pt", other, other_optimizer) == 3
        else:
            assert store.load(other, other_optimizer) == (3, {"train": [], "valid": []})
        assert_same_bits(other.cpu().state_dict(), model.cpu().state_dict())
        for state, expected in zip(
            other_optimizer.state.values(), optimizer.state.values(), strict=True
        ):
            assert state["m"].device.type == target.type
            assert_same_bits(state["m"].cpu(), expected["m"].cpu())
            assert_same_bits(state["v"].cpu(), expected["v"].cpu())
            assert state["t"] == expected["t"] == 3

    loaded = load_model(tmp_path / "lm", target)
    assert loaded.lm_head.weight.device.type == target.type
    assert_same_bits(loaded.cpu().state_dict(), model.cpu().state_dict())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_agrees_with_pytorch(weight_decay: float) -> None:
    ours = [torch.nn.Parameter(torch.ones(33, 17, device=CUDA))]
    theirs = [torch.nn.Parameter(torch.ones(33, 17, device=CUDA))]
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": weight_decay}
    optimizers = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    generator = torch.Generator(CUDA).manual_seed(0)
    for _ in range(50):
        ours[0].grad = torch.randn(33, 17, device=CUDA, generator=generator)
        theirs[0].grad = ours[0].grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_clipping_agrees_with_pytorch(scale: float) -> None:
    parameters = [torch.nn.Parameter(torch.ones(5, 3, device=CUDA)) for _ in range(2)]
    for p in parameters:
        p.grad = scale * torch.randn(5, 3, device=CUDA)
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for p, other in zip(parameters, others, strict=True):
        assert p.grad is not None
        other.grad = p.grad.clone()
    norm, expected = clip_grad_norm_(parameters, 1.0), torch.nn.utils.clip_grad_norm_(others, 1.0)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close([p.grad for p in parameters], [p.grad for p in others])


# -- `auto`


def test_auto_takes_the_gpu_compiled() -> None:
    assert resolve_device("auto", "device") == CUDA
    native = torch.cuda.get_device_capability() >= (8, 0)  # Ampere was the first
    assert resolve_dtype("auto", CUDA, "dtype") == (torch.bfloat16 if native else torch.float16)
    assert Runtime(CUDA).should_compile("auto", 1e17)
