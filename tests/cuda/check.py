"""What a GPU would run, written and compiled on a machine that has none.

    make check-cuda                             all of it, in 3 to 8 minutes
    make check-cuda ARGS="--size tinystories"   one size; --estimate adds times on known GPUs

1. A training step on fake CUDA tensors, where reading a value raises an error: none waits.
2. The code that torch.compile writes for a step, counted: kernels, products, bytes. More than the
   budget fails.
3. Each Triton kernel of that code, compiled to machine code for old and new GPUs.

It installs PyTorch with CUDA (3 GB, 6 GB unpacked) in .venv-cuda. Times of `--estimate` are made
from bytes and operations; nothing is measured.
"""

import argparse
import copy
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cuda.pretend import Indexing, flash_attention, pretend, restart_with_guard

PARAMS = Path("params.yaml")
CAPABILITIES = [(7, 5), (8, 0), (9, 0)]  # T4, A100, H100

SHAPES: dict[str, tuple[dict[str, Any], int, int]] = {
    # params of the model, size of the vocabulary, sequences in a step
    "default": (
        {
            "context_length": 384,
            "d_model": 128,
            "num_layers": 3,
            "num_heads": 2,
            "d_ff": 352,
            "qk_norm": True,
        },
        4096,
        4,
    ),
    "tinystories": (
        {"context_length": 256, "d_model": 512, "num_layers": 4, "num_heads": 16, "d_ff": 1344},
        10_000,
        128,
    ),
    "large": (
        {"context_length": 1024, "d_model": 1024, "num_layers": 12, "num_heads": 16, "d_ff": 2752},
        32_000,
        32,
    ),
}


@dataclass(frozen=True)
class Budget:
    """The most that a step may take: kernels and products of forward and backward, and GB."""

    kernels: int
    products: int
    gigabytes: float


BUDGETS = {
    "default": Budget(175, 39, 0.3),
    "tinystories": Budget(212, 54, 21.6),
    "large": Budget(592, 156, 124.8),
}


@dataclass
class Node:
    """A kernel of a compiled graph: what it is, and the bytes and operations that it takes."""

    kind: str
    bytes: int
    operations: int

    @property
    def is_product(self) -> bool:
        return "extern_kernels" in self.kind

    @property
    def is_attention(self) -> bool:
        return "attention" in self.kind


@dataclass
class Graphs:
    """The graphs that the compiler has seen: their code and kernels."""

    codes: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def backend(self, graph: Any, inputs: Any) -> Any:
        """Compile a graph as Inductor does, keep what it wrote, and run it on fake tensors."""
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs, inner_compile=self._keep)

    def _keep(self, graph: Any, inputs: Any, **options: Any) -> Any:
        import torch
        from torch._inductor.compile_fx import compile_fx_inner
        from torch._inductor.graph import GraphLowering

        def write(lowering: Any) -> None:
            code, _ = lowering.codegen()
            self.codes.append(code.value)
            self.nodes += map(_node, lowering.scheduler.nodes)
            raise _WrittenError

        before, plain = len(self.codes), copy.deepcopy(graph)  # Inductor changes the graph
        with mock.patch.object(GraphLowering, "compile_to_module", write):
            try:
                compile_fx_inner(graph, inputs, **options)
            except Exception:
                if len(self.codes) == before:  # else it is the one above, however wrapped
                    raise

        def run(arguments: Any) -> Any:
            return torch.fx.Interpreter(plain).boxed_run(list(arguments))

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


class _WrittenError(Exception):
    """Ends the compilation where Inductor would load the code."""


def _node(node: Any) -> Node:
    kind = type(node).__name__
    if kind == "ExternKernelSchedulerNode":
        kind = str(getattr(node.node, "python_kernel_name", "") or node.node.op_overload)
    operations = node.estimate_flops() if kind.startswith("extern_kernels") else 0
    return Node(kind, node.get_read_write_buffers_sizes(), operations or 0)


