"""Several processes: curves as of one, states that any number can resume, a clear end if one dies.

Run as a script, this file is the run whose processes torchrun starts, on the CPU.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import lmlib.checkpoint
import lmlib.training.store
from lmlib.checkpoint import load_model, plain_state_dict, save_model
from lmlib.data import Batch, TokenDataset
from lmlib.model import TransformerLM
from lmlib.optim import Muon, OptimParams
from lmlib.sharding import shard_like, whole
from lmlib.training import (
    Datasets,
    Hooks,
    Interrupted,
    ResumeStore,
    Trainer,
    TrainParams,
    TrainResult,
    train,
)
from lmlib.training.distributed import World, replicate, shard
from lmlib.training.processes import count_processes, join
from stages.cli import run_stage
from tests.training.test_loop import (
    CYCLE,
    DOCUMENTS,
    MODEL,
    NOISE,
    OPTIM,
    TRAIN,
    VOCAB_SIZE,
    assert_same_bits,
    saved_state,
    saved_steps,
    settings_of,
    write_ids,
)

TORCHRUN = {"TORCHELASTIC_RUN_ID": "test", "RANK": "3"}
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MUON = replace(OPTIM, name="muon")
FSDP = replace(TRAIN, parallel="fsdp")
ISOLATED = replace(TRAIN, windows="isolated", copy_weight=9.0, copy_fraction=0.8)
OVERFITTING = replace(TRAIN, num_steps=200, valid_every=2, log_every=10, patience=3)

# runs that are the same in two processes as in one, each with its optimizer
SAME: dict[str, tuple[TrainParams, OptimParams]] = {
    "ddp": (TRAIN, OPTIM),
    "ddp-parts": (replace(TRAIN, micro_batch_size=1), OPTIM),
    "ddp-epochs": (replace(TRAIN, order="epochs"), OPTIM),
    "ddp-muon": (TRAIN, MUON),
    "ddp-patience": (OVERFITTING, OPTIM),
    "ddp-isolated": (ISOLATED, OPTIM),
    "fsdp": (FSDP, OPTIM),
    "fsdp-parts": (replace(FSDP, micro_batch_size=1), OPTIM),
    "fsdp-muon": (FSDP, MUON),
    "fsdp-isolated": (replace(ISOLATED, parallel="fsdp", micro_batch_size=1), OPTIM),
    "fsdp-patience": (replace(OVERFITTING, parallel="fsdp"), OPTIM),
}
# the same but for products in bfloat16, whose sums differ more
ROUNDED: dict[str, tuple[TrainParams, OptimParams]] = {
    f"{name}-bf16": (replace(params, dtype="bfloat16"), OPTIM)
    for name, params in {
        "ddp": TRAIN,
        "fsdp": FSDP,
        "fsdp-parts": replace(FSDP, micro_batch_size=1),
    }.items()
}
# the same but for torch.compile
COMPILED: dict[str, tuple[TrainParams, OptimParams]] = {
    f"{name}-compiled": (replace(params, compile="on"), OPTIM)
    for name, params in {"ddp": TRAIN, "fsdp": FSDP}.items()
}
# what the others are compared with, and one of each kind; the rest is slow
ALWAYS = ("ddp", "fsdp")
QUICK = (*ALWAYS, "ddp-parts", "fsdp-muon", "fsdp-parts-bf16", "ddp-fsdp", "fsdp-fsdp", "one-ddp")
# shapes of matrices that three processes cannot share equally
MATRICES = [(6, 12)] * 7 + [(13, 5)] * 2 + [(2, 9)]
# how a run trains until step 10, and after it; None: in one process
RESUMED: dict[str, tuple[TrainParams | None, TrainParams | None]] = {
    "ddp-ddp": (TRAIN, TRAIN),
    "fsdp-fsdp": (FSDP, FSDP),
    "ddp-fsdp": (TRAIN, FSDP),
    "fsdp-ddp": (FSDP, TRAIN),
    "ddp-one": (TRAIN, None),
    "fsdp-one": (FSDP, None),
    "one-ddp": (None, TRAIN),
    "one-fsdp": (None, FSDP),
}


class Scripted(TokenDataset):
    """Does something when the batch of step 10 is taken: in the middle of a run."""

    def __init__(self, action: Any, data: TokenDataset = NOISE) -> None:
        super().__init__(data.tokens, data.info)
        self.action = action

    def batch(self, step: int, **settings: Any) -> Batch:
        if step == 10:
            self.action()
        return super().batch(step, **settings)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run(
    folder: Path,
    params: TrainParams = TRAIN,
    optim: OptimParams = OPTIM,
    data: TokenDataset = NOISE,
    world: World | None = None,
    on_step: Any = lambda step, metrics: None,
) -> TrainResult:
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
    store = ResumeStore(folder, world)
    valid = DOCUMENTS if params.windows == "isolated" else NOISE
    result = train(model, settings_of(params, optim), Datasets(data, valid), store, Hooks(on_step))
    weights = store.world.gathered(plain_state_dict(model))
    if store.world.is_main:
        save_model(folder / "model", model, weights)
    return result


def data_of(params: TrainParams) -> TokenDataset:
    if params.windows == "isolated":
        return DOCUMENTS
    return CYCLE if params.patience else NOISE


# -- what the processes do


def many_runs(folder: Path, world: World, names: list[str]) -> None:
    """These of SAME, ROUNDED and RESUMED; each process writes what it saw to its own file."""
    on_step: Any = lambda step, metrics: None  # noqa: E731

    def fail(*_: Any) -> Any:
        raise AssertionError("a process other than the main one writes")

    if not world.is_main:
        lmlib.training.store.write_atomically = on_step = fail
        lmlib.checkpoint.write_atomically = lmlib.checkpoint.write_json = fail
    seen: dict[str, Any] = {}
    for name in filter((SAME | ROUNDED).__contains__, names):  # in one order in all processes
        params, optim = (SAME | ROUNDED)[name]
        result = run(folder / name, params, optim, data_of(params), world, on_step)
        seen[name] = asdict(result)
    for name in filter(RESUMED.__contains__, names):
        first, then = RESUMED[name]
        if first:  # a signal to any process counts for all
            data = NOISE if world.is_main else Scripted(terminate)
            try:
                run(folder / name, first, OPTIM, data, world, on_step)
            except Interrupted as error:
                seen[f"{name} interrupted"] = error.code
        if then:
            seen[name] = asdict(run(folder / name, then, OPTIM, NOISE, world, on_step))

    for name, params in {"ddp": TRAIN, "fsdp": FSDP}.items():
        model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
        store = ResumeStore(folder / f"{name}-sampled", world)
        settings = settings_of(replace(params, sample_every=8))
        texts: list[list[tuple[int, str]]] = []
        hooks = Hooks(write=write_ids, on_sample=texts.append)
        if not world.is_main:
            hooks = Hooks(write=fail, on_sample=fail)
        result = train(model, settings, Datasets(NOISE, NOISE), store, hooks)
        seen[f"{name}-sampled"] = asdict(result)
        seen[f"{name}-texts"] = texts

    model = TransformerLM(MODEL, VOCAB_SIZE)
    data = NOISE if world.is_main else Scripted(lambda: model.lm_head.weight.data.fill_(torch.nan))
    try:
        store = ResumeStore(folder / "nan", world)
        train(model, settings_of(), Datasets(data, NOISE), store)
    except FloatingPointError as error:
        seen["nan"] = str(error)
    (folder / f"{world.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def compiled_runs(folder: Path, world: World) -> None:
    """The runs of COMPILED; the main process writes what it saw."""
    from torch._dynamo.utils import counters

    seen: dict[str, Any] = {}
    for name, (params, optim) in COMPILED.items():
        counters.clear()
        seen[name] = asdict(run(folder / name, params, optim, world=world))
        seen[name]["breaks"] = len(counters["graph_break"])
        seen[name]["graphs"] = counters["stats"]["unique_graphs"]
    if world.is_main:
        (folder / "compiled.json").write_text(json.dumps(seen), encoding="utf-8")


def orthogonal_steps(kind: str, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Return the matrices after three steps of Muon, and this process's operations (if counted)."""
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(place)))
        for place, shape in enumerate(MATRICES)
    ]
    holder = torch.nn.Module()
    holder.matrices = torch.nn.ParameterList(parameters)
    if kind == "fsdp":
        shard(holder, [], CPU, torch.float32)
    parameters = list(holder.parameters())
    optimizer = Muon([{"params": parameters, "momentum": 0.9}], lr=0.1)
    optimizer.dtype, optimizer.divided = dtype, kind in ("ddp", "ddp-compiled")
    if kind == "ddp-compiled":
        optimizer.compile()
    counter = FlopCounterMode(display=False)
    with contextlib.nullcontext() if optimizer.compiled else counter:
        for step in range(3):
            for place, p in enumerate(parameters):
                seed = torch.Generator().manual_seed(100 * step + place)
                p.grad = shard_like(torch.randn(p.shape, generator=seed), p)
            optimizer.step()
    assert kind != "ddp-compiled" or optimizer.compiled
    return [whole(p).detach() for p in parameters], counter.get_total_flops()


