"""lmlib/sampling/decoders.py and the kernels: they compute what the model does."""

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlib.model import KVCache, ModelParams, TransformerLM
from lmlib.sampling import cast_matrices, cpu_decoder, decoders, generate
from lmlib.sampling.cpu_decoder import CHUNK, CpuDecoder
from lmlib.sampling.decoders import GraphDecoder, PlainDecoder, decoder_for
from tests.sampling.scripted import KERNEL_MODEL, MODEL, PROMPTS, SAMPLING, counting

SIZES = ModelParams(context_length=23, d_model=64, num_layers=2, num_heads=2, d_ff=96)
WINDOWS = [[1, 2, 3], [], [5] * 22, [7, 8], [9], [1, 2, 3, 4]]
TOKENS = [4, 5, 6, 7, 8, 9]
TOGETHER: dict[str, Any] = {
    "num_kv_heads": 1,
    "attention_window": 6,
    "qk_norm": True,
    "ffn": "relu2",
    "logit_softcap": 2.0,
}
VARIATIONS: list[dict[str, Any]] = [
    {"norm": norm, "position": position, "ffn": ffn, "tie_embeddings": tied}
    for norm, position, ffn, tied in itertools.product(
        ("pre", "post", "none"), ("rope", "none"), ("swiglu", "silu"), (True, False)
    )
] + [
    {"d_model": 160},  # heads of 80: five vectors of 16
    {"d_model": 128, "num_heads": 8},  # of 16: one
    {"context_length": 4 * CHUNK},
    {"norm_eps": 0.1, "rope_theta": 100.0},
    {"num_kv_heads": 1},
    {"d_model": 128, "num_heads": 8, "num_kv_heads": 2},
    {"d_model": 192, "num_heads": 6, "num_kv_heads": 3, "position": "none", "norm": "post"},
    {"attention_window": 1},
    {"attention_window": 5, "num_kv_heads": 1},
    {"attention_window": 22},  # all but one
    {"attention_window": 100},  # more than there are
    {"context_length": 4 * CHUNK, "attention_window": CHUNK + 3},
    {"qk_norm": True, "norm_eps": 0.1, "norm": "none"},
    {"qk_norm": True, "position": "none", "d_model": 160},
    {"ffn": "relu2"},
    {"logit_softcap": 2.0},  # bends logits of up to 17
    TOGETHER,
    {**TOGETHER, "d_model": 128, "num_heads": 8, "num_kv_heads": 2, "norm": "post"},
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that sets how many threads a step has, however small the model."""
    monkeypatch.setattr(cpu_decoder, "PRODUCTS_PER_THREAD", 1)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def model_of(changes: dict[str, Any], vocab_size: int = 50) -> TransformerLM:
    """Return a model whose gains differ, so that none can be taken for another."""
    model = TransformerLM(replace(SIZES, **changes), vocab_size, seed=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_kernels_compute_the_model(changes: dict[str, Any]) -> None:
    """Keys, values and logits, for rows of different lengths up to the whole context.

    With logits up to 17, another order of sums changes the fifth decimal.
    """
    model = model_of(changes)
    windows = [*WINDOWS[:2], [5] * (model.params.context_length - 1), *WINDOWS[3:]]
    ours, plain = CpuDecoder(model), PlainDecoder(model)
    caches = ours.fill(windows), plain.fill(windows)
    logits, expected = ours.logits(caches[0], TOKENS), plain.logits(caches[1], TOKENS)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=2e-5)
    assert caches[0].lengths == caches[1].lengths
    for row, length in enumerate(caches[0].lengths):
        filled = [cache.keys_values[:, :, row, :, :length] for cache in caches]
        torch.testing.assert_close(*filled, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("changes", [{}, TOGETHER], ids=str)
@pytest.mark.parametrize("vocab_size", [4, 7, 50])
def test_a_row_has_the_bits_that_it_has_alone(
    vocab_size: int, changes: dict[str, Any], threads: Callable[[int], None]
) -> None:
    """In batches of each size, so that every tile of rows is used, and in two threads."""
    threads(2)
    model = model_of(changes, vocab_size)
    decoder = CpuDecoder(model)
    windows = [[token % vocab_size for token in window] for window in WINDOWS]
    for first in range(len(windows)):
        cache = decoder.fill(windows[first:])
        logits = decoder.logits(cache, [1] * len(windows[first:]))
        for row, window in enumerate(windows[first:]):
            alone = decoder.fill([window])
            assert torch.equal(logits[row], decoder.logits(alone, [1])[0])
            assert torch.equal(cache.keys_values[:, :, row], alone.keys_values[:, :, 0])


@pytest.mark.parametrize("changes", [{}, TOGETHER], ids=str)
def test_a_text_has_the_same_bits_token_by_token(changes: dict[str, Any]) -> None:
    model = model_of({"context_length": 2 * CHUNK, **changes})
    decoder = CpuDecoder(model)
    tokens = [i * i % 50 for i in range(CHUNK + 9)]
    cache = decoder.fill([tokens[:3]])
    logits = [decoder.logits(cache, [token]) for token in tokens[3:]]
    assert torch.equal(logits[-1], decoder.logits(decoder.fill([tokens[:-1]]), tokens[-1:]))


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_threads_share_the_work_and_change_no_bit(
    changes: dict[str, Any], threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and however many pieces: more than columns, rows or heads too."""
    model = model_of(changes)
    results = []
    for number, pieces in ((1, 1), (2, 1), (3, 2), (5, 40)):
        threads(number)
        monkeypatch.setattr(cpu_decoder, "PIECES", pieces)
        decoder = CpuDecoder(model)
        cache = decoder.fill(WINDOWS)
        results.append((decoder.logits(cache, TOKENS), cache.keys_values))
    for logits, keys_values in results[1:]:
        assert torch.equal(logits, results[0][0])
        assert torch.equal(keys_values, results[0][1])


class _Late(Executor):
    """Runs what it is given some time later, or never if that is cancelled first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                self.begun += 1
                future.set_result(fn(*args, **kwargs))

        threading.Timer(self.seconds, run).start()
        return future


@pytest.mark.parametrize("seconds", [0.0, 1e-4, 3e-4, 0.2])
def test_a_thread_that_comes_late_is_not_waited_for(
    seconds: float, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step or after it; and one that does not come at all is not missed."""
    model = model_of({"context_length": 4 * CHUNK, "d_model": 128})
    windows = [[i % 50 for i in range(100)], [3]]
    expected = PlainDecoder(model)
    wanted = expected.logits(expected.fill(windows), [1, 2])
    pool = _Late(seconds)
    monkeypatch.setattr(cpu_decoder, "shared_pool", lambda: pool)
    threads(3)
    decoder = CpuDecoder(model)
    for _ in range(20):
        logits = decoder.logits(decoder.fill(windows), [1, 2])
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=2e-5)
    time.sleep(2 * seconds)  # the last of them end before the next test
    assert pool.begun == 0 or seconds < 0.2


