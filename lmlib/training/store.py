"""The states that an interrupted run resumes from."""

import contextlib
import hashlib
import io
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from filelock import Timeout

from lmlib.checkpoint import checkpoint_state, serialise
from lmlib.errors import describe
from lmlib.files import open_regular, write_atomically
from lmlib.memory import is_out_of_memory
from lmlib.sharding import load_whole
from lmlib.states import lock_of
from lmlib.threads import ThreadPool
from lmlib.training.distributed import World, load_whole_optimizer

logger = logging.getLogger(__name__)

Row = dict[str, int | float]  # a point of a loss curve: step (an integer), loss, ...
Rows = dict[str, list[Row]]  # the name of a loss curve -> its rows


@runtime_checkable
class Stateful(Protocol):
    """A part of a run that is saved in its states, like modules and optimizers."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore what `state_dict` returned."""
        ...


class ResumeStore:
    """The states of one unfinished run, in a folder of its own.

    Each state is a file `step-N.pt`: 64 hexadecimal digits, which are the SHA-256 of the rest, then
    a checkpoint with the rows of the loss curves. The newest two are kept: the older one is used
    if the newest is damaged. Their tensors are whole, however many processes trained. A state that
    cannot be written is a warning: a run is worth more than a state of it.

    The processes of `world` call `lock`, `save` and `load` together. Only the main one writes;
    all of them read, and so need the same folder.
    """

    _kept = 2

    def __init__(self, folder: str | Path, world: World | None = None) -> None:
        self.folder = Path(folder)
        self.world = world or World()
        self._lock = lock_of(self.folder)
        self._writer: ThreadPool | None = None
        self._pending_write: Future[None] | None = None
        self._failure: Exception | None = None  # of the last write

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder; wait while another process trains the same model."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._acquire(timeout_s=0.0):
            logger.info("waiting for another process that trains the same model")
            # a minute at a time: the other processes of the world must not wait for hours
            while not self._acquire(timeout_s=60.0):
                pass
        try:
            yield
        finally:
            self._lock.release()

    def _acquire(self, timeout_s: float) -> bool:
        """Return whether the main process has taken the lock."""
        held = True
        if self.world.is_main:
            try:
                self._lock.acquire(timeout=timeout_s)
            except Timeout:
                held = False
        return not self.world.max(not held)

    @contextlib.contextmanager
    def in_background(self) -> Iterator[None]:
        """Within the context, `save` copies the state and a thread writes it, one state at a time.

        Leaving the context waits for the last write.
        """
        with ThreadPool(1) as self._writer:
            try:
                yield
            finally:
                self._writer = None
                if not self.is_saved():
                    logger.warning("the last state of the run is not saved; see the warning above")

    def is_saved(self) -> bool:
        """Wait for the last write; return whether it has succeeded."""
        write, self._pending_write = self._pending_write, None
        if write:
            write.result()
        return self._failure is None

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        rows: Rows,
        **parts: Stateful,
    ) -> None:
        """Write the state after `step` finished steps; then delete all but the newest two.

        `parts` are the other stateful parts of the run, by name.
        """
        self.is_saved()
        state = self.world.gathered(checkpoint_state(model, optimizer, step))
        state["rows"] = rows
        state["parts"] = {name: part.state_dict() for name, part in parts.items()}
        if not self.world.is_main:
            return
        with self._warning(step):
            if self._writer:
                copy = _snapshot(state)
                self._pending_write = self._writer.submit(self._try_to_write, step, copy)
            else:
                self._write(step, state)

    def _try_to_write(self, step: int, state: dict[str, Any]) -> None:
        with self._warning(step):
            self._write(step, state)

    @contextlib.contextmanager
    def _warning(self, step: int) -> Iterator[None]:
        """Turn a lack of space or memory into a warning."""
        self._failure = None
        try:
            yield
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            self._failure = error
            text = "the state after step %d was not saved; training continues: %s"
            logger.warning(text, step, describe(error))

    def _write(self, step: int, state: dict[str, Any]) -> None:
        with serialise(state, room=64) as content:
            with content[64:] as body:
                content[:64] = hashlib.sha256(body).hexdigest().encode()
            write_atomically(self.folder / f"step-{step:09d}.pt", content)
        for old in self._files()[self._kept :]:
            old.unlink()
        for left in self.folder.glob(".step-*.part"):  # by a process that was killed while writing
            shutil.rmtree(left, ignore_errors=True)

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, **parts: Stateful
    ) -> tuple[int, Rows] | None:
        """Restore the newest undamaged state; return its step and rows, or None if there is none.

        A damaged state is removed, so that it does not count among the newest two; one that cannot
        be read is skipped. Raises ValueError for a state of another run, and if the processes do
        not find the same state.
        """
        if not self.world.is_main:
            self.world.wait()
        loaded = self._load(model, optimizer, parts)
        if self.world.is_main:
            self.world.wait()  # only now do the others look, when damaged states are removed
        step = loaded[0] if loaded else 0
        newest, oldest = self.world.max(step), -self.world.max(-step)
        if newest != oldest:
            raise ValueError(
                f"{self.folder}: the processes find states of {oldest:.0f} to {newest:.0f} steps; "
                "put the folder on a file system that all machines share"
            )
        return loaded

    def _load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, parts: dict[str, Stateful]
    ) -> tuple[int, Rows] | None:
        for path in self._files():
            try:
                with open_regular(path) as file:
                    content = file.read()
            except OSError as error:
                logger.warning("%s; trying the state before it", describe(error))
                continue
            digest, body = content[:64], content[64:]
            if hashlib.sha256(body).hexdigest().encode() != digest:
                logger.warning("%s: damaged, so it is removed; trying the state before it", path)
                path.unlink()
                continue
            try:
                state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            except Exception as error:  # almost any, for bytes that are not a checkpoint
                if is_out_of_memory(error):
                    raise
                kind = type(error).__name__
                logger.warning("%s: holds no state (%s); trying the state before it", path, kind)
                continue
            try:
                load_whole(model, state["model"])
                load_whole_optimizer(optimizer, state["optimizer"])
                for name, part in parts.items():
                    part.load_state_dict(state["parts"][name])
                return state["iteration"], state["rows"]
            except Exception as error:  # of whatever kind, and with the model restored in part
                if is_out_of_memory(error):
                    raise
                raise ValueError(
                    f"{path}: not a state of this run ({type(error).__name__}: {error}); remove "
                    "it, and run again to resume from the state before it"
                ) from error
        return None

    def _files(self) -> list[Path]:
        """Return the files of states, newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)


class Environment:
    """What the bits of a run depend on, apart from settings and data; part of each state."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def state_dict(self) -> dict[str, str]:
        """Return the values, which a state keeps."""
        return self.values

    def load_state_dict(self, saved: dict[str, str], /) -> None:
        """Warn of each value that differs from that of the saved state."""
        for name, value in self.values.items():
            if saved.get(name) != value:
                logger.warning(
                    "resuming with %s %s from a state saved with %s: sums may be added in "
                    "another order, so the result may differ from that of an uninterrupted run",
                    name,
                    value,
                    saved.get(name),
                )


def _snapshot(state: Any) -> Any:
    """Return a copy that training does not change, with its tensors on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_snapshot, state))
    return state
