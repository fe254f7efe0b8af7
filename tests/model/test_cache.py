"""lmlib/model/cache.py: with a cache, a model computes the same as from all tokens."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlib.model import KVCache, ModelParams, StaticKVCache, TransformerLM

SIZES = ModelParams(context_length=12, d_model=16, num_layers=2, num_heads=2, d_ff=16)
MODEL = TransformerLM(SIZES, 30, seed=1)
VARIATIONS: list[dict[str, Any]] = [
    {"norm": norm, "position": position, "ffn": ffn}
    for norm, position, ffn in itertools.product(
        ("pre", "post", "none"), ("rope", "none"), ("swiglu", "silu")
    )
] + [
    {"tie_embeddings": True},
    {"attention": "plain"},
    {"attention": "sdpa"},
    {"num_kv_heads": 1},
    {"num_kv_heads": 2, "num_heads": 4, "attention": "plain"},
    {"attention_window": 3},
    {"attention_window": 1, "num_kv_heads": 1},
    {"attention_window": 9, "attention": "plain"},
    {"attention_window": 4, "position": "none", "attention": "blocked"},
    {"qk_norm": True},
    {"qk_norm": True, "position": "none", "attention": "plain"},
    {"ffn": "relu2", "logit_softcap": 0.5},
    {"num_heads": 4, "num_kv_heads": 2, "attention_window": 3, "qk_norm": True},
]

pytestmark = pytest.mark.usefixtures("_gradients")


@pytest.fixture(params=[False, True], ids=["no_grad", "grad"])
def _gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cache is filled and used the same with gradients, which stop at it."""
    with torch.set_grad_enabled(request.param):
        yield


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 30, shape, generator=torch.Generator().manual_seed(0))