def test_decoders_in_several_threads(threads: Callable[[int], None]) -> None:
    """Each wants more threads than there are, and none waits for one that another decoder has."""
    threads(4)
    model = model_of(TOGETHER)

    def tokens(index: int) -> list[list[list[int]]]:
        params = replace(SAMPLING, max_tokens=60, seed=index)
        return generate(model, PROMPTS, params)

    alone = [tokens(index) for index in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(tokens, range(6))) == alone


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_matrices_in_bfloat16(changes: dict[str, Any]) -> None:
    """They are widened exactly: the bits are those of a float32 model with the rounded weights."""
    half = cast_matrices(model_of(changes), torch.bfloat16)
    widened = cast_matrices(copy.deepcopy(half), torch.float32)
    decoders = [decoder_for(model) for model in (half, widened)]
    assert [type(decoder) for decoder in decoders] == [CpuDecoder, CpuDecoder]
    assert half.lm_head.weight.dtype == torch.bfloat16
    caches = [decoder.fill(WINDOWS) for decoder in decoders]
    results = [each.logits(cache, TOKENS) for each, cache in zip(decoders, caches, strict=True)]
    assert torch.equal(*results)
    assert torch.equal(*(cache.keys_values for cache in caches))


def test_without_kernels_bfloat16_is_nearly_the_same() -> None:
    half = cast_matrices(model_of(TOGETHER), torch.bfloat16)
    ours, plain = CpuDecoder(half), PlainDecoder(half)
    logits, expected = (each.logits(each.fill(WINDOWS), TOKENS) for each in (ours, plain))
    torch.testing.assert_close(logits, expected.float(), rtol=0.05, atol=0.1)


def test_changed_weights_are_seen() -> None:
    """Nothing is copied: the decoder uses the model's present weights."""
    model = model_of({})
    decoder = CpuDecoder(model)
    for parameter in model.parameters():
        parameter.mul_(0.5)
    expected = PlainDecoder(model)
    logits = [each.logits(each.fill([[1, 2]]), [3]) for each in (decoder, expected)]
    torch.testing.assert_close(*logits)


