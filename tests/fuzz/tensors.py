"""Sampling, the optimizer and the search for copied text: kernels against plain code."""

import copy
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmlib.evaluation.novelty import CopiedSpan, copied_spans
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW
from lmlib.sampling import cast_matrices, cpu_decoder
from lmlib.sampling.decoders import PlainDecoder


def sample(rng: Random, folder: Path) -> None:
    """Decode with the kernels and with the model itself; a row has the bits it has alone."""
    torch.set_num_threads(1)  # a pool that has threads would allocate in them, without guards
    heads, d_head = rng.choice((1, 1, 2, 3)), 16 * rng.choice((1, 1, 2, 3, 4, 5))
    ffn = rng.choice(("swiglu", "silu", "relu2"))  # without a gate 3/2 d_ff, which 16 must divide
    params = ModelParams(
        context_length=rng.choice((4, 5, 7, 16, 33, rng.randrange(4, 200))),
        d_model=heads * d_head,
        num_layers=rng.choice((1, 2)),
        num_heads=heads,
        num_kv_heads=rng.choice([n for n in range(heads + 1) if n == 0 or heads % n == 0]),
        attention_window=rng.choice((0, 0, 1, 2, 5, rng.randrange(1, 200))),
        d_ff=(16 if ffn == "swiglu" else 32) * rng.randrange(1, 6),
        rope_theta=rng.choice((2.0, 10_000.0)),
        norm_eps=rng.choice((1e-5, 0.1)),
        norm=rng.choice(("pre", "post", "none")),
        qk_norm=rng.random() < 0.5,
        position=rng.choice(("rope", "none")),
        ffn=ffn,
        tie_embeddings=rng.random() < 0.3,
        logit_softcap=rng.choice((0.0, 0.0, 2.0, 30.0)),
    )
    vocab_size = rng.choice((4, 5, 7, 50, rng.randrange(4, 300)))
    context = (params, vocab_size)
    with torch.inference_mode():
        plain_model = TransformerLM(params, vocab_size, seed=rng.randrange(1000))
        dtype = rng.choice((torch.float32, torch.bfloat16))
        model = cast_matrices(copy.deepcopy(plain_model), dtype)
        cast_matrices(cast_matrices(plain_model, dtype), torch.float32)
        for module in model.modules():
            for name, tensor in [*module.named_parameters(recurse=False)]:
                if name == "weight" and params.tie_embeddings and module is model.lm_head:
                    continue
                setattr(module, name, nn.Parameter(copied(tensor), requires_grad=False))
            for name, tensor in [*module.named_buffers(recurse=False)]:
                setattr(module, name, copied(tensor))
        if params.tie_embeddings:
            model.lm_head.weight = model.token_embeddings.weight
        assert cpu_decoder.fits(model), context
        empty_cache = model.empty_cache

        def guarded_cache(*args: Any) -> Any:
            cache = empty_cache(*args)
            cache.keys_values = copied(cache.keys_values)
            return cache

        model.empty_cache = guarded_cache  # type: ignore[method-assign]
        ours, plain = cpu_decoder.CpuDecoder(model), PlainDecoder(plain_model)
        length = params.context_length - 1
        windows = [
            rng.choices(range(vocab_size), k=rng.choice((0, 1, length, rng.randrange(length + 1))))
            for _ in range(rng.choice((1, 2, 4, 5, 9)))
        ]
        caches = ours.fill(windows), plain.fill(windows)
        tokens = rng.choices(range(vocab_size), k=len(windows))
        logits, expected = ours.logits(caches[0], tokens), plain.logits(caches[1], tokens)
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            logits, expected, rtol=1e-4, atol=3e-5 * max(1.0, scale), msg=lambda m: f"{context} {m}"
        )
        row = rng.randrange(len(windows))
        alone = ours.logits(ours.fill([windows[row]]), [tokens[row]])
        assert torch.equal(alone[0], logits[row]), (context, "a row alone has other bits")


