"""lmlib/model/transformer.py: parameters, block and language model."""

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lmlib.functional import cross_entropy, soft_cap
from lmlib.model import ModelParams, NextTokenLoss, TransformerBlock, TransformerLM, documents_of

VOCAB_SIZE = 50
VARIATIONS = [
    {"norm": norm, "position": position, "ffn": ffn, "tie_embeddings": tie}
    for norm, position, ffn, tie in itertools.product(
        ("pre", "post", "none"), ("rope", "none"), ("swiglu", "silu"), (False, True)
    )
] + [
    {"qk_norm": True},
    {"ffn": "relu2"},
    {"logit_softcap": 2.0},
    {"qk_norm": True, "ffn": "relu2", "logit_softcap": 2.0, "norm": "none", "position": "none"},
    {"num_heads": 4, "num_kv_heads": 2, "attention_window": 3},
    {"num_kv_heads": 1, "attention_window": 3, "qk_norm": True, "ffn": "relu2"},
]
each_variation = pytest.mark.parametrize("changes", VARIATIONS, ids=str)


def params(**changes: Any) -> ModelParams:
    sizes: dict[str, Any] = {
        "context_length": 12,
        "d_model": 16,
        "num_layers": 2,
        "num_heads": 2,
        "d_ff": 24,
    }
    return ModelParams(**(sizes | changes))


def model(vocab_size: int = VOCAB_SIZE, seed: int = 0, **changes: Any) -> TransformerLM:
    return TransformerLM(params(**changes), vocab_size, seed=seed)


def random_ids(*shape: int, vocab_size: int = VOCAB_SIZE, seed: int = 0) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def randomise_gains(module: torch.nn.Module) -> None:
    """With gains of 1, a missing or repeated norm could go unnoticed."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)


def interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Rows k and k + d_head / 2 of each head, a pair there, become rows 2k and 2k + 1."""
    return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("rope_theta", [10_000.0, 500.0])
