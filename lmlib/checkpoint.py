"""Checkpoints of a training, the state an interrupted one resumes from, and finished models."""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lmlib.distributed import World, load_whole, sharded_like
from lmlib.files import write_atomically, write_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.params import from_dict
from lmlib.threads import ThreadPool

logger = logging.getLogger(__name__)

# BytesIO by name: it has no `mode`, and so is no IO[bytes] to a checker at run time
PathOrFile = str | os.PathLike[str] | IO[bytes] | io.BytesIO
Row = dict[str, int | float]  # a point of a loss curve: its step (a whole number), loss, ...
Rows = dict[str, list[Row]]  # the name of a loss curve -> its rows


@runtime_checkable
class Stateful(Protocol):
    """A part of a training that outlives it in a state, as modules and optimizers do."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take up what another's `state_dict` gave."""
        ...


def plain_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a model, also of a compiled one, under the model's own names."""
    return {key.removeprefix("_orig_mod."): value for key, value in model.state_dict().items()}


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    out: PathOrFile,
) -> None:
    """Write weights, optimizer state and the number of finished steps to a path or file object.

    A path holds the whole checkpoint or what it held before, never a part.
    """
    with _serialise(_state(model, optimizer, iteration)) as content:
        if isinstance(out, str | os.PathLike):
            write_atomically(Path(out), content)
        else:
            out.write(content)


def load_checkpoint(
    src: PathOrFile,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore what `save_checkpoint` wrote; return the number of finished steps."""
    state = torch.load(src, map_location="cpu", weights_only=True)
    _restore(state, model, optimizer)
    return state["iteration"]


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, world: World | None = None
) -> dict[str, Any]:
    gathered = (world or World()).gathered
    of_optimizer = optimizer.state_dict()
    of_parameters = {
        i: {name: gathered(value) for name, value in values.items()}
        for i, values in of_optimizer["state"].items()
    }
    return {
        "model": {name: gathered(value) for name, value in plain_state_dict(model).items()},
        "optimizer": {**of_optimizer, "state": of_parameters},
        "iteration": iteration,
    }


def _restore(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    load_whole(getattr(model, "_orig_mod", model), state["model"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        i: {name: sharded_like(value, parameters[i]) for name, value in values.items()}
        for i, values in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": of_parameters})


def _snapshot(state: Any) -> Any:
    """Return a copy that training does not change, its tensors on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_snapshot, state))
    return state


def _serialise(state: dict[str, Any], room: int = 0) -> memoryview:
    """Return the bytes of `state`, after `room` bytes for what is to stand before them.

    Release them after use: Python 3.13 complains of a buffer that is collected with its view.
    """
    # through a buffer: torch.save writes the name of its file into the bytes
    buffer = io.BytesIO(bytes(room))
    buffer.seek(room)
    torch.save(state, buffer)
    return buffer.getbuffer()


