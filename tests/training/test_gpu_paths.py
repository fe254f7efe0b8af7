"""What training does on a GPU, as far as a machine without one can show it.

On the device `meta` tensors have shapes and no values, so whatever would make the CPU wait for a
value of the GPU raises an error there.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lmlib.model import ModelParams, NextTokenLoss, TransformerLM
from lmlib.optim import OptimParams
from lmlib.optim.adamw import AdamW
from lmlib.optim.muon import Muon
from lmlib.training import Datasets, ResumeStore, Trainer, TrainParams
from tests.model.test_transformer import VARIATIONS
from tests.model.test_transformer import model as model_of
from tests.training.test_loop import (
    DOCUMENTS,
    MODEL,
    OPTIM,
    TRAIN,
    VOCAB_SIZE,
    assert_resumes_to_the_bit,
    assert_same_bits,
    run,
    saved_state,
    settings_of,
)

META = torch.device("meta")
ROOT = Path(__file__).parents[2]

# -- a step never waits, and takes few operations

# Operations of a step that are views, or touch no memory of the device.
FREE = {
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "empty",
    "empty_like",
    "expand",
    "lift_fresh",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
}


class Operations(TorchDispatchMode):
    """Counts the operations that a GPU would have to launch, by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "rest"
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ not in FREE:
            self.counts[self.phase] += 1
        return func(*args, **(kwargs or {}))

    def within(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, whose operations count to `phase`."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return function(*args, **kwargs)
            finally:
                self.phase = before

        return counted


def on_meta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: TrainParams, optim: OptimParams
) -> Trainer:
    """Return a trainer on the device `meta`, which holds the text as a GPU does."""
    monkeypatch.setattr("lmlib.training.settings.resolve_device", lambda *_: META)
    monkeypatch.setattr("torch.is_autocast_enabled", lambda *_: False)  # it does not know `meta`
    model = TransformerLM(replace(MODEL, num_layers=2), VOCAB_SIZE)
    data = Datasets(DOCUMENTS, DOCUMENTS)
    trainer = Trainer(model, settings_of(params, optim), data, ResumeStore(tmp_path))
    trainer.data.train._on_device = torch.empty(200, dtype=torch.int16, device=META)
    return trainer


@pytest.fixture(autouse=True)
def text_stays_on_the_cpu() -> Any:
    """Other tests use the same text."""
    yield
    DOCUMENTS.to(torch.device("cpu"))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch_size": 1},
        {"windows": "isolated", "copy_weight": 9.0, "copy_fraction": 0.8},
    ],
    ids=str,
)
def test_no_step_waits_for_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, changes: dict[str, Any]
) -> None:
    trainer = on_meta(tmp_path, monkeypatch, replace(TRAIN, **changes), replace(OPTIM, name=name))
    for _ in range(2):
        trainer.take_step()
    with pytest.raises(RuntimeError, match="meta"):  # a value is read: the wait is seen
        trainer.guard.check()


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("adamw", {"batch": 8, "gradients": 324, "clip": 30, "optimizer": 20}),
        ("muon", {"batch": 8, "gradients": 324, "clip": 30, "optimizer": 96}),
    ],
)
def test_operations_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, budget: dict[str, int]
) -> None:
    """Two layers: whoever adds an operation for each tensor, or for each layer, sees it here."""
    trainer = on_meta(tmp_path, monkeypatch, TRAIN, replace(OPTIM, name=name))
    trainer.take_step()
    operations = Operations()
    for phase, owner, attribute in (
        ("batch", trainer, "_batch"),
        ("gradients", trainer, "_add_gradients"),
        ("optimizer", trainer.optimizer, "step"),
    ):
        function = getattr(owner, attribute)
        monkeypatch.setattr(owner, attribute, operations.within(phase, function))
    from lmlib.training import trainer as module

    monkeypatch.setattr(module, "clip_scale", operations.within("clip", module.clip_scale))
    with operations:
        trainer.take_step()
    assert set(operations.counts) <= {*budget, "rest"}
    assert operations.counts["rest"] <= 3
    for phase, most in budget.items():
        assert 0.9 * most <= operations.counts[phase] <= most, operations.counts


