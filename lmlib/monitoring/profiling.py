"""Where the time of a training step goes: a trace of a few steps."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from lmlib.errors import describe

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3  # allocators and caches settle; the profiler starts in the last of them


@contextlib.contextmanager
def profiled(trace: Path | None, steps: int) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step; write `steps` of them to `trace`, after a warm-up.

    The trace is a Chrome trace (JSON): open it at https://ui.perfetto.dev. A run that ends earlier
    gets a shorter trace, or none if it ends during the warm-up; a trace that cannot be written is a
    warning. Without a path nothing is recorded.
    """
    if trace is None:
        yield lambda: None
        return

    def write(finished: profile) -> None:
        try:
            trace.parent.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(trace))
        except (OSError, RuntimeError) as error:  # the second is what PyTorch raises
            logger.warning("the profile was not written; training continues: %s", describe(error))
            return
        logger.info("%s: the trace; open it at https://ui.perfetto.dev", trace)

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    rhythm = schedule(wait=WARMUP_STEPS - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=rhythm, on_trace_ready=write) as running:
        yield running.step
