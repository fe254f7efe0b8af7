"""The library as the official CS336 suite calls it: through tests/adapters.py."""

import inspect
import io
import itertools
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lmlib.toystories import generate_stories
from tests import adapters

SIGNATURES = {
    "run_linear": "d_in d_out weights in_features",
    "run_embedding": "vocab_size d_model weights token_ids",
    "run_swiglu": "d_model d_ff w1_weight w2_weight w3_weight in_features",
    "run_scaled_dot_product_attention": "Q K V mask",
    "run_multihead_self_attention": (
        "d_model num_heads q_proj_weight k_proj_weight v_proj_weight o_proj_weight in_features"
    ),
    "run_multihead_self_attention_with_rope": (
        "d_model num_heads max_seq_len theta q_proj_weight k_proj_weight v_proj_weight "
        "o_proj_weight in_features token_positions"
    ),
    "run_rope": "d_k theta max_seq_len in_query_or_key token_positions",
    "run_transformer_block": "d_model num_heads d_ff max_seq_len theta weights in_features",
    "run_transformer_lm": (
        "vocab_size context_length d_model num_layers num_heads d_ff rope_theta weights in_indices"
    ),
    "run_rmsnorm": "d_model eps weights in_features",
    "run_silu": "in_features",
    "run_get_batch": "dataset batch_size context_length device",
    "run_softmax": "in_features dim",
    "run_cross_entropy": "inputs targets",
    "run_gradient_clipping": "parameters max_l2_norm",
    "get_adamw_cls": "",
    "run_get_lr_cosine_schedule": (
        "it max_learning_rate min_learning_rate warmup_iters cosine_cycle_iters"
    ),
    "run_save_checkpoint": "model optimizer iteration out",
    "run_load_checkpoint": "src model optimizer",
    "get_tokenizer": "vocab merges special_tokens",
    "run_train_bpe": "input_path vocab_size special_tokens kwargs",
}
END = "<|endoftext|>"


def stories(num_bytes: int, seed: int = 1) -> str:
    """Return at least so many bytes of stories with a separator after each."""
    parts: list[str] = []
    size = 0
    for story in generate_stories(seed):
        parts.append(f"{story}\n{END}\n")
        size += len(parts[-1].encode())
        if size >= num_bytes:
            break
    return "".join(parts)


@pytest.fixture(scope="module")
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_and_parameters_are_those_of_the_suite(name: str) -> None:
    parameters = inspect.signature(getattr(adapters, name)).parameters
    assert list(parameters) == SIGNATURES[name].split()


def test_optional_parameters() -> None:
    for name, parameter in [
        ("run_scaled_dot_product_attention", "mask"),
        ("run_multihead_self_attention_with_rope", "token_positions"),
        ("get_tokenizer", "special_tokens"),
    ]:
        assert inspect.signature(getattr(adapters, name)).parameters[parameter].default is None
    kwargs = inspect.signature(adapters.run_train_bpe).parameters["kwargs"]
    assert kwargs.kind is inspect.Parameter.VAR_KEYWORD


# -- layers, against torch


def test_linear_and_embedding(random: torch.Generator) -> None:
    weights = torch.randn(5, 3, generator=random)
    x = torch.randn(2, 4, 3, generator=random)
    linear = adapters.run_linear(d_in=3, d_out=5, weights=weights, in_features=x)
    torch.testing.assert_close(linear, functional.linear(x, weights))
    ids = torch.tensor([[0, 4], [2, 2]])
    rows = adapters.run_embedding(vocab_size=5, d_model=3, weights=weights, token_ids=ids)
    assert torch.equal(rows, weights[ids])


def test_swiglu_silu_and_rmsnorm(random: torch.Generator) -> None:
    w1, w3 = torch.randn(2, 6, 4, generator=random)
    w2 = torch.randn(4, 6, generator=random)
    x = torch.randn(2, 3, 4, generator=random)
    expected = (functional.silu(x @ w1.T) * (x @ w3.T)) @ w2.T
    torch.testing.assert_close(adapters.run_swiglu(4, 6, w1, w2, w3, x), expected)
    torch.testing.assert_close(adapters.run_silu(x), functional.silu(x))
    gain = torch.randn(4, generator=random)
    torch.testing.assert_close(
        adapters.run_rmsnorm(4, 1e-5, gain, x), functional.rms_norm(x, (4,), gain, 1e-5)
    )


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_attention_with_a_mask(leading: tuple[int, ...], random: torch.Generator) -> None:
    """More keys than queries, values of another size; each query may attend to some key."""
    Q = torch.randn(*leading, 4, 8, generator=random)
    K = torch.randn(*leading, 6, 8, generator=random)
    V = torch.randn(*leading, 6, 5, generator=random)
    mask = torch.rand(*leading, 4, 6, generator=random) < 0.5
    mask[..., 0] = True
    torch.testing.assert_close(
        adapters.run_scaled_dot_product_attention(Q=Q, K=K, V=V, mask=mask),
        functional.scaled_dot_product_attention(Q, K, V, attn_mask=mask),
    )


