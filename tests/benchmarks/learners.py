"""What bench_learning trains: ours and its peers, from their settings to a step."""

import dataclasses
import itertools
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmlib.data import TokenDataset
from lmlib.evaluation import LanguageModel
from lmlib.files import parse_yaml, read_yaml
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import OptimParams, warmup_cosine
from lmlib.optim.params import Betas
from lmlib.params import CountOrZero, Positive, PositiveOrZero, check_bounds, from_dict
from lmlib.runtime import Runtime, resolve_device, resolve_dtype
from lmlib.training import Datasets, ResumeStore, Settings, Trainer, TrainParams
from tests.benchmarks.contest import ROOT
from tests.benchmarks.train_peers import GPT, llama_model

OURS = ("adamw", "muon")


@dataclass(frozen=True)
class PeerOptim:
    """Settings of a peer's AdamW: `warmup` in steps; `weight_decay` of matrices alone."""

    lr: Positive
    betas: Betas
    weight_decay: PositiveOrZero
    warmup: CountOrZero

    def __post_init__(self) -> None:
        check_bounds(self)


PEERS = {
    "llama": PeerOptim(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=100),
    # nanoGPT, config/train_shakespeare_char.py, without its dropout
    "nanogpt": PeerOptim(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, warmup=100),
}
PEER_WINDOWS = "any"  # as the loaders of both, and most others, draw them
PEER_SIZES = {  # further settings of a peer, and their section in params.yaml
    "batch_size": "train",
    "context_length": "model",
    "windows": "train",
    "dtype": "train",
    "compile": "train",
}
FOLLOWING = ("optim.name", "train.seed", "train.num_steps")  # from the rest of the command line


@dataclass(frozen=True)
class Training:
    """A new model, and what takes the next step of its training."""

    model: LanguageModel
    take_step: Callable[[], object]

    def synchronize(self) -> None:
        """Wait until the device has finished the steps taken so far."""
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            torch.cuda.synchronize()
        elif device.type == "mps":
            torch.mps.synchronize()


@dataclass(frozen=True)
class Learner:
    """What trains (`name`), and its settings; of `model` and `train` a peer uses only its sizes."""

    name: str
    model: ModelParams
    optim: OptimParams | PeerOptim
    train: TrainParams

    @classmethod
    def parse(cls, spec: str) -> "Learner":
        """Read a name and KEY=VALUE pairs, which change params.yaml or a peer's settings.

        Raises ValueError for an unknown name or key, and a value that its key does not allow.
        """
        name, *pairs = shlex.split(spec)
        document = read_yaml(ROOT / "params.yaml")
        sections: dict[str, dict[str, Any]] = {
            section: document[section] for section in ("model", "optim", "train")
        }
        if name in PEERS:
            sections["optim"] = dataclasses.asdict(PEERS[name])
            sections["train"]["windows"] = PEER_WINDOWS
            places = dict.fromkeys(sections["optim"], "optim") | PEER_SIZES
            known = {key: (section, key) for key, section in places.items()}
        elif name in OURS:
            sections["optim"]["name"] = name
            known = {
                f"{section}.{key}": (section, key)
                for section, values in sections.items()
                for key in values
                if f"{section}.{key}" not in FOLLOWING
            }
        else:
            raise ValueError(
                f"{spec}: {name} is unknown; choose one of {', '.join((*OURS, *PEERS))}"
            )
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key not in known:
                raise ValueError(
                    f"{spec}: {key} is unknown; the settings of {name} are {', '.join(known)}"
                )
            section, own_key = known[key]
            sections[section][own_key] = parse_yaml(value, f"{spec}: {key}")
        if name in PEERS and sections["train"]["windows"] == "isolated":
            raise ValueError(f"{spec}: a peer cannot isolate documents; take windows=documents")
        return cls(
            name,
            from_dict(ModelParams, sections["model"], f"{spec}: model"),
            from_dict(
                PeerOptim if name in PEERS else OptimParams, sections["optim"], f"{spec}: optim"
            ),
            from_dict(TrainParams, sections["train"], f"{spec}: train"),
        )

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens in a batch."""
        return self.train.batch_size * self.model.context_length

    def begin(self, data: TokenDataset, seed: int, num_steps: int) -> Training:
        """Return a new model, whose schedule ends after `num_steps`; compile it if it should be."""
        train = dataclasses.replace(self.train, seed=seed, num_steps=num_steps)
        if isinstance(self.optim, PeerOptim):
            return begin_peer(self.name, self.model, self.optim, train, data)
        return begin_ours(Settings(self.model, self.optim, train), data)


def begin_ours(settings: Settings, data: TokenDataset) -> Training:
    """Return a training with the pipeline's own steps; there are no validations and no states."""
    model = TransformerLM(settings.model, data.info.vocab_size, seed=settings.train.seed)
    with tempfile.TemporaryDirectory() as no_states:
        trainer = Trainer(model, settings, Datasets(data, data), ResumeStore(no_states))
    trainer.begin()

    def take_step() -> None:
        with trainer.runtime.deterministic():
            trainer.take_step()

    return Training(model, take_step)


