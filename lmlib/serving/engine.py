"""The engine: one thread that decodes the requests of all clients together."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lmlib.errors import describe
from lmlib.memory import is_out_of_memory, require_memory
from lmlib.model import TransformerLM
from lmlib.params import Count, Positive, check_bounds
from lmlib.serving.batch import Batch
from lmlib.serving.continuation import Continuation, Piece, Prompt
from lmlib.serving.errors import ApiError
from lmlib.serving.scoring import score
from lmlib.threads import start_thread

logger = logging.getLogger(__name__)

PROMPT_TOKENS = 512  # between two steps, so that those who wait for the next token wait little


@dataclass(frozen=True)
class Limits:
    """What clients may ask for.

    batch:          continuations that are decoded together; the others wait
    queue:          continuations that may wait; a request with more than is free is refused
    max_tokens:     tokens of a continuation
    scored_tokens:  tokens of a prompt that is only scored, in as many windows as it takes; any
                    other prompt must fit into the model's context
    seconds:        from the arrival of a request to its end
    """

    batch: Count = 32
    queue: Count = 256
    max_tokens: Count = 4096
    scored_tokens: Count = 32768
    seconds: Positive = 600.0

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(eq=False)
class Job:
    """A request: the continuations that it asks for."""

    continuations: list[Continuation]
    deadline: float = field(init=False, default=0.0)
    cancelled: bool = field(init=False, default=False)


Update = tuple[Job, Piece | ApiError, int]  # the last is the index of the continuation


def require_batch_memory(model: TransformerLM, batch: int) -> None:
    """Raise MemoryError if `batch` texts cannot be decoded together."""
    shape, weight = model.params, model.token_embeddings.weight
    numbers = 2 * shape.num_layers * shape.context_length * shape.d_kv + model.vocab_size
    require_memory(
        2 * batch * numbers * weight.element_size(),  # twice: while a cache is copied
        f"decoding {batch} texts together",
        "lower --batch",
        weight.device if weight.device.type == "cuda" else None,
    )


class Engine:
    """Decodes jobs, first come, first served.

    deliver:  called in the engine's thread after each step with what is new. After an ApiError
              there is no more for that job.
    stride:   of the windows of long texts; see `score`

    Raises MemoryError if a full batch does not fit into memory.
    """

    def __init__(
        self,
        model: TransformerLM,
        limits: Limits,
        stride: int,
        deliver: Callable[[list[Update]], object],
    ) -> None:
        require_batch_memory(model, limits.batch)
        self.model, self.limits, self.stride, self.deliver = model, limits, stride, deliver
        self.batch = Batch(model)
        self.changed = threading.Condition()
        self.waiting: deque[tuple[Job, Continuation]] = deque()
        self.running: dict[Continuation, Job] = {}
        self.preparing: list[Continuation] = []  # those of the running whose prompts are not ready
        self.stopping = False
        self.thread = start_thread(self._run)

    def submit(self, job: Job) -> None:
        """Queue a job; raise ApiError if too many wait already."""
        new = [(job, continuation) for continuation in job.continuations]
        with self.changed:
            free = self.limits.queue - len(self.waiting)
            if len(new) > free:
                raise ApiError(
                    429,
                    f"the server is busy: {len(self.waiting)} texts wait, and {len(new)} more "
                    f"would exceed its limit of {self.limits.queue}; try again later, or ask for "
                    "fewer at a time",
                    code="server_busy",
                )
            job.deadline = time.monotonic() + self.limits.seconds
            self.waiting.extend(new)
            self.changed.notify()

    def cancel(self, job: Job) -> None:
        """Spend no more on a job; nothing happens if it has ended."""
        with self.changed:
            job.cancelled = True
            self.waiting = deque(item for item in self.waiting if item[0] is not job)
            self.changed.notify()

    def stop(self) -> None:
        """Drop all jobs, and return when the thread has ended."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        with self.thread:
            pass

    def _run(self) -> None:
        while True:
            with self.changed:
                while not (self.waiting or self.running or self.stopping):
                    self.changed.wait()
                if self.stopping:
                    return
                updates = self._drop_late()
                admitted = self._admitted()
            try:
                updates += self._begin(admitted)
                updates += self._step()
            except Exception as error:  # noqa: BLE001  # whatever it is, the clients must learn it
                updates += self._fail(error)
            if updates:
                self.deliver(updates)

    def _drop_late(self) -> list[Update]:
        """Drop what is late or cancelled; return an error for each job that is late."""
        now = time.monotonic()
        jobs = {id(job): job for job in [*self.running.values(), *(job for job, _ in self.waiting)]}
        late = [job for job in jobs.values() if now > job.deadline and not job.cancelled]
        for job in late:
            job.cancelled = True
        self.waiting = deque(item for item in self.waiting if not item[0].cancelled)
        self._leave([each for each, job in self.running.items() if job.cancelled])
        message = (
            f"the request took longer than the server's limit of {self.limits.seconds:g} s; ask "
            "for fewer tokens, or try again when fewer clients wait"
        )
        return [(job, ApiError(504, message, code="timeout"), 0) for job in late]

    def _admitted(self) -> list[Continuation]:
        """Return those that may join now; at least one if there is a place."""
        admitted, tokens = [], 0
        while self.waiting and len(self.running) < self.limits.batch and tokens < PROMPT_TOKENS:
            job, continuation = self.waiting.popleft()
            self.running[continuation] = job
            admitted.append(continuation)
            tokens += len(continuation.prompt.ids)
        return admitted

    def _begin(self, admitted: Sequence[Continuation]) -> list[Update]:
        """Let those begin whose prompts are ready; score one window of another."""
        self.preparing += admitted
        for continuation in self.preparing:
            if not continuation.prompt.is_ready:
                self._score_window(continuation.prompt)
                break
        ready = [each for each in self.preparing if each.prompt.is_ready]
        self.preparing = [each for each in self.preparing if not each.prompt.is_ready]
        updates: list[Update] = []
        for continuation in ready:
            if (piece := continuation.begin()) is not None:
                updates.append((self.running[continuation], piece, continuation.index))
        self._leave([each for each in ready if each.finish_reason])
        if rows := [each.row for each in ready if not each.finish_reason]:
            self.batch.add(rows)
        return updates

    def _score_window(self, prompt: Prompt) -> None:
        """Score one window of a prompt: others wait for no more than that."""
        if prompt.scoring is None:
            prompt.scoring = score(self.model, prompt.ids, prompt.top or 0, self.stride)
            prompt.scores += next(prompt.scoring)  # the first token, which has no logprob
        prompt.scores += next(prompt.scoring, [])

    def _step(self) -> list[Update]:
        updates: list[Update] = []
        of_row = {each.row: each for each in self.running}
        for row, token in self.batch.step():
            continuation = of_row[row]
            if (piece := continuation.take(token)) is not None:
                updates.append((self.running[continuation], piece, continuation.index))
        self._leave([each for each in of_row.values() if each.finish_reason])
        return updates

    def _leave(self, gone: Sequence[Continuation]) -> None:
        if gone:
            for continuation in gone:
                del self.running[continuation]
            self.preparing = [each for each in self.preparing if each in self.running]
            self.batch.remove(continuation.row for continuation in gone)

    def _fail(self, error: Exception) -> list[Update]:
        """Give up all that runs; the engine continues with those that wait."""
        logger.error("the requests in progress failed: %s", describe(error), exc_info=error)
        if is_out_of_memory(error):
            message = "the server ran out of memory; ask for fewer texts at a time"
        else:
            message = f"the server failed: {describe(error)}"
        jobs = {id(job): job for job in self.running.values()}.values()
        for job in jobs:
            job.cancelled = True
        self._leave(list(self.running))
        with self.changed:
            self.waiting = deque(item for item in self.waiting if not item[0].cancelled)
        return [(job, ApiError(500, message, code="server_failed"), 0) for job in jobs]
