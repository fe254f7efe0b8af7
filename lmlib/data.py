"""Training data: token files as memory maps, and seeded batches."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lmlib.files import sha256_file
from lmlib.tokens import TokenInfo, blocks, read_token_info

Batch = tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]


class TokenDataset:
    """A file of token ids, memory-mapped: opening it reads no more than it needs to be checked."""

    def __init__(self, tokens: np.ndarray, info: TokenInfo, name: str = "the token array") -> None:
        self.tokens = tokens
        self.info = info
        self.name = name  # what errors call it

    @classmethod
    def open(cls, path: str | Path) -> "TokenDataset":
        """Open `path` (.npy) and its .json; raise ValueError when they do not fit each other."""
        path = Path(path)
        info = read_token_info(path)
        try:
            tokens = np.lib.format.open_memmap(path, mode="r")
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such token file; run `dvc repro encode`") from None
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"{path}: truncated, or not a token file ({error}); run `dvc repro -f encode`"
            ) from error
        remake = "; make it again with `dvc repro -f encode`"
        if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
            raise ValueError(
                f"{path}: holds {tokens.dtype} of shape {tokens.shape}; a token file holds one "
                f"row of uint16 or uint32{remake}"
            )
        if len(tokens) != info.tokens:
            raise ValueError(
                f"{path}: holds {len(tokens)} tokens, {path.with_suffix('.json').name} says "
                f"{info.tokens}{remake}"
            )
        largest = max((int(block.max()) for block in blocks(tokens)), default=0)
        if largest >= info.vocab_size:
            raise ValueError(
                f"{path}: holds token id {largest}, the vocabulary ends at "
                f"{info.vocab_size - 1}{remake}"
            )
        return cls(tokens, info, str(path))

    def require_context(self, context_length: int) -> None:
        """Raise ValueError when the file is too short for one sequence."""
        if len(self.tokens) <= context_length:
            raise ValueError(
                f"{self.name}: {len(self.tokens)} tokens are too few for model.context_length="
                f"{context_length}, which needs at least {context_length + 1}; lower it or take "
                "a larger corpus"
            )

    def require_tokenizer(self, tokenizer_json: Path) -> None:
        """Raise ValueError when the file was made with another tokenizer than this one."""
        if sha256_file(tokenizer_json) != self.info.tokenizer_sha256:
            raise ValueError(
                f"{self.name}: was made with another tokenizer than {tokenizer_json}; run "
                "`dvc repro encode`"
            )

    def batch(self, step: int, *, seed: int, batch_size: int, context_length: int) -> Batch:
        """Return inputs and targets of `step`: a pure function of its arguments."""
        rng = np.random.Generator(np.random.PCG64([seed, step]))
        return get_batch(self.tokens, batch_size, context_length, rng=rng)


def get_batch(
    tokens: np.ndarray,
    batch_size: int,
    context_length: int,
    device: str | torch.device = "cpu",
    *,
    rng: np.random.Generator | None = None,
) -> Batch:
    """Return `batch_size` random sequences of a token array and, one token later, their targets.

    Starts are drawn with replacement, uniformly from [0, len(tokens) - context_length). Both
    tensors are int64 of shape (batch_size, context_length), on `device`.
    """
    if len(tokens) <= context_length:
        raise ValueError(
            f"get_batch: {len(tokens)} tokens are too few for context_length={context_length}"
        )
    rng = rng or np.random.default_rng()
    starts = rng.integers(0, len(tokens) - context_length, size=batch_size)
    windows = np.stack([tokens[start : start + context_length + 1] for start in starts])
    sequences = torch.from_numpy(windows.astype(np.int64)).to(device)
    return sequences[:, :-1], sequences[:, 1:]