class Llama(nn.Module):
    """A LlamaForCausalLM of our shape, and its mean cross-entropy in nats."""

    def __init__(self, params: ModelParams, vocab_size: int, seed: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.model = llama_model(
            seed,
            vocab_size=vocab_size,
            hidden_size=params.d_model,
            intermediate_size=params.d_ff,
            num_hidden_layers=params.num_layers,
            num_attention_heads=params.num_heads,
            num_key_value_heads=params.kv_heads,
            max_position_embeddings=params.context_length,
            rms_norm_eps=params.norm_eps,
            tie_word_embeddings=params.tie_embeddings,
        )

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the input of `logits`, (batch, seq, d_model), for inputs (batch, seq)."""
        return self.model.model(input_ids=inputs).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of what `hidden` returned, (..., vocab_size)."""
        return self.model.lm_head(hidden)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss; inputs and targets are (batch, seq)."""
        logits = self.logits(self.hidden(inputs)).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gpt(params: ModelParams, vocab_size: int, seed: int) -> GPT:
    """Return a nanoGPT of our width and depth."""
    torch.manual_seed(seed)
    return GPT(
        vocab_size=vocab_size,
        context_length=params.context_length,
        d_model=params.d_model,
        num_layers=params.num_layers,
        num_heads=params.num_heads,
    )


def begin_peer(
    name: str, params: ModelParams, optim: PeerOptim, train: TrainParams, data: TokenDataset
) -> Training:
    """Return a peer's training: PyTorch's AdamW, a cosine to a tenth of lr, clipping at 1.

    Raises ValueError if the run ends before its warm-up does.
    """
    if optim.warmup >= train.num_steps:
        raise ValueError(
            f"{name}: warmup is {optim.warmup}, not below the {train.num_steps} steps of the run; "
            "lower it"
        )
    device = resolve_device(train.device, "train.device")
    dtype = resolve_dtype(train.dtype, device, "train.dtype")
    if dtype == torch.float16:  # the peers' loss is not scaled
        dtype = torch.float32
    runtime = Runtime(device, dtype)
    new = {"llama": Llama, "nanogpt": gpt}[name]
    model: Llama | GPT = new(params, data.info.vocab_size, train.seed).to(device)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim == 2], "weight_decay": optim.weight_decay},
            {"params": [p for p in weights if p.ndim != 2], "weight_decay": 0.0},
        ],
        lr=optim.lr,
        betas=optim.betas,
        fused=True,
    )

    def backward(module: nn.Module, step: int) -> None:
        batch = data.batch(
            step,
            seed=train.seed,
            batch_size=train.batch_size,
            context_length=params.context_length,
            windows=train.windows,
        )
        with runtime.autocast():
            loss = module(*batch)
        loss.backward()

    data.to(device)
    tokens = train.num_steps * train.batch_size * params.context_length
    operations = 6 * sum(p.numel() for p in model.parameters()) * tokens
    forward = runtime.compile(model, lambda module: backward(module, 1), train.compile, operations)
    steps = itertools.count(1)

    def take_step() -> None:
        step = next(steps)
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(
                step, optim.lr, 0.1 * optim.lr, optim.warmup, train.num_steps
            )
        optimizer.zero_grad()
        backward(forward, step)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return Training(model, take_step)