def divided_steps(folder: Path, world: World) -> None:
    """Steps of Muon, divided among the processes and not; each writes what it has."""
    seen = {
        f"{kind} {dtype}": orthogonal_steps(kind, dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for kind in ("one", "ddp", "fsdp", "ddp-compiled")
    }
    torch.save(seen, folder / f"{world.rank}.pt")
    params = replace(TRAIN, batch_size=world.size)
    model, store = TransformerLM(MODEL, VOCAB_SIZE), ResumeStore(folder / "run", world)
    trainer = Trainer(model, settings_of(params, MUON), Datasets(NOISE, NOISE), store)
    assert isinstance(trainer.optimizer, Muon)
    assert trainer.optimizer.divided  # so that a run does it, too


def dying(folder: Path, world: World, stuck: bool) -> None:
    """The second process is killed; the first waits for it or, asleep, does not notice."""

    def die() -> None:
        if not world.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        if stuck:
            time.sleep(300)

    run(folder, replace(TRAIN, checkpoint_every=4), data=Scripted(die), world=world)


def lingering(folder: Path, world: World) -> None:
    """From step 10 on, there is time for a signal from outside."""

    def linger() -> None:
        (folder / "lingers").touch()
        time.sleep(2)

    run(folder, TRAIN, data=Scripted(linger) if world.is_main else NOISE, world=world)


def main() -> None:
    job, folder = sys.argv[1], Path(sys.argv[2])
    with join(CPU) as world:
        if job == "many runs":
            many_runs(folder, world, sys.argv[3:])
        elif job == "compiled runs":
            compiled_runs(folder, world)
        elif job == "divided steps":
            torch.compile = partial(torch.compile, backend="aot_eager")
            divided_steps(folder, world)
        elif job == "lingering":
            lingering(folder, world)
        elif job == "to the end":
            run(folder, world=world)
        else:
            dying(folder, world, stuck=job == "dying, the other stuck")


# -- what comes of it


LAUNCH = """
from lmlib.training.processes import launch
from stages.cli import run_stage

run_stage(lambda: launch("tests.training.test_distributed", PROCESSES))
"""


def start(
    job: str, folder: Path, names: Collection[str] = (), processes: int = 2
) -> subprocess.Popen[str]:
    launch = LAUNCH.replace("PROCESSES", str(processes))
    command = [sys.executable, "-c", launch, job, str(folder), *names]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout_s: float = 600) -> tuple[int, str]:
    """Return the exit status and the text on stderr."""
    _, errors = process.communicate(timeout=timeout_s)
    return process.returncode, errors