def test_multihead_attention_against_torch(random: torch.Generator) -> None:
    """Without RoPE it is nn.MultiheadAttention with a causal mask."""
    q, k, v, o = torch.randn(4, 8, 8, generator=random)
    x = torch.randn(2, 5, 8, generator=random)
    reference = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat((q, k, v)))
        reference.out_proj.weight.copy_(o)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, _ = reference(x, x, x, attn_mask=future)
    torch.testing.assert_close(
        adapters.run_multihead_self_attention(8, 2, q, k, v, o, x),
        expected,
        atol=1e-5,  # the products are summed in another order
        rtol=1e-5,
    )


def test_rope_by_hand() -> None:
    """d_k = 4, theta = 100: the pairs turn by p and by p / 10; here p is 0 and 2."""
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    cos, sin = torch.tensor([2.0, 0.2]).cos(), torch.tensor([2.0, 0.2]).sin()
    expected = torch.stack((x[0], torch.stack((cos[0], sin[0], -sin[1], cos[1]))))
    positions = torch.tensor([0, 2])
    torch.testing.assert_close(adapters.run_rope(4, 100.0, 3, x, positions), expected)
    batch = adapters.run_rope(4, 100.0, 3, x.expand(2, 2, 4), positions)
    torch.testing.assert_close(batch, expected.expand(2, 2, 4))


def test_attention_with_rope_takes_positions_of_every_shape(random: torch.Generator) -> None:
    q, k, v, o = torch.randn(4, 8, 8, generator=random)
    x = torch.randn(3, 5, 8, generator=random)
    seq = torch.arange(5)

    def attend(positions: Tensor | None) -> Tensor:
        return adapters.run_multihead_self_attention_with_rope(
            8, 2, 16, 1e4, q, k, v, o, x, positions
        )

    expected = attend(None)
    for positions in (seq, seq.unsqueeze(0), seq.expand(3, 5)):
        torch.testing.assert_close(attend(positions), expected)
    # only distances count
    torch.testing.assert_close(attend(seq + 7), expected, atol=1e-4, rtol=1e-4)
    # stretched positions are other distances
    assert not torch.allclose(attend(seq * 2), expected, atol=1e-3)


def block_weights(random: torch.Generator) -> dict[str, Tensor]:
    shapes = {f"attn.{name}_proj.weight": (8, 8) for name in ("q", "k", "v", "output")}
    shapes |= {"ffn.w1.weight": (16, 8), "ffn.w2.weight": (8, 16), "ffn.w3.weight": (16, 8)}
    weights = {name: torch.randn(shape, generator=random) / 4 for name, shape in shapes.items()}
    return weights | {f"ln{i}.weight": torch.rand(8, generator=random) for i in (1, 2)}