def optimise(rng: Random, folder: Path) -> None:
    """Take steps of AdamW with the kernels, and with PyTorch's in float64."""
    torch.set_num_threads(rng.choice((1, 2)))
    dtype = rng.choice((torch.float32, torch.float64, torch.bfloat16))
    generator = torch.Generator().manual_seed(rng.randrange(1 << 31))
    settings = {
        "lr": rng.choice((0.0, 1e-4, 0.1)),
        # With 0 in place of 0.5, m + (g - m) loses all digits of a g much smaller than m. With 0
        # for the second, a step has the size of m / g, which 8 bits cannot tell.
        "betas": (
            rng.choice((0.5, 0.9)),
            rng.choice((0.95, 0.999) if dtype == torch.bfloat16 else (0.0, 0.95, 0.999)),
        ),
        "eps": rng.choice((1e-8, 1e-2)),
        "weight_decay": rng.choice((0.0, 0.3)),
    }
    shapes = [
        tuple(rng.choice((0, 1, 2, 3, 5, 8, 17, 64, 130)) for _ in range(rng.randrange(3)))
        for _ in range(rng.randrange(1, 5))
    ]
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    ours = [nn.Parameter(copied(value.to(dtype))) for value in values]
    theirs = [nn.Parameter(p.detach().double().clone()) for p in ours]
    optimizer, plain = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for p in ours:
        optimizer.state[p] = {
            "t": 0,
            "m": copied(torch.zeros_like(p)),
            "v": copied(torch.zeros_like(p)),
        }
    for _ in range(rng.randrange(1, 5)):
        scale = rng.choice((1.0, 0.5, 1e-3))
        for p, q in zip(ours, theirs, strict=True):
            gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = copied(gradient.to(dtype))
            q.grad = p.grad.double() * scale
            if rng.random() < 0.1:
                p.grad = q.grad = None
        optimizer.step(
            grad_scale=None if scale == 1.0 else torch.tensor(scale, dtype=torch.float64)
        )
        plain.step()
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.1}[dtype]
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            p.detach().double(), q.detach(), rtol=tolerance, atol=tolerance,
            msg=lambda m: f"{settings} {dtype} {shapes}: {m}",
        )  # fmt: skip


def copied(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor in the memory of a new NumPy array, which may be guarded."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # which NumPy has not
        return copied(tensor.view(torch.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(tensor.numpy()))


def copied_text(rng: Random, folder: Path) -> None:
    """Find the longest spans of samples that occur in a text."""
    alphabet = range(rng.choice((1, 2, 3, 10, 300)))
    train = np.array(
        rng.choices(alphabet, k=rng.choice((0, 1, 5, 60, 300))), rng.choice((np.uint16, np.uint32))
    )
    samples = [
        rng.choices(range(len(alphabet) + 1), k=rng.choice((0, 1, 3, 20, 80)))
        for _ in range(rng.randrange(1, 5))
    ]
    if len(train) > 4:
        first = rng.randrange(len(train) - 2)
        samples.append(train[first : first + rng.randrange(1, 60)].tolist())
    separator_id = rng.choice((None, 0))
    spans = copied_spans(samples, train, separator_id)
    for tokens, span in zip(samples, spans, strict=True):
        check_span(tokens, train.tolist(), separator_id, span)


def check_span(
    tokens: Sequence[int], train: list[int], separator_id: int | None, span: CopiedSpan
) -> None:
    """Check a span against a search for every substring."""
    known = {
        tuple(train[i:j])
        for i in range(len(train))
        for j in range(i + 1, min(len(train), i + len(tokens)) + 1)
        if separator_id not in train[i:j]
    }
    lengths = [
        max((n for n in range(len(tokens) - i + 1) if tuple(tokens[i : i + n]) in known), default=0)
        for i in range(len(tokens))
    ]
    where = (tokens, train, separator_id, span)
    assert span.length == max(lengths, default=0), where
    if span.length:
        assert span.start == lengths.index(span.length), where
        there = train[span.train_start : span.train_start + span.length]
        assert there == list(tokens[span.start : span.start + span.length]), where