@pytest.mark.parametrize(("num_kv_heads", "window"), [(0, 0), (1, 0), (2, 4), (1, 1), (1, 5)])
def test_logits_equal_those_of_hugging_face(
    num_kv_heads: int, window: int, rope_theta: float, tie: bool, qk_norm: bool
) -> None:
    """Llama's; with a window Mistral's, which counts the query's own key; with norms Qwen3's.

    The same weights, with gains other than 1, and an eps large enough to matter.
    """
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": num_kv_heads or 4,
        "head_dim": 4,
        "max_position_embeddings": 12,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "tie_word_embeddings": tie,
        "initializer_range": 0.3,
    }
    if window:
        sizes["sliding_window"] = window
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if qk_norm:
            in_every_layer = {"use_sliding_window": window > 0, "max_window_layers": 0}
            reference = Qwen3ForCausalLM(Qwen3Config(**sizes, **in_every_layer)).eval()
        elif window:
            reference = MistralForCausalLM(MistralConfig(**sizes)).eval()
        else:
            reference = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    randomise_gains(reference)
    theirs = reference.state_dict()
    ours = {
        "token_embeddings.weight": theirs["model.embed_tokens.weight"],
        "ln_final.weight": theirs["model.norm.weight"],
        "lm_head.weight": theirs["lm_head.weight"],
    }
    names = {
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        "attn.q_proj": "self_attn.q_proj",
        "attn.k_proj": "self_attn.k_proj",
        "attn.v_proj": "self_attn.v_proj",
        "attn.output_proj": "self_attn.o_proj",
        "ffn.w1": "mlp.gate_proj",
        "ffn.w2": "mlp.down_proj",
        "ffn.w3": "mlp.up_proj",
    }
    if qk_norm:
        names |= {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
    for layer, (name, their_name) in itertools.product(range(2), names.items()):
        weight = theirs[f"model.layers.{layer}.{their_name}.weight"]
        if name in ("attn.q_proj", "attn.k_proj"):
            weight = interleaved(weight, num_heads=len(weight) // 4)
        if name in ("attn.q_norm", "attn.k_norm"):
            weight = interleaved(weight, num_heads=1)
        ours[f"layers.{layer}.{name}.weight"] = weight
    lm = model(
        rope_theta=rope_theta,
        tie_embeddings=tie,
        norm_eps=1e-3,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        attention_window=window,
        qk_norm=qk_norm,
    )
    lm.load_state_dict(ours)
    token_ids = random_ids(3, 12)
    with torch.no_grad():
        expected = reference(token_ids).logits
        torch.testing.assert_close(lm(token_ids), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.5  # logits near 0 would agree for any model


def test_soft_cap_equals_that_of_hugging_face_gemma2() -> None:
    """From the hidden states of a Gemma2, whose blocks are not ours."""
    config = Gemma2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=3.0,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gemma = Gemma2ForCausalLM(config).eval()
    lm = model(logit_softcap=3.0)
    with torch.no_grad():
        lm.lm_head.weight.copy_(gemma.get_parameter("lm_head.weight"))
        expected = gemma(random_ids(2, 9)).logits
        hidden = gemma.model(random_ids(2, 9)).last_hidden_state
        torch.testing.assert_close(lm.logits(hidden), expected)
    assert 2 < expected.abs().max() <= 3


def test_soft_cap_of_the_logits() -> None:
    """The same weights with a cap and without; the cap is low enough to bend the logits."""
    token_ids = random_ids(2, 9)
    with torch.no_grad():
        without, capped = model()(token_ids), model(logit_softcap=0.5)(token_ids)
    torch.testing.assert_close(capped, soft_cap(without, 0.5))
    assert without.abs().max() > 0.5 > capped.abs().max()


@each_variation
@pytest.mark.parametrize("attention", ["sdpa", "blocked", "plain"])
def test_no_token_sees_a_later_one(attention: str, changes: dict[str, Any]) -> None:
    lm = model(attention=attention, **changes)
    token_ids = random_ids(2, 10)
    changed = token_ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % VOCAB_SIZE
    with torch.no_grad():
        before, after = lm(token_ids), lm(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-6)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(dim=-1).min() > 1e-4


@each_variation
def test_number_of_parameters(changes: dict[str, Any]) -> None:
    """4 d_model**2 of attention and 3 d_model d_ff of feed-forward, with or without a gate.

    A group that shares a head of keys and values saves the others' rows of W_k and W_v.
    """
    lm = model(**changes)
    norms = {"pre": 2 * 2 + 1, "post": 2 * 2, "none": 0}[lm.params.norm]
    matrices = 1 if lm.params.tie_embeddings else 2
    expected = matrices * VOCAB_SIZE * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 24) + norms * 16
    if lm.params.num_kv_heads:  # half of the heads
        expected -= 2 * 2 * 8 * 16
    if lm.params.qk_norm:  # in each layer two gains of the size of a head
        expected += 2 * 2 * 8
    assert lm.num_parameters() == expected


@pytest.mark.parametrize("attention", ["auto", "sdpa", "blocked", "plain"])
def test_a_window_hides_older_tokens(attention: str) -> None:
    """In one layer: three see a token, and those after them do not."""
    lm = model(num_layers=1, attention=attention, attention_window=3, num_kv_heads=1)
    token_ids = random_ids(2, 10)
    changed = token_ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % VOCAB_SIZE
    with torch.no_grad():
        differences = (lm(token_ids) - lm(changed)).abs().amax(dim=-1)
    assert differences[:, 4:7].min() > 1e-4
    assert differences[:, [0, 1, 2, 3, 7, 8, 9]].max() < 1e-6


LENGTHS = [[3, 1, 5, 3], [7, 5]]  # of the documents of two windows of 12 tokens


def two_windows() -> tuple[Tensor, Tensor]:
    """Return ids in which 0 separates documents of LENGTHS; and their documents."""
    ids = random_ids(2, 12, vocab_size=VOCAB_SIZE - 1) + 1
    for row, lengths in zip(ids, LENGTHS, strict=True):
        row[[0, *itertools.accumulate(lengths[:-1])]] = 0
    return ids, documents_of(ids, 0)


@pytest.mark.parametrize("attention", ["auto", "sdpa", "blocked", "plain"])
@pytest.mark.parametrize("shape", [{}, {"num_kv_heads": 1}, {"attention_window": 3}], ids=str)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_document_has_the_logits_that_it_has_alone(
    attention: str, shape: dict[str, int], norm: str
) -> None:
    """The first documents of a window too: those after them were never in sight."""
    lm = model(attention=attention, norm=norm, **shape)
    ids, documents = two_windows()
    with torch.no_grad():
        together = lm(ids, documents=documents)
        unaware = lm(ids)
        for row, lengths in enumerate(LENGTHS):
            parts = zip(ids[row].split(lengths), together[row].split(lengths), strict=True)
            for document, logits in parts:
                torch.testing.assert_close(lm(document), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[:, :3], unaware[:, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:, 7:], unaware[:, 7:], atol=1e-3)


@pytest.mark.parametrize("attention", ["auto", "sdpa", "blocked", "plain"])
def test_no_gradient_flows_between_documents(attention: str) -> None:
    """The loss of the third document, tokens 4 to 8, has no gradient in the other embeddings."""
    lm = model(attention=attention, num_kv_heads=1)
    ids, documents = two_windows()
    embeddings: list[Tensor] = []
    lm.token_embeddings.register_forward_hook(lambda *call: embeddings.append(call[-1]))
    logits = lm(ids, documents=documents)
    loss = cross_entropy(logits[0, 4:9], random_ids(5, seed=1))
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert gradient[0, :4].abs().max() == gradient[0, 9:].abs().max() == 0
    assert gradient[1].abs().max() == 0
    assert gradient[0, 4:9].abs().amax(dim=-1).min() > 0


def test_the_loss_of_a_window_is_that_of_its_documents() -> None:
    """The last token of a document is to predict the next separator; weights count too."""
    lm, (ids, documents) = model(), two_windows()
    targets = torch.cat((ids[:, 1:], torch.zeros(2, 1, dtype=ids.dtype)), dim=1)
    weights = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    total, unweighted = torch.zeros(()), torch.zeros(())
    for row, lengths in enumerate(LENGTHS):
        split = (x[row].split(lengths) for x in (ids, targets, weights))
        for document, target, weight in zip(*split, strict=True):
            losses = NextTokenLoss(lm)(document, target, weight)
            total = total + losses[0] * len(document) / 24
            unweighted += losses[1] * len(document) / 24
    found, reported = NextTokenLoss(lm)(ids, targets, weights, documents)
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(reported, unweighted)
    gradients = (torch.autograd.grad(x, list(lm.parameters())) for x in (found, total))
    for of_window, of_documents in zip(*gradients, strict=True):
        torch.testing.assert_close(of_window, of_documents, rtol=1e-4, atol=1e-6)


def test_a_cache_with_documents() -> None:
    lm, (ids, documents) = model(), two_windows()
    with pytest.raises(ValueError, match="a cache does not know where documents begin"):
        lm(ids, cache=lm.empty_cache(2), documents=documents)


@pytest.mark.slow
def test_documents_can_be_compiled() -> None:
    """As one graph, in a process of its own: functions whose shapes are checked cannot be read."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from tests.model import test_transformer as t; t.compare_compiled()",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def compare_compiled() -> None:
    ids, documents = two_windows()
    for attention in ("sdpa", "blocked", "plain"):
        loss = NextTokenLoss(model(attention=attention, attention_window=4))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        gradients = [
            torch.autograd.grad(run(ids, ids, documents=documents)[0], list(loss.parameters()))
            for run in (loss, compiled)
        ]
        for eager, traced in zip(*gradients, strict=True):
            torch.testing.assert_close(traced, eager)


def test_groups_have_fewer_weights() -> None:
    """Keys and values of two heads of 4, in place of four, in each of two layers."""
    grouped, full = (model(num_heads=4, num_kv_heads=heads) for heads in (2, 0))
    assert full.num_parameters() - grouped.num_parameters() == 2 * 2 * 16 * 8
    assert full.params.kv_heads == 4


@each_variation
def test_gradient_reaches_every_parameter(changes: dict[str, Any]) -> None:
    lm = model(**changes)
    cross_entropy(lm(random_ids(2, 10)), random_ids(2, 10, seed=1)).backward()
    for name, parameter in lm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("ffn", ["swiglu", "silu", "relu2"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_first_loss_is_near_that_of_guessing(norm: str, ffn: str, tie: bool) -> None:
    """ln(vocab), and half the variance of the logits, 2 * 64 / (500 + 64), more.

    Tied rows of variance 1 would give logits of variance d_model. Without any norm the residual
    stream grows from layer to layer, and so does the loss: that variant has no such bound.
    """
    lm = model(vocab_size=500, d_model=64, norm=norm, ffn=ffn, tie_embeddings=tie)
    with torch.no_grad():
        logits = lm(random_ids(32, 12, vocab_size=500))
    loss = cross_entropy(logits, random_ids(32, 12, vocab_size=500, seed=1))
    assert loss.item() == pytest.approx(math.log(500) + 64 / 564, abs=0.1)


@each_variation
def test_kernels_agree(changes: dict[str, Any]) -> None:
    token_ids = random_ids(2, 12)
    fused, plain = (model(attention=kernel, **changes)(token_ids) for kernel in ("sdpa", "plain"))
    torch.testing.assert_close(fused, plain)


def test_state_dict_keys() -> None:
    """Names that checkpoints and other code rely on; the RoPE tables are not among them."""
    expected = {"token_embeddings.weight", "ln_final.weight", "lm_head.weight"}
    for layer in ("layers.0.", "layers.1."):
        expected |= {f"{layer}attn.{name}_proj.weight" for name in ("q", "k", "v", "output")}
        expected |= {f"{layer}ffn.{name}.weight" for name in ("w1", "w2", "w3")}
        expected |= {f"{layer}ln1.weight", f"{layer}ln2.weight"}
    assert set(model().state_dict()) == expected
    assert set(model(tie_embeddings=True).state_dict()) == expected
    gains = {f"layers.{i}.attn.{name}_norm.weight" for i in range(2) for name in "qk"}
    assert set(model(qk_norm=True).state_dict()) == expected | gains


def test_variations_start_from_the_same_random_numbers() -> None:
    """Norms of queries and keys, a soft cap and a window draw none: nothing else changes."""
    expected = model().state_dict()
    state = model(qk_norm=True, logit_softcap=30.0, attention_window=3).state_dict()
    for name, weight in expected.items():
        assert weight.equal(state[name]), name


def test_weights_are_out_by_in() -> None:
    weights = model().state_dict()
    assert weights["layers.0.ffn.w1.weight"].shape == (24, 16)
    assert weights["layers.0.ffn.w2.weight"].shape == (16, 24)
    assert weights["lm_head.weight"].shape == (VOCAB_SIZE, 16)


def test_post_norm_block_is_the_norm_of_the_sum() -> None:
    block = TransformerBlock(params(norm="post"), rope=None)
    randomise_gains(block)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    hidden = block.ln1(x + block.attn(x))
    torch.testing.assert_close(block(x), block.ln2(hidden + block.ffn(hidden)))


def test_pre_norm_block_adds_to_the_residual_stream() -> None:
    block = TransformerBlock(params(norm="pre"), rope=None)
    randomise_gains(block)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    hidden = x + block.attn(block.ln1(x))
    torch.testing.assert_close(block(x), hidden + block.ffn(block.ln2(hidden)))


def test_block_without_norm() -> None:
    block = TransformerBlock(params(norm="none"), rope=None)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    hidden = x + block.attn(x)
    torch.testing.assert_close(block(x), hidden + block.ffn(hidden))


def test_only_pre_norm_needs_a_final_norm() -> None:
    """With it the logits do not grow with the embeddings; a post-norm block ends in its own."""
    for norm, keys in (("pre", 1), ("post", 0), ("none", 0)):
        names = model(norm=norm).state_dict()
        assert sum(name.startswith("ln_final") for name in names) == keys


@pytest.mark.parametrize(("position", "invariant"), [("none", True), ("rope", False)])
def test_order_of_earlier_tokens(position: str, invariant: bool) -> None:
    """In one layer without position embedding, the last token sees earlier ones as a bag."""
    lm = model(num_layers=1, position=position)
    order = torch.tensor([3, 0, 2, 1, 4])
    token_ids = torch.tensor([7, 8, 9, 10, 11])
    with torch.no_grad():
        last, shuffled = lm(token_ids)[-1], lm(token_ids[order])[-1]
    assert torch.allclose(last, shuffled, atol=1e-6) is invariant


@pytest.mark.parametrize("shape", [(5,), (1,), (2, 1), (2, 3, 5)])
def test_batches_of_any_rank(shape: tuple[int, ...]) -> None:
    lm, token_ids = model(), random_ids(*shape)
    alone = [lm(row) for row in token_ids.view(-1, shape[-1])]
    expected = torch.stack(alone).view(*shape, VOCAB_SIZE)
    torch.testing.assert_close(lm(token_ids), expected)


def test_positions_of_every_shape() -> None:
    lm, token_ids = model(), random_ids(2, 4)
    positions = torch.tensor([0, 3, 4, 11])
    expected = torch.stack([lm(row, positions) for row in token_ids])
    for given in (positions, positions[None], positions.expand(2, 4)):
        torch.testing.assert_close(lm(token_ids, given), expected)
    assert not torch.allclose(lm(token_ids), expected, atol=1e-3)


def test_full_context_fits() -> None:
    assert model()(random_ids(1, 12)).shape == (1, 12, VOCAB_SIZE)


def test_a_sequence_beyond_the_context() -> None:
    for position in ("rope", "none"):
        match = "13 tokens do not fit context_length=12; pass the last 12"
        with pytest.raises(ValueError, match=match):
            model(position=position)(random_ids(1, 13))


def test_a_seed_gives_the_weights_and_only_the_seed() -> None:
    state = torch.get_rng_state()
    first, other = model(seed=1).state_dict(), model(seed=2).state_dict()
    torch.manual_seed(99)
    second = model(seed=1).state_dict()
    torch.set_rng_state(state)
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
        assert weight.ndim == 1 or not torch.equal(weight, other[name]), name


def test_layers_differ_from_each_other() -> None:
    """A generator seeded again for each layer would make them equal."""
    weights = model().state_dict()
    for name in ("attn.q_proj.weight", "ffn.w1.weight"):
        assert not torch.equal(weights[f"layers.0.{name}"], weights[f"layers.1.{name}"])
    first = weights["layers.0.attn.q_proj.weight"]
    assert not torch.equal(first, weights["layers.0.attn.k_proj.weight"])


def test_tied_embeddings_stay_tied_after_loading() -> None:
    lm = model(tie_embeddings=True)
    lm.load_state_dict(model(tie_embeddings=True, seed=1).state_dict())
    with torch.no_grad():
        lm.token_embeddings.weight[3] = 5.0
    assert lm.lm_head.weight[3].tolist() == [5.0] * 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 15}, "d_model is 15, not divisible by num_heads 2"),
        ({"d_model": 18, "num_heads": 6}, "heads of size 3; RoPE rotates pairs"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads is 3, which does not divide num_heads"),
        ({"num_kv_heads": 4}, "num_kv_heads is 4, which does not divide num_heads 2"),
        ({"num_kv_heads": -1}, r"num_kv_heads is -1; .* \(0: as many as num_heads\)"),
        ({"attention_window": -1}, r"attention_window is -1; .* \(0: all tokens\)"),
        ({"num_layers": 0}, "num_layers is 0; it must be from 1 to 10"),
        ({"num_heads": 0}, "num_heads is 0; it must be from 1 to 10"),
        ({"d_ff": -1}, "d_ff is -1; it must be from 1 to 10"),
        ({"context_length": 0}, "context_length is 0; it must be from 1 to 10"),
        ({"d_model": 0}, "d_model is 0; it must be from 1 to 10"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0; it must be from 1e-30 to 1e30"),
        ({"norm_eps": math.nan}, "norm_eps is nan; it must be from 1e-30 to 1e30"),
        ({"logit_softcap": -1.0}, r"logit_softcap is -1.0; it must be 0, or from .* \(0: no cap\)"),
    ],
)
def test_contradictory_params(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        params(**changes)


def test_heads_of_odd_size_without_rope() -> None:
    lm = model(d_model=18, num_heads=6, position="none")
    assert lm(random_ids(1, 12)).isfinite().all()


def test_an_empty_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size is 0; it must be at least 1"):
        model(vocab_size=0)
