"""A process that trains one contender, so that no other shares its memory, threads or caches.

Requests come as JSON, one a line, on stdin, and are answered on stdout in the same way:

    {"do": "prepare", "job": {...}}   -> {"version", "weights", ...} of the model and machine
    {"do": "run", "steps": n}         -> {"seconds": of a step, "peak_mb": MB, "loss": nats}

and {"error": text} to what fails. Run: python -m tests.benchmarks.train_worker
"""

import gc
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers import it at their first use: no memory of a step's

from tests.benchmarks.timing import peak_memory_mb
from tests.benchmarks.train_job import LOG_EVERY, Training, TrainJob

WARMUP = 3  # steps; compilation is in the first
MODULES = {
    "ours": "train_ours",
    "llama": "train_peers",
    "nanogpt": "train_peers",
}


class Contender:
    """What the requests work on: a model in training."""

    training: Training
    device: torch.device
    resting_mb: float  # held before there is a model

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks for."""
        if request["do"] == "prepare":
            return self.prepare(TrainJob(**request["job"]))
        assert request["do"] == "run"
        return self.run(request["steps"])

    def prepare(self, job: TrainJob) -> dict[str, Any]:
        """Make the model and take the first steps."""
        module = MODULES.get(job.family, "train_parts")
        build = importlib.import_module(f"tests.benchmarks.{module}").prepare(job)
        self.device = torch.device(job.device)
        gc.collect()
        self.resting_mb = resident_mb()
        self.training = build()
        self.steps(WARMUP)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the contenders that come next
        return {
            "version": self.training.version,
            "weights": self.training.weights,
            "flops_per_token": self.training.flops_per_token,
            "torch": torch.__version__,
            "device": name_of(self.device),
        }

    def run(self, steps: int) -> dict[str, Any]:
        """Time some steps, after one that is not timed."""
        self.steps(1)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        loss = self.steps(steps)
        seconds = (time.perf_counter() - start) / steps
        peak_mb = peak_memory_mb() - self.resting_mb
        if self.device.type == "cuda":
            peak_mb = torch.cuda.max_memory_allocated() / 1e6
            torch.cuda.empty_cache()  # the other contenders need room, too
        return {"seconds": seconds, "peak_mb": peak_mb, "loss": loss}

    def steps(self, count: int) -> float:
        """Take steps, reading the loss now and then; return the last one, all work done."""
        loss = 0.0
        for number in range(1, count + 1):
            self.training.take_step()
            if number == count or number % LOG_EVERY == 0:
                loss = self.training.loss()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return loss


def resident_mb() -> float:
    """Return how much memory this process holds, in MB; what it held at most, without /proc."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    return peak_memory_mb()


def name_of(device: torch.device) -> str:
    """Return what the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"


def main() -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # contenders that print do not disturb
    contender = Contender()
    for line in sys.stdin:
        try:
            reply = contender.answer(json.loads(line))
        # whatever a contender raises is the benchmark's result for it
        except Exception as error:  # noqa: BLE001
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