# -- the compiler sees whole functions


def in_a_process(call: str) -> None:
    """Call a function of this file without checks of shapes, which the compiler cannot read."""
    code = f"from tests.training import test_gpu_paths as here; here.{call}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def graphs() -> int:
    """Return how many graphs have been compiled."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


# of VARIATIONS, whose code takes seconds each: four in which each choice is made at least once, and
# a third of all
SOME = sorted({1, 10, 27, 29, *range(0, len(VARIATIONS), 3)})


@pytest.mark.slow
def test_the_loss_of_every_model_is_one_graph() -> None:
    in_a_process("compile_losses()")


def compile_losses() -> None:
    """`fullgraph` refuses breaks; gradients come as the weights lie, so that nothing is copied."""
    ids = torch.randint(100, (2, 11), generator=torch.Generator().manual_seed(0))
    inputs, targets = ids[:, :-1] % 11, ids[:, 1:] % 11
    for changes in [VARIATIONS[number] for number in SOME]:
        for dtype in (torch.float32, torch.bfloat16):
            torch._dynamo.reset()
            loss = NextTokenLoss(model_of(vocab_size=11, **changes))
            compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=False)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                (actual, reported), (expected, _) = compiled(inputs, targets), loss(inputs, targets)
                with torch.no_grad():
                    torch.testing.assert_close(compiled(inputs, targets)[0], expected.detach())
            torch.testing.assert_close(actual, expected)
            torch.testing.assert_close(reported, expected.detach())
            weights = list(loss.parameters())
            gradients = torch.autograd.grad(actual, weights)
            for weight, gradient, eager in zip(
                weights, gradients, torch.autograd.grad(expected, weights), strict=True
            ):
                assert gradient.stride() == weight.stride()
                if dtype == torch.float32:
                    torch.testing.assert_close(gradient, eager, rtol=1e-4, atol=1e-6)


def weights_of(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def trained(optimizer: AdamW, parameters: list[nn.Parameter], steps: int = 5) -> list[Tensor]:
    """Take steps at rates that change; return the weights."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step(grad_scale=torch.tensor(0.5 + step))
    return [p.detach() for p in parameters]


def optimizer_of(name: str, parameters: list[nn.Parameter]) -> AdamW:
    if name == "adamw":
        vectors = [p for p in parameters if p.ndim == 1]
        matrices = [p for p in parameters if p.ndim == 2]
        return AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors}])
    return Muon([{"params": parameters, "momentum": 0.9, "weight_decay": 0.1}])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_steps_equal_the_uncompiled_ones(backend: str, name: str) -> None:
    in_a_process(f"compare_steps('{name}', '{backend}')")


def compare_steps(name: str, backend: str) -> None:
    """Each group, or for Muon each shape, is compiled once, though rates and scales change."""
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5)] if name == "muon" else [(4, 6), (3,), (6, 4), (5,)]
    expected = trained(optimizer_of(name, plain := weights_of(shapes)), plain)
    compile_ = torch.compile
    torch.compile = lambda function, **options: compile_(function, backend=backend, **options)
    parameters = weights_of(shapes)
    optimizer = optimizer_of(name, parameters)
    optimizer.compile()
    for actual, reference in zip(trained(optimizer, parameters), expected, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-5)
    assert optimizer.compiled
    assert graphs() == {"muon": 3, "adamw": 2}[name]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_steps_stay_uncompiled_where_the_compiler_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*_: Any) -> None:
        raise BackendCompilerFailed(lambda: None, RuntimeError("no such backend"), None)

    monkeypatch.setattr("lmlib.optim.adamw._compiled", lambda _: fail)
    expected = trained(optimizer_of(name, plain := weights_of([(4, 6)] * 2)), plain)
    parameters = weights_of([(4, 6)] * 2)
    optimizer = optimizer_of(name, parameters)
    optimizer.compile()
    for actual, reference in zip(trained(optimizer, parameters), expected, strict=True):
        assert torch.equal(actual, reference)
    assert len(caplog.messages) == 1
    assert "the optimizer runs uncompiled" in caplog.text