def block(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return what a pre-norm block computes, put together from the other adapters."""
    q, k, v, o = (weights[f"attn.{name}_proj.weight"] for name in ("q", "k", "v", "output"))
    normed = adapters.run_rmsnorm(8, 1e-5, weights["ln1.weight"], x)
    x = x + adapters.run_multihead_self_attention_with_rope(8, 2, 6, 1e4, q, k, v, o, normed)
    normed = adapters.run_rmsnorm(8, 1e-5, weights["ln2.weight"], x)
    w1, w2, w3 = (weights[f"ffn.w{i}.weight"] for i in (1, 2, 3))
    return x + adapters.run_swiglu(8, 16, w1, w2, w3, normed)


def test_transformer_block_is_its_parts(random: torch.Generator) -> None:
    weights, x = block_weights(random), torch.randn(2, 5, 8, generator=random)
    actual = adapters.run_transformer_block(8, 2, 16, 6, 1e4, weights, x)
    torch.testing.assert_close(actual, block(weights, x))


def test_transformer_lm_is_its_parts(random: torch.Generator) -> None:
    layers = [block_weights(random) for _ in range(2)]
    weights = {
        "token_embeddings.weight": torch.randn(11, 8, generator=random),
        "ln_final.weight": torch.rand(8, generator=random),
        "lm_head.weight": torch.randn(11, 8, generator=random),
    }
    for i, layer in enumerate(layers):
        weights |= {f"layers.{i}.{name}": weight for name, weight in layer.items()}
    ids = torch.randint(0, 11, (2, 6), generator=random)

    x = weights["token_embeddings.weight"][ids]
    for layer in layers:
        x = block(layer, x)
    x = adapters.run_rmsnorm(8, 1e-5, weights["ln_final.weight"], x)
    expected = x @ weights["lm_head.weight"].T

    logits = adapters.run_transformer_lm(11, 6, 8, 2, 2, 16, 1e4, weights, ids)
    torch.testing.assert_close(logits, expected)
    # a shorter input gives the same logits: nothing looks ahead
    shorter = adapters.run_transformer_lm(11, 6, 8, 2, 2, 16, 1e4, weights, ids[:, :3])
    torch.testing.assert_close(shorter, expected[:, :3])


# -- loss and optimizer


def test_softmax_and_cross_entropy_do_not_overflow(random: torch.Generator) -> None:
    x = torch.randn(3, 5, generator=random)
    targets = torch.tensor([1, 0, 4])
    for dim in (0, 1, -1):
        torch.testing.assert_close(adapters.run_softmax(x + 1000, dim), (x + 1000).softmax(dim))
    for scale in (1, 1000):
        torch.testing.assert_close(
            adapters.run_cross_entropy(x * scale, targets),
            functional.cross_entropy(x * scale, targets),
        )


def test_gradient_clipping_against_torch(random: torch.Generator) -> None:
    """One parameter has no gradient; the parameters come as an iterator."""

    def parameters() -> list[nn.Parameter]:
        made = [nn.Parameter(torch.zeros(4)) for _ in range(3)]
        made.append(nn.Parameter(torch.zeros(4), requires_grad=False))
        return made

    ours, theirs = parameters(), parameters()
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        a.grad = torch.randn(4, generator=random)
        b.grad = a.grad.clone()
    nn.utils.clip_grad_norm_(theirs, 0.01)
    assert adapters.run_gradient_clipping(iter(ours), max_l2_norm=0.01) is None
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert ours[3].grad is None


def fit(optimizer_class: Any) -> Tensor:
    torch.manual_seed(42)
    model = nn.Linear(3, 2, bias=False)
    optimizer = optimizer_class(
        model.parameters(),
        lr=1e-3,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    for _ in range(1000):
        optimizer.zero_grad()
        x = torch.rand(3)
        (model(x) - torch.stack((x[0] + x[1], -x[2]))).square().sum().backward()
        optimizer.step()
    return model.weight.detach()


def test_adamw_against_torch() -> None:
    """A thousand steps of each; the operations are rounded in another order."""
    torch.testing.assert_close(
        fit(adapters.get_adamw_cls()), fit(torch.optim.AdamW), atol=1e-6, rtol=1e-5
    )


def test_cosine_schedule_by_hand() -> None:
    """Warm-up to 7, half a cosine from 7 to 21 between 1 and 0.1, then 0.1."""
    rates = {
        it: adapters.run_get_lr_cosine_schedule(
            it=it,
            max_learning_rate=1.0,
            min_learning_rate=0.1,
            warmup_iters=7,
            cosine_cycle_iters=21,
        )
        for it in (0, 1, 7, 14, 21, 22)
    }
    assert rates == pytest.approx({0: 0.0, 1: 1 / 7, 7: 1.0, 14: 0.55, 21: 0.1, 22: 0.1})


def test_get_batch() -> None:
    inputs, targets = adapters.run_get_batch(
        dataset=np.arange(100), batch_size=32, context_length=7, device="cpu"
    )
    assert inputs.shape == (32, 7)
    assert torch.equal(inputs + 1, targets)
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
        adapters.run_get_batch(np.arange(100), 32, 7, device="cuda:99")


@pytest.mark.parametrize("to_path", [True, False])
def test_checkpoint_round_trip(tmp_path: Path, to_path: bool) -> None:
    """A model that is not ours: the functions know only state dicts."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        return model, adapters.get_adamw_cls()(model.parameters(), lr=1e-3)

    model, optimizer = made()
    model(torch.rand(4)).sum().backward()
    optimizer.step()
    place = tmp_path / "checkpoint.pt" if to_path else io.BytesIO()
    adapters.run_save_checkpoint(model, optimizer, iteration=10, out=place)
    if isinstance(place, io.BytesIO):
        place.seek(0)
    other, other_optimizer = made()
    assert adapters.run_load_checkpoint(src=place, model=other, optimizer=other_optimizer) == 10
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other_optimizer.state_dict(), optimizer.state_dict(), rtol=0, atol=0)