@contextmanager
def pretended(capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """Within the context, tensors on cuda:0 have shapes and no values."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    pretend(capability)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    functional = "lmlib.model.attention.nn.functional.scaled_dot_product_attention"
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch(functional, flash_attention),
        mock.patch("torch.nn.init.trunc_normal_", lambda tensor, *_, **__: tensor),
        mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor),
    ):
        yield


def model_of(size: str) -> Any:
    """Return the model of a size on cuda:0."""
    import torch

    from lmlib.model import ModelParams, TransformerLM

    sizes, vocab_size, _ = SHAPES[size]
    with torch.device("cuda:0"):
        return TransformerLM(ModelParams(**sizes), vocab_size)


def moved_bytes(graphs: Graphs) -> int:
    """Return what the kernels of element-wise float32 code read and write, as their code says.

    Inductor's own count has a weight that is read once and written once read twice.
    """
    tensor = re.compile(r"xnumel = (\d+)\n(.*?)(?=elif pid|else:|\Z)", re.DOTALL)
    element = re.compile(r"tl\.(?:load|store)\(\w+ \+ \(x\d+\)")
    return sum(
        4 * int(elements) * len(element.findall(body))
        for code in graphs.codes
        for elements, body in tensor.findall(code)
    )


def optim_params(name: Any) -> Any:
    """Return params.yaml's params of an optimizer, for the one called `name`."""
    from lmlib.optim import OptimParams
    from lmlib.params import load_params

    return replace(load_params(PARAMS, "optim", OptimParams), name=name)


def compiled_step(size: str) -> Graphs:
    """Return the graphs of the forward and backward pass of a step in bfloat16."""
    import torch

    from lmlib.model import NextTokenLoss

    graphs = Graphs()
    sizes, _, batch = SHAPES[size]
    torch._dynamo.reset()
    with pretended():
        model = model_of(size)
        loss = torch.compile(
            NextTokenLoss(model), backend=graphs.backend, dynamic=False, fullgraph=True
        )
        ids = torch.zeros(batch, sizes["context_length"] + 1, dtype=torch.int64, device="cuda:0")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            value, _ = loss(ids[:, :-1], ids[:, 1:])
        value.backward()
        for name, p in model.named_parameters():
            if p.grad is None or p.grad.stride() != p.stride():
                raise AssertionError(f"the gradient of {name} does not lie as the weight does")
    return graphs


def compiled_optimizer(size: str, name: str) -> tuple[Graphs, int]:
    """Return the graphs of an optimizer's step, and the bytes of one pass over its memory."""
    import torch

    from lmlib.optim import adamw, build_optimizer

    graphs = Graphs()
    torch._dynamo.reset()
    adamw._compiled.cache_clear()  # it has the code of another optimizer
    compile_ = torch.compile
    with pretended():
        model = model_of(size)
        optimizer = build_optimizer(model, optim_params(name), torch.bfloat16)
        optimizer.compile()
        for p in model.parameters():
            p.grad = torch.empty_like(p)
        with mock.patch(
            "torch.compile", lambda f, **options: compile_(f, backend=graphs.backend, **options)
        ):
            optimizer.step(grad_scale=torch.empty((), device="cuda:0"))
        if not optimizer.compiled:
            raise AssertionError("the optimizer's step could not be compiled")
        # read weight, gradient and two moments; write weight and moments
        one_pass = sum(7 * p.numel() * p.element_size() for p in model.parameters())
    return graphs, one_pass


def eager_step(size: str, name: str, folder: Path) -> None:
    """Take two uncompiled steps in bfloat16; reading a value of the GPU would raise an error."""
    import numpy as np
    import torch

    from lmlib.data import TokenDataset
    from lmlib.model import ModelParams
    from lmlib.params import load_params
    from lmlib.tokens import TokenInfo
    from lmlib.training import Datasets, ResumeStore, Settings, Trainer, TrainParams

    sizes, vocab_size, batch = SHAPES[size]
    train = replace(
        load_params(PARAMS, "train", TrainParams),
        batch_size=batch,
        windows="any",
        copy_weight=1.0,
        device="cuda:0",
        compile="off",
    )
    tokens = np.zeros(100_000, dtype=np.uint16)
    data = TokenDataset(tokens, TokenInfo(len(tokens), vocab_size, "", len(tokens), 1))
    with pretended(), Indexing():
        model = model_of(size)
        with mock.patch.object(type(model), "to", lambda self, *_: self):
            settings = Settings(ModelParams(**sizes), optim_params(name), train)
            trainer = Trainer(model, settings, Datasets(data, data), ResumeStore(folder))
        if trainer.runtime.dtype != torch.bfloat16:
            raise AssertionError(f"auto took {trainer.runtime.dtype}")
        for _ in range(2):
            trainer.take_step()


def machine_code(graphs: Graphs, capability: tuple[int, int]) -> tuple[int, list[str]]:
    """Compile the Triton kernels for a capability; return how many, and what failed."""
    import torch._inductor.runtime.triton_helpers as helpers
    from torch._inductor.codecache import PyCodeCache

    pretend(capability)
    helpers.set_driver_to_gpu = lambda: None
    major, minor = capability
    count, failures = 0, []
    pattern = r"^(\w+) = async_compile\.triton\('\w+', '''(.*?)''', device_str='cuda'\)"
    for code in graphs.codes:
        for name, source in re.findall(pattern, code, re.DOTALL | re.MULTILINE):
            own = source.replace("cc=90", f"cc={major}{minor}").replace("major=9", f"major={major}")
            kernel = getattr(PyCodeCache.load(own), name)
            for config in kernel.configs:
                count += 1
                try:
                    kernel._precompile_config(config)
                except Exception as error:  # noqa: BLE001  (of Triton, of LLVM, of ptxas)
                    failures.append(f"{name} for sm_{major}{minor}: {error!r}"[:300])
    return count, failures


@dataclass(frozen=True)
class GPU:
    """A device of the estimate: bytes/s of its memory, and operations/s in 16 bits."""

    name: str
    bandwidth: float
    peak: float


GPUS = [
    GPU("H200", 4.8e12, 989e12),
    GPU("H100 SXM", 3.35e12, 989e12),
    GPU("A100 SXM 80 GB", 2.04e12, 312e12),
    GPU("RTX 4090", 1.01e12, 165e12),
    GPU("T4", 0.32e12, 65e12),
]
# what kernels reach of a device: products and attention of its operations, all of its bandwidth
PRODUCTS, BANDWIDTH, LAUNCH_S = 0.57, 0.85, 2e-6


def estimate_s(gpu: GPU, step: Graphs, optimizer: Graphs, size: str) -> float:
    """Return the seconds of a step: each kernel bound by its bytes or by its operations."""
    sizes, _, batch = SHAPES[size]
    d_head = sizes["d_model"] // sizes["num_heads"]
    causal = 2 * batch * sizes["context_length"] ** 2 * sizes["d_model"]  # of half of the pairs
    seconds = 0.0
    for node in [*step.nodes, *optimizer.nodes]:
        operations, reached = node.operations, PRODUCTS
        if node.is_attention:  # small heads keep few of the multipliers busy
            backward = "backward" in node.kind
            operations = causal * 5 // 2 if backward else causal
            reached = (0.22 if backward else 0.35) * (1.0 if d_head >= 64 else 0.5)
        by_bytes = node.bytes / (BANDWIDTH * gpu.bandwidth)
        seconds += max(by_bytes, operations / (reached * gpu.peak)) + LAUNCH_S
    return seconds


def check(size: str, args: argparse.Namespace) -> list[str]:
    """Print what a size takes; return what is wrong."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("adamw", "muon"):
            eager_step(size, name, Path(folder))
    say(f"{size}: no step waits for the GPU")
    step, budget = compiled_step(size), BUDGETS[size]
    optimizers: dict[str, tuple[Graphs, int]] = {}
    products = sum(node.is_product for node in step.nodes)
    gigabytes = sum(node.bytes for node in step.nodes) / 1e9
    say(
        f"{size}: {len(step.nodes)} kernels (at most {budget.kernels}), {products} of them "
        f"products ({budget.products}), {gigabytes:.2f} GB ({budget.gigabytes})"
    )
    for what, found, most in (
        ("kernels", len(step.nodes), budget.kernels),
        ("products", products, budget.products),
        ("GB", gigabytes, budget.gigabytes),
    ):
        if found > most:
            wrong.append(f"{size}: {found} {what}, at most {most}")
    for name in ("adamw", "muon"):
        optimizer, one_pass = optimizers[name] = compiled_optimizer(size, name)
        counted = sum(node.bytes for node in optimizer.nodes)
        say(f"{size}: {name} {len(optimizer.nodes)} kernels, {counted / 1e9:.3f} GB")
        if name == "adamw":
            moved = moved_bytes(optimizer)
            say(f"{size}: adamw's code moves {moved:,} bytes; one pass is {one_pass:,}")
            if moved != one_pass:
                wrong.append(f"{size}: AdamW moves {moved:,} bytes, not {one_pass:,}")
        for graphs in (step, optimizer):
            for capability in CAPABILITIES:
                count, failures = machine_code(graphs, capability)
                wrong += failures
                say(f"{size}: {count} kernels compiled for sm_{capability[0]}{capability[1]}")
    if args.estimate:
        from lmlib.model import ModelParams, flops_per_token

        sizes, vocab_size, batch = SHAPES[size]
        tokens = batch * sizes["context_length"]
        operations = tokens * flops_per_token(ModelParams(**sizes), vocab_size)
        for gpu in GPUS:
            seconds = estimate_s(gpu, step, optimizers["adamw"][0], size)
            say(
                f"{size}: {gpu.name}, estimate: {1e3 * seconds:.1f} ms, "
                f"{tokens / seconds / 1e6:.2f} million tokens/s, "
                f"MFU {100 * operations / seconds / gpu.peak:.0f}%"
            )
    return wrong


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Check the sizes, and exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SHAPES, nargs="+", default=[*SHAPES])
    parser.add_argument("--estimate", action="store_true", help="add times on known GPUs")
    args = parser.parse_args()
    # no caches: each run writes all code; one process: it is the pretending one
    os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
    restart_with_guard()
    wrong = [line for size in args.size for line in check(size, args)]
    if wrong:
        sys.exit("\n".join(["error:", *wrong]))


if __name__ == "__main__":
    main()
