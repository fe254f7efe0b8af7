"""Other models and the way they are trained, as contenders.

llama     LlamaForCausalLM of Hugging Face transformers, whose loss takes the inputs as labels
nanogpt   a GPT-2 without biases, written here from its description: learned positions, LayerNorm,
          a GELU network of 4 d_model, one matrix for input and output. With our d_ff of about
          8/3 d_model as many weights take part in matrix products as in ours.

Both are trained as nanoGPT trains: the next batch is copied to the device while it is busy with
this one, autocast for bfloat16, one kernel for AdamW.

Sources: Radford et al. 2019 (GPT-2); github.com/karpathy/nanoGPT, README and train.py.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.train_job import (
    BETAS,
    EPS,
    LR,
    MAX_GRAD_NORM,
    SEED,
    WEIGHT_DECAY,
    Training,
    TrainJob,
)

Batch = tuple[Tensor, Tensor]  # inputs and targets, (batch, seq) each


def prepare(job: TrainJob) -> Callable[[], Training]:
    """Return what makes a peer's model and optimizer."""
    return {"llama": llama, "nanogpt": nanogpt}[job.family](job)


# -- models


def llama(job: TrainJob) -> Callable[[], Training]:
    """Return what makes a Llama of our shapes: it has exactly as many weights."""
    transformers = import_module("transformers")
    import_module("transformers.models.llama.modeling_llama")  # now: it is no memory of a step's

    def build() -> Training:
        model = llama_model(
            SEED,
            vocab_size=job.vocab_size,
            hidden_size=job.d_model,
            intermediate_size=job.d_ff,
            num_hidden_layers=job.num_layers,
            num_attention_heads=job.num_heads,
            max_position_embeddings=job.context_length,
        ).to(job.device)
        forward = torch.compile(model) if job.compiled else model
        step = TrainingStep(
            model, lambda inputs, _: forward(input_ids=inputs, labels=inputs).loss, job
        )
        return Training(
            step.take, step.loss, num_weights(model), f"transformers {transformers.__version__}"
        )

    return build


def llama_model(seed: int, **sizes: Any) -> Any:
    """Return a LlamaForCausalLM with new weights; sizes are those of its LlamaConfig.

    As many heads of keys as of queries, untied embeddings and PyTorch's attention, unless said.
    """
    transformers = import_module("transformers")  # its types refuse arguments that it takes
    config = transformers.LlamaConfig(
        **{
            "num_key_value_heads": sizes["num_attention_heads"],
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "use_cache": False,
            "attn_implementation": "sdpa",
            **sizes,
        }
    )
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(config)


def nanogpt(job: TrainJob) -> Callable[[], Training]:
    """Return what makes a GPT of our width and depth."""

    def build() -> Training:
        torch.set_float32_matmul_precision("high")  # TF32, as nanoGPT allows it
        torch.manual_seed(SEED)
        model = GPT(
            vocab_size=job.vocab_size,
            context_length=job.context_length,
            d_model=job.d_model,
            num_layers=job.num_layers,
            num_heads=job.num_heads,
        ).to(job.device)
        forward = torch.compile(model) if job.compiled else model
        step = TrainingStep(model, forward, job)
        return Training(step.take, step.loss, num_weights(model))

    return build


class GPT(nn.Module):
    """Token and position embeddings, blocks, a norm, logits, and their mean cross-entropy.

    Initial weights have a standard deviation of 0.02, those of the two matrices in each block whose
    output is added to x one of 0.02 / sqrt(2 num_layers).
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context_length, d_model)
        self.blocks = nn.ModuleList(GPTBlock(d_model, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                added = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * num_layers) ** 0.5 if added else 0.02)

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the input of `logits`, (batch, seq, d_model), for inputs (batch, seq)."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.tokens(inputs) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of what `hidden` returned, (..., vocab_size)."""
        return self.head(hidden)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss in nats; inputs and targets are (batch, seq)."""
        logits = self.logits(self.hidden(inputs))
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class GPTBlock(nn.Module):
    """Causal self-attention and a GELU network, normed before and added after."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.norm2 = nn.LayerNorm(d_model, bias=False)
        self.up = nn.Linear(d_model, 4 * d_model, bias=False)
        self.down = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, seq, d_model) as x."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1))
        Q, K, V = (part.transpose(1, 2) for part in qkv.unbind(2))  # (batch, heads, seq, d_head)
        attended = nn.functional.scaled_dot_product_attention(Q, K, V, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def num_weights(model: nn.Module) -> int:
    """Return how many weights are trained, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())


# -- training


class TrainingStep:
    """A model, its optimizer and the batch that is next."""

    def __init__(
        self, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], job: TrainJob
    ) -> None:
        self.model, self.loss_of, self.bf16 = model, loss_of, job.bf16
        self.device_type = torch.device(job.device).type
        self.optimizer = torch.optim.AdamW(
            model.parameters(), LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.fetch = batches(job)
        self.batch = self.fetch()
        self.last = torch.zeros(())

    def take(self) -> None:
        """Take one step, without waiting for the device."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss_of(*self.batch)
        self.batch = self.fetch()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = loss.detach()

    def loss(self) -> float:
        """Return the loss of the last step, in nats."""
        return self.last.item()


def batches(job: TrainJob) -> Callable[[], Batch]:
    """Return what draws sequences from the token file and copies them to the device."""
    tokens = np.load(job.tokens, mmap_mode="r")
    rng = np.random.default_rng(SEED)
    on_cuda = torch.device(job.device).type == "cuda"

    def fetch() -> Batch:
        starts = rng.integers(0, len(tokens) - job.context_length, size=job.batch_size)
        windows = np.stack([tokens[start : start + job.context_length + 1] for start in starts])
        both = torch.from_numpy(windows.astype(np.int64))
        if on_cuda:
            both = both.pin_memory()
        both = both.to(job.device, non_blocking=on_cuda)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    return fetch