# -- tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list]:
    path = tmp_path_factory.mktemp("bpe") / "stories.txt"
    path.write_text(stories(133_000), encoding="utf-8", newline="")
    vocab, merges = adapters.run_train_bpe(input_path=path, vocab_size=500, special_tokens=[END])
    return path, vocab, merges


def test_train_bpe(trained: tuple[Path, dict, list]) -> None:
    """256 bytes, 243 merges and the special token, which no merge has touched."""
    _, vocab, merges = trained
    assert sorted(vocab) == list(range(500))
    assert len(merges) == 500 - 256 - 1
    assert list(vocab.values()).count(END.encode()) == 1
    assert {left + right for left, right in merges} < set(vocab.values())
    assert not any(b"<|" in token for token in vocab.values() if token != END.encode())


def test_small_training_waits_for_no_compiler(trained: tuple[Path, dict, list]) -> None:
    """The official suite allows 1.5 s: in a fresh process, importing numba or torch takes longer.

    The result of that process is the same as here.
    """
    path, vocab, merges = trained
    code = (
        "import json, sys\n"
        "from tests.adapters import run_train_bpe\n"
        f"vocab, merges = run_train_bpe(sys.argv[1], 500, ['{END}'])\n"
        "print(json.dumps([\n"
        "    [name for name in ('numba', 'torch') if name in sys.modules],\n"
        "    [vocab[i].hex() for i in range(500)],\n"
        "    [[left.hex(), right.hex()] for left, right in merges],\n"
        "]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    imported, tokens, pairs = json.loads(done.stdout)
    assert imported == []
    assert [bytes.fromhex(token) for token in tokens] == [vocab[i] for i in range(500)]
    assert [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in pairs] == merges


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "🙃",
        "Once upon a time, there was a girl who said: I'll go!",
        "Héllò hôw are ü? 🙃",
        f"Héllò {END} hôw {END}{END} are ü?\n\n{END}",
        "trailing spaces   \n\n\t\r\n ",
    ],
)
def test_tokenizer_round_trips(trained: tuple[Path, dict, list], text: str) -> None:
    _, vocab, merges = trained
    tokenizer = adapters.get_tokenizer(vocab, merges, special_tokens=[END])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    end = next(i for i, token in vocab.items() if token == END.encode())
    assert ids.count(end) == text.count(END)
    assert list(tokenizer.encode_iterable(iter(text))) == ids
    # without special tokens, <|endoftext|> is ordinary text
    plain = adapters.get_tokenizer(vocab, merges)
    assert end not in plain.encode(text)
    assert plain.decode(plain.encode(text)) == text


def test_overlapping_special_tokens(trained: tuple[Path, dict, list]) -> None:
    """The longest match wins; the double token is new and gets the next id, 500."""
    _, vocab, merges = trained
    tokenizer = adapters.get_tokenizer(vocab, merges, special_tokens=[END, END * 2])
    ids = tokenizer.encode(f"a{END * 2}b{END}")
    assert [tokenizer.decode([token_id]) for token_id in ids] == ["a", END * 2, "b", END]
    assert ids[1] == 500
    assert 500 not in vocab  # the caller's dict is left alone


def test_encode_iterable_needs_constant_memory(trained: tuple[Path, dict, list]) -> None:
    """2 MB go through less than 1 MB, as in the official test (which measures the process)."""
    path, vocab, merges = trained
    tokenizer = adapters.get_tokenizer(vocab, merges, special_tokens=[END])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)

    def stream(num_chars: int) -> Iterator[str]:
        for line in itertools.cycle(lines):
            yield line
            num_chars -= len(line)
            if num_chars < 0:
                return

    def count(num_chars: int) -> int:
        return sum(1 for _ in tokenizer.encode_iterable(stream(num_chars)))

    count(300_000)  # fills the cache of pre-tokens
    tracemalloc.start()
    count(2_000_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