def each(names: Collection[str]) -> pytest.MarkDecorator:
    """Return a mark that calls the test with each name; those that are not in QUICK are slow."""
    slow = pytest.mark.slow
    params = [pytest.param(name, marks=[] if name in QUICK else slow) for name in names]
    return pytest.mark.parametrize("name", params)


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs in two processes: those that the selected tests ask for."""
    folder = tmp_path_factory.mktemp("runs")
    tests: list[Any] = [test for test in request.session.items if test.path == request.path]
    asked = {test.callspec.params.get("name") for test in tests if hasattr(test, "callspec")}
    names = sorted({*ALWAYS, *((SAME | ROUNDED | RESUMED).keys() & asked)})
    for name in names:
        if name in RESUMED and RESUMED[name][0] is None:
            with pytest.raises(Interrupted):
                run(folder / name, data=Scripted(terminate))
    status, errors = finish(start("many runs", folder, names))
    assert status == 0, errors
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    """What each process saw."""
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


def assert_close(result: dict[str, Any], expected: TrainResult, rel: float = 1e-4) -> None:
    """Equal but for the order of sums in float32."""
    for curve in ("train", "valid"):
        for row, other in zip(result[curve], getattr(expected, curve), strict=True):
            assert row == pytest.approx(other, rel=rel)


@each(SAME)
def test_two_processes_train_as_one(
    name: str, folder: Path, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Each takes half of the same batch_size; one writes, and both know the same results."""
    params, optim = SAME[name]
    expected = run(tmp_path, params, optim, data_of(params))
    assert_close(seen[0][name], expected)
    assert seen[1][name] == seen[0][name]
    weights = load_model(folder / name / "model").state_dict()
    torch.testing.assert_close(
        weights, load_model(tmp_path / "model").state_dict(), rtol=1e-3, atol=1e-4
    )
    step = int(expected.train[-1]["step"])
    if not params.patience:  # which ends with the weights of another step
        assert_same_bits(saved_state(folder / name, step)["model"], weights)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_main_process_writes_samples(name: str, seen: list[dict[str, Any]]) -> None:
    """Of the whole model, and without any effect on the run."""
    for process in seen:
        assert process[f"{name}-sampled"] == process[name]
    assert [[step for step, _ in texts] for texts in seen[0][f"{name}-texts"]] == [[8], [8, 16]]
    assert all(text for _, text in seen[0][f"{name}-texts"][-1])
    assert seen[0]["fsdp-texts"] == seen[0]["ddp-texts"]
    assert seen[1][f"{name}-texts"] == []