# -- a step as one graph


class Recorder:
    """Does what recording does to a training, on a CPU: `record` runs nothing, a launch all of it.

    A launch calls the function again, so what it reads must stand where it stood.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trainer: Trainer | None = None
        self.recorded = self.launched = 0
        recorder = self

        def compile_(trainer: Trainer) -> None:
            trainer.optimizer.compile()
            trainer._may_record = True
            recorder.trainer = trainer

        monkeypatch.setattr(Trainer, "_compile", compile_)
        monkeypatch.setattr("lmlib.optim.adamw._compiled", lambda formula: formula)
        monkeypatch.setattr(
            "lmlib.runtime.Runtime.record", lambda _, function: self.record(function)
        )

    def record(
        self, function: Callable[[], tuple[Tensor, ...]]
    ) -> Callable[[], tuple[Tensor, ...]]:
        self.recorded += 1
        assert self.trainer is not None
        for name, x in self.trainer._batch(1).items():  # as when it was compiled
            assert self.trainer._recorded_batch[name].stride() == x.stride()
        optimizer = self.trainer.optimizer
        tensors = [*self.trainer.model.parameters()]
        tensors += [x for state in optimizer.state.values() for x in state.values()]
        tensors = [x for x in tensors if isinstance(x, Tensor)]
        before = [x.detach().clone() for x in tensors]
        function()  # leaves gradients, as recording does
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)

        def launch() -> tuple[Tensor, ...]:
            self.launched += 1
            optimizer.zero_grad()  # recorded gradients are overwritten
            return function()

        return launch


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_recorded_steps_train_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch_size: int, name: Any
) -> None:
    """The first step is not recorded, and each later one launches what the second recorded."""
    params = replace(TRAIN, micro_batch_size=micro_batch_size, copy_weight=9.0, copy_fraction=0.8)
    optim = replace(OPTIM, name=name)
    plain, expected = run(tmp_path / "off", params, optim)
    recorder = Recorder(monkeypatch)
    recorded, result = run(tmp_path / "graphs", replace(params, compile="graphs"), optim)
    assert (recorder.recorded, recorder.launched) == (1, 19)
    torch.testing.assert_close(recorded.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
    for row, other in zip(result.train, expected.train, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    assert saved_state(tmp_path / "graphs", 20)["optimizer"]["state"][0]["t"] == 20


def test_recorded_steps_resume_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder(monkeypatch)
    assert_resumes_to_the_bit(tmp_path, replace(TRAIN, compile="graphs"))


def test_a_step_that_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is taken as others are; that is said once."""

    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    Recorder(monkeypatch)
    expected, _ = run(tmp_path / "recorded", replace(TRAIN, compile="graphs"))
    monkeypatch.setattr("lmlib.runtime.Runtime.record", fail)
    model, _ = run(tmp_path / "failed", replace(TRAIN, compile="graphs"))
    assert_same_bits(model.state_dict(), expected.state_dict())
    assert caplog.text.count("a step cannot be recorded as a CUDA graph (operation not") == 1


def test_params_of_the_models_that_are_compiled() -> None:
    """Each choice that a model has is in one of them."""
    chosen = {name for changes in VARIATIONS for name in changes}
    assert chosen >= set(ModelParams.__dataclass_fields__) - {
        *("context_length", "d_model", "num_layers", "d_ff", "rope_theta", "norm_eps"),
        "attention",  # compared in test_transformer.py
    }