def filled(lengths: list[int]) -> tuple[KVCache, Tensor]:
    """Return a cache of rows of these lengths, and the tokens (the rest is padding)."""
    tokens = ids(len(lengths), max(lengths))
    cache = MODEL.empty_cache(len(lengths))
    MODEL(tokens, cache=cache)
    cache.lengths = list(lengths)
    return cache, tokens


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_in_pieces_as_in_one(changes: dict[str, Any]) -> None:
    """Some tokens first, then one, then more, up to the end of the context."""
    model = TransformerLM(replace(SIZES, **changes), 30, seed=2)
    tokens = ids(3, 12)
    cache = model.empty_cache(3)
    pieces = [model(piece, cache=cache) for piece in tokens.split([4, 1, 5, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-4, atol=1e-5)
    assert cache.lengths == [12] * 3


@pytest.mark.parametrize("seq", [1, 3])
@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_rows_of_different_lengths_as_alone(changes: dict[str, Any], seq: int) -> None:
    model = TransformerLM(replace(SIZES, **changes), 30, seed=2)
    tokens, lengths = ids(3, 9), [2, 9, 5]
    cache = model.empty_cache(3)
    model(tokens, cache=cache)
    cache.lengths = list(lengths)  # the keys and values of the padding are overwritten
    more = ids(3, seq)
    logits = model(more, cache=cache)
    for row, length in enumerate(lengths):
        whole = torch.cat((tokens[row, :length], more[row]))
        expected = model(whole)[-seq:]
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)
    assert cache.lengths == [length + seq for length in lengths]


def test_positions_and_masks_by_hand() -> None:
    """Rows of 1 and 3 tokens get two more, at positions 1, 2 and 3, 4; each sees up to its own."""
    cache, _ = filled([1, 3])
    layer = cache.extend(2)[0]
    assert isinstance(layer.positions, Tensor)
    assert layer.positions.tolist() == [[1, 2], [3, 4]]
    assert layer.mask is not None
    seen = layer.mask.squeeze(1).sum(dim=-1)  # of places 0, 1, ... without gaps
    assert seen.tolist() == [[2, 3], [4, 5]]
    assert layer.mask[0, 0, 0].tolist() == [True, True, False, False, False]
    assert cache.lengths == [3, 5]


def test_windows_by_hand() -> None:
    """Of three keys: of rows of 1 and 3 tokens, and of rows of equal length."""
    model = TransformerLM(replace(SIZES, attention_window=3), 30)
    cache = model.empty_cache(2)
    cache.lengths = [1, 3]
    mask = cache.extend(2)[0].mask
    assert mask is not None
    rows = [[True, True, False, False, False], [True, True, True, False, False]]
    assert mask[0, 0].tolist() == rows
    assert mask[1, 0].tolist() == [[False, *rows[1][:4]], [False, False, True, True, True]]
    cache.lengths = [2, 2]
    assert cache.extend(1)[0].mask is None  # all three
    mask = cache.extend(1)[0].mask
    assert mask is not None
    assert mask.tolist() == [[False, True, True, True]]
    assert cache.select([0]).window == StaticKVCache(cache).window == 3


def test_only_heads_of_keys_and_values_are_kept() -> None:
    """(num_layers, 2, batch, kv_heads, context_length, d_head), a quarter of the memory."""
    model = TransformerLM(replace(SIZES, num_heads=4, num_kv_heads=1), 30)
    assert model.empty_cache(3).keys_values.shape == (2, 2, 3, 1, 12, 4)


def test_rows_of_one_length_need_no_index() -> None:
    cache, _ = filled([3, 3])
    layer = cache.extend(1)[0]
    assert layer.positions == slice(3, 4)
    assert layer.mask is None
    assert layer.longest == 4


def test_a_full_cache_says_so_and_stays_as_it_is() -> None:
    cache, _ = filled([2, 11])
    with pytest.raises(ValueError, match="2 tokens after 11 do not fit context_length=12; begin"):
        cache.extend(2)
    assert cache.lengths == [2, 11]
    cache.extend(1)
    assert cache.lengths == [3, 12]


def test_fewer_tokens_than_before() -> None:
    """A lower length removes tokens: new ones replace them as if they had never been there."""
    cache, tokens = filled([6])
    cache.lengths = [4]
    more = torch.tensor([[7, 8, 9]])
    expected = MODEL(torch.cat((tokens[:, :4], more), dim=1))[:, -3:]
    torch.testing.assert_close(MODEL(more, cache=cache), expected)


def test_selected_rows() -> None:
    """In another order, one of them twice; additions to them do not change the original."""
    cache, tokens = filled([2, 5, 3])
    before = cache.keys_values.clone()
    selected = cache.select([2, 0, 2])
    assert selected.lengths == [3, 2, 3]
    logits = MODEL(torch.tensor([[1], [2], [3]]), cache=selected)
    for at, (row, length, token) in enumerate([(2, 3, 1), (0, 2, 2), (2, 3, 3)]):
        whole = torch.cat((tokens[row, :length], torch.tensor([token])))
        torch.testing.assert_close(logits[at], MODEL(whole)[-1:])
    assert torch.equal(cache.keys_values, before)
    assert cache.lengths == [2, 5, 3]


def test_replaced_rows() -> None:
    cache, tokens = filled([2, 5, 3])
    others = MODEL.empty_cache(2)
    MODEL(torch.tensor([[9, 8, 7, 6], [5, 4, 0, 0]]), cache=others)
    others.lengths = [4, 2]
    cache.replace([2, 0], others)
    assert cache.lengths == [2, 5, 4]
    logits = MODEL(torch.tensor([[1]] * 3), cache=cache)
    for row, before in enumerate([[5, 4], tokens[1, :5].tolist(), [9, 8, 7, 6]]):
        torch.testing.assert_close(logits[row], MODEL(torch.tensor([*before, 1]))[-1:])


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_static_steps_as_others(changes: dict[str, Any]) -> None:
    """The same keys and values, with lengths on the device only, up to the last position."""
    model = TransformerLM(replace(SIZES, **changes), 30, seed=2)
    cache, twin = model.empty_cache(3), model.empty_cache(3)
    for each in (cache, twin):
        model(ids(3, 8), cache=each)
        each.lengths = [8, 3, 5]
    static = StaticKVCache(twin)
    for step in range(4):
        token = torch.tensor([[step], [step + 7], [20]])
        static.positions.copy_(torch.tensor(cache.lengths))
        expected = model(token, cache=cache)
        torch.testing.assert_close(model(token, cache=static), expected, rtol=1e-4, atol=1e-5)
    assert cache.lengths == [12, 7, 9]


def test_a_static_cache_can_only_be_extended() -> None:
    """Its lengths are on the device, so it has no methods that need them on the host."""
    static = StaticKVCache(MODEL.empty_cache(2))
    assert not isinstance(static, KVCache)
    assert not [name for name in ("select", "replace", "lengths") if hasattr(static, name)]