def test_a_decoder_keeps_the_weights_it_was_made_with() -> None:
    """Though the model then gets others, in other memory."""
    model = copy.deepcopy(KERNEL_MODEL)
    decoder = CpuDecoder(model)
    expected = decoder.logits(decoder.fill([[1, 2]]), [3])
    filled = decoder.fill([[1, 2]])
    model.double()
    memory = [torch.full_like(p, 7.0, dtype=torch.float32) for p in model.parameters()]
    assert torch.equal(decoder.logits(filled, [3]), expected), len(memory)


def test_which_decoder_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels, if they support device, dtype and sizes and the model is exactly ours."""
    assert isinstance(decoder_for(model_of({})), CpuDecoder)
    others = [
        counting(16),  # computes something else
        MODEL,  # heads of 8
        model_of({}, vocab_size=3),
        model_of({"context_length": 3}),
        model_of({"d_ff": 90}),
        model_of({}).double(),
        model_of({}).bfloat16(),
        model_of({}).to("meta"),
    ]
    assert {type(decoder_for(model)) for model in others} == {PlainDecoder}
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert isinstance(decoder_for(model_of({})), PlainDecoder)


@pytest.mark.parametrize("model", [KERNEL_MODEL, model_of(TOGETHER)], ids=["default", "together"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_of_kernels_and_of_pytorch(
    model: TransformerLM, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far beyond the context, in a batch whose prompts differ in length; with and without cache."""
    params = replace(SAMPLING, temperature=temperature, max_tokens=40, num_samples=2)
    assert cpu_decoder.fits(model)
    tokens = generate(model, PROMPTS, params)
    monkeypatch.setattr(cpu_decoder, "fits", lambda _: False)
    assert tokens == generate(model, PROMPTS, params)
    assert tokens == generate(model, PROMPTS, params, use_cache=False)


def test_without_kernels_pytorch_does_the_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under a limit of memory in which they cannot be compiled; it is said once."""

    def fail(package: str) -> None:
        raise MemoryError(package)

    monkeypatch.setattr(decoders, "load_kernels", fail)
    decoders._can_load.cache_clear()
    assert {type(decoder_for(model_of({}))) for _ in range(2)} == {PlainDecoder}
    assert caplog.text.count("the sampling kernels cannot be loaded") == 1
    decoders._can_load.cache_clear()


class KeepingDecoder(PlainDecoder):
    """Keeps rows that have ended, as one that records its steps does; counts its batches."""

    keeps_rows = True

    def __init__(self, model: TransformerLM) -> None:
        super().__init__(model)
        self.batches: list[int] = []

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Tensor:
        self.batches.append(len(tokens))
        return super().logits(cache, tokens)


@pytest.mark.parametrize("max_tokens", [5, 40])
@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"repetition_penalty": 1.5}], ids=str)
def test_rows_that_ended_stay_until_half_have(
    changes: dict[str, Any], max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens are those without them, within the context and beyond it."""
    params = replace(SAMPLING, max_tokens=max_tokens, num_samples=4, **changes)
    stop_ids = range(0, MODEL.vocab_size, 8)  # a row ends every few steps
    expected = generate(MODEL, PROMPTS, params, stop_ids)
    lengths = sorted(len(row) for rows in expected for row in rows)
    keeping = KeepingDecoder(MODEL)
    monkeypatch.setattr("lmlib.sampling.generation.decoder_for", lambda _: keeping)
    assert generate(MODEL, PROMPTS, params, stop_ids) == expected
    sizes = sorted(set(keeping.batches), reverse=True)
    assert len(set(lengths)) > len(sizes)  # rows ended at more steps than the batch shrank at
    assert all(2 * small <= large for large, small in itertools.pairwise(sizes))


def test_steps_that_cannot_be_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model takes them one by one; that is said once."""

    def fail(_: GraphDecoder, cache: KVCache) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphDecoder, "_record", fail)
    with torch.inference_mode():
        ours, plain = GraphDecoder(MODEL), PlainDecoder(MODEL)
        caches = [decoder.fill([[1, 2], [3]]) for decoder in (ours, plain)]
        for tokens in ([4, 5], [6, 7]):
            assert torch.equal(ours.logits(caches[0], tokens), plain.logits(caches[1], tokens))
    (message,) = caplog.messages
    assert message.startswith("a step cannot be recorded as a CUDA graph (operation not permitted")


@pytest.mark.parametrize("decoder", [CpuDecoder, PlainDecoder])
@pytest.mark.parametrize("bad", [-1, 50, 2**31])
def test_ids_that_the_model_does_not_have(decoder: type[PlainDecoder], bad: int) -> None:
    ours = decoder(model_of({}))
    with pytest.raises(IndexError):
        ours.fill([[1], [2, bad]])
    cache = ours.fill([[1], [2]])
    with pytest.raises(IndexError):
        ours.logits(cache, [1, bad])