@each(ROUNDED)
def test_two_processes_train_as_one_in_bfloat16(
    name: str, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    """With fsdp the weights travel in bfloat16, in which they are multiplied anyway."""
    expected = run(tmp_path, *ROUNDED[name])
    assert_close(seen[0][name], expected, rel=0.03)
    assert seen[1][name] == seen[0][name]


@pytest.mark.slow
def test_compiled_processes_train_as_one_uncompiled(tmp_path: Path) -> None:
    """Without a break; with fsdp each block and the loss of the hidden states are graphs."""
    expected = run(tmp_path / "one")
    status, errors = finish(start("compiled runs", tmp_path), timeout_s=1200)
    assert status == 0, errors
    seen = json.loads((tmp_path / "compiled.json").read_text(encoding="utf-8"))
    for name in COMPILED:
        assert seen[name].pop("breaks") == 0
        assert seen[name].pop("graphs") == (4 if "fsdp" in name else 2)  # trained, validated
        assert_close(seen[name], expected)


@pytest.mark.slow
def test_processes_divide_the_matrices_of_muon(tmp_path: Path) -> None:
    """Whatever their number, and their rows: each has the matrices that one process would have."""
    status, errors = finish(start("divided steps", tmp_path, processes=3))
    assert status == 0, errors
    seen = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for name, (expected, operations) in seen[0].items():
        kind, dtype = name.split()
        alone, all_operations = seen[0][f"one {dtype}"]
        tolerance = 1e-5 if "float32" in dtype else 0.02
        torch.testing.assert_close(expected, alone, rtol=tolerance, atol=tolerance)
        for other in seen:
            assert_same_bits(other[name][0], expected)
        if kind in ("ddp", "fsdp"):
            assert all_operations / 3 <= operations < all_operations / 2
            assert all_operations <= sum(each[name][1] for each in seen) < 1.5 * all_operations


@pytest.mark.parametrize("new_name", [True, False])
def test_buffers_are_not_sent_at_each_step(new_name: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They never change; PyTorch 2.13 has renamed what says so."""

    class New(torch.nn.Module):
        def __init__(
            self, module: Any, *, forward_sync_buffers: bool = True, gradient_as_bucket_view: bool
        ) -> None:
            super().__init__()
            self.sent = forward_sync_buffers

    class Old(torch.nn.Module):
        def __init__(
            self, module: Any, *, broadcast_buffers: bool = True, gradient_as_bucket_view: bool
        ) -> None:
            super().__init__()
            self.sent = broadcast_buffers

    kind = New if new_name else Old
    monkeypatch.setattr("lmlib.training.distributed.DistributedDataParallel", kind)
    assert replicate(torch.nn.Linear(1, 1)).sent is False


@each(RESUMED)
def test_resumes_in_another_way(
    name: str, folder: Path, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Interrupted after step 10; bit for bit if nothing changes."""
    first, then = RESUMED[name]
    expected = run(tmp_path)
    before = seen[0][first.parallel] if first else asdict(expected)
    if first:
        codes = [process[f"{name} interrupted"] for process in seen]
        assert codes == [128 + signal.SIGTERM] * 2
    result = seen[0][name] if then else asdict(run(folder / name))
    assert result["train"][:10] == before["train"][:10]
    assert_close(result, expected)
    if first == then and first:
        assert result == before
        assert_same_bits(saved_state(folder / name, 20), saved_state(folder / first.parallel, 20))


def test_all_stop_at_what_is_not_finite_in_one(folder: Path, seen: list[dict[str, Any]]) -> None:
    assert seen[0]["nan"].startswith("step 10: loss is nan; the states saved before")
    assert seen[1]["nan"] == seen[0]["nan"]
    assert saved_steps(folder / "nan") == [7]


@pytest.mark.parametrize(
    "job", [pytest.param("dying", marks=pytest.mark.slow), "dying, the other stuck"]
)
def test_a_dead_process_ends_the_other(job: str, tmp_path: Path) -> None:
    """Even one that handles no signals, within seconds; states saved before stay intact."""
    status, errors = finish(start(job, tmp_path))
    assert status == 1
    last_line = errors.splitlines()[-1]
    assert last_line == (
        "error: rank 1 of 2 was killed by SIGKILL; the others were stopped, and the states saved "
        "before are kept: run again to resume"
    )
    assert "Traceback" not in errors
    assert saved_steps(tmp_path) == [4, 8]


@pytest.mark.slow
def test_sigterm_saves_and_a_rerun_goes_on(
    folder: Path, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The starting process passes the signal on, waits, and exits as one process would."""
    process = start("lingering", tmp_path)
    while not (tmp_path / "lingers").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    status, errors = finish(process)
    assert status == 128 + signal.SIGTERM, errors
    assert errors.count("state saved after step 10") == 1  # not in each process
    assert saved_steps(tmp_path) == [7, 10]

    status, errors = finish(start("to the end", tmp_path))
    assert status == 0, errors
    assert errors.count("resuming after step 10 of 20") == 1
    assert_same_bits(saved_state(tmp_path, 20), saved_state(folder / "ddp", 20))


# -- settings


def test_refuses_a_batch_that_the_processes_cannot_share() -> None:
    with pytest.raises(ValueError, match=r"^batch_size is 4, not divisible by the 3 processes"):
        TRAIN.sequences_at_a_time(3)
    parts = replace(TRAIN, micro_batch_size=4)
    with pytest.raises(
        ValueError, match=r"^batch_size is 4, 2 in each process: not divisible by m"
    ):
        parts.sequences_at_a_time(2)


def test_rejects_no_processes() -> None:
    with pytest.raises(
        ValueError, match=r"^num_processes is 0; it must be from 1 to 1024, or auto"
    ):
        replace(TRAIN, num_processes=0)


def test_counts_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert count_processes("auto", CPU) == 1
    assert count_processes("auto", cuda) == 2
    assert count_processes("auto", torch.device("cuda:1")) == 1
    assert count_processes(3, CPU) == 3
    with pytest.raises(ValueError, match=r"^3 processes on a machine with 2 CUDA devices; each"):
        count_processes(3, cuda)
    with pytest.raises(ValueError, match=r"^train\.device is cuda:1, which 2 processes cannot"):
        count_processes(2, torch.device("cuda:1"))
    with pytest.raises(ValueError, match=r"^train\.device is mps, which 2 processes cannot"):
        count_processes(2, torch.device("mps"))


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with two each; `train.num_processes` is ignored."""
    for name, value in {**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert count_processes(1, torch.device("cuda")) == 4


if __name__ == "__main__":
    run_stage(main)