class ResumeStore:
    """The states of one unfinished training, in a folder of its own.

    Each state is a file `step-N.pt`: 64 hexadecimal digits, the SHA-256 of what follows, then a
    checkpoint with the rows of the loss curves. The newest two are kept: the older is the way
    back when the newest is damaged. The tensors in it are whole, however many processes trained.

    The processes of `world` call `lock`, `save` and `load` together. The main one alone writes;
    all read, and so need the same folder.
    """

    _kept = 2

    def __init__(self, folder: str | Path, world: World | None = None) -> None:
        self.folder = Path(folder)
        self.world = world or World()
        # beside the folder, not in it: `discard` removes the folder
        self._lock = FileLock(self.folder.with_name(self.folder.name + ".lock"))
        self._writer: ThreadPool | None = None
        self._write_under_way: Future[None] | None = None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder; wait while another training makes the same thing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._held(timeout_s=0.0):
            logger.info("waiting for another process that trains this very model")
            # the other processes of the world look up now and then: they wait minutes, not hours
            while not self._held(timeout_s=60.0):
                pass
        try:
            yield
        finally:
            self._lock.release()

    def _held(self, timeout_s: float) -> bool:
        """Return whether the main process could take the lock."""
        held = True
        if self.world.is_main:
            try:
                self._lock.acquire(timeout=timeout_s)
            except Timeout:
                held = False
        return not self.world.max(not held)

    @contextlib.contextmanager
    def in_background(self) -> Iterator[None]:
        """Within, `save` copies the state and a thread writes it, one state at a time.

        What keeps a state from being written is raised by the next `save`, or when leaving, which
        waits for the last one.
        """
        with ThreadPool(1) as self._writer:
            try:
                yield
            finally:
                self._writer = None
                self._finish_write()

    def _finish_write(self) -> None:
        write, self._write_under_way = self._write_under_way, None
        if write:
            write.result()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        rows: Rows,
        **parts: Stateful,
    ) -> None:
        """Write the state after `step` finished steps; then drop all but the newest two.

        What else the training is made of comes as `parts`, by name.
        """
        self._finish_write()
        states = {name: part.state_dict() for name, part in parts.items()}
        state = {**_state(model, optimizer, step, self.world), "rows": rows, "parts": states}
        if not self.world.is_main:
            return
        if self._writer:
            self._write_under_way = self._writer.submit(self._write, step, _snapshot(state))
        else:
            self._write(step, state)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        with _serialise(state, room=64) as content:
            with content[64:] as body:
                content[:64] = hashlib.sha256(body).hexdigest().encode()
            write_atomically(self.folder / f"step-{step:09d}.pt", content)
        # a kill in the middle of a write leaves a temporary file
        for old in [*self._files()[self._kept :], *self.folder.glob("step-*.pt.tmp")]:
            old.unlink()

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, **parts: Stateful
    ) -> tuple[int, Rows] | None:
        """Restore the newest state that is whole; return its step and rows, or None.

        Damaged ones are removed: left in place, one would count among the newest two. Raises
        ValueError when the processes do not find the same state.
        """
        if not self.world.is_main:
            self.world.wait()
        loaded = self._load(model, optimizer, parts)
        if self.world.is_main:
            self.world.wait()  # what the others find is whole, then
        step = loaded[0] if loaded else 0
        newest, oldest = self.world.max(step), -self.world.max(-step)
        if newest != oldest:
            raise ValueError(
                f"{self.folder}: the processes find states of {oldest:.0f} to {newest:.0f} steps; "
                "the folder must lie on a file system that all machines share"
            )
        return loaded

    def _load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, parts: dict[str, Stateful]
    ) -> tuple[int, Rows] | None:
        for path in self._files():
            content = path.read_bytes()
            digest, body = content[:64], content[64:]
            if hashlib.sha256(body).hexdigest().encode() != digest:
                logger.warning("%s: damaged; removed, going back to the state before it", path)
                path.unlink()
                continue
            state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            _restore(state, model, optimizer)
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            return state["iteration"], state["rows"]
        return None

    def discard(self) -> None:
        """Remove all states, unless another process trains from them."""
        with contextlib.suppress(Timeout), self._lock.acquire(timeout=0):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Return the files of states, newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)


def save_model(folder: str | Path, model: TransformerLM, world: World | None = None) -> None:
    """Write `model.safetensors` and `config.json` (the model's params and vocabulary size).

    All processes of `world` call it; the main one writes.
    """
    folder = Path(folder)
    world = world or World()
    state = {name: world.gathered(weight) for name, weight in plain_state_dict(model).items()}
    if not world.is_main:
        return
    if model.params.tie_embeddings:
        del state["lm_head.weight"]  # safetensors refuses the same memory twice
    weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(folder / "model.safetensors", save(weights))
    config = {"vocab_size": model.vocab_size, **asdict(model.params)}
    write_json(folder / "config.json", config)


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> TransformerLM:
    """Return the model that `save_model` wrote, on `device`, in evaluation mode.

    Raises FileNotFoundError when one of the two files is missing, ValueError when one is damaged
    or they do not fit each other.
    """
    config_path, weights_path = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    for path in (config_path, weights_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no model here; run `dvc repro train`")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        vocab_size = int(config.pop("vocab_size"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config_path}: not the configuration of a model: {error!r}") from error
    model = TransformerLM(from_dict(ModelParams, config, str(config_path)), vocab_size)
    try:
        state = load_file(weights_path)
        if model.params.tie_embeddings:
            state["lm_head.weight"] = state["token_embeddings.weight"]
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{weights_path}: damaged, or not the weights of {config_path.name}: {error}"
        ) from error
    return model.to(device).eval()
