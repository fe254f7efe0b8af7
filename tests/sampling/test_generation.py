"""lmlib/sampling/generation.py: batches of prompts, with and without a cache."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lmlib.model import TransformerLM
from lmlib.sampling import Generation, generate
from lmlib.sampling.generation import draw, require_sampling_memory, window_start
from tests.sampling.scripted import (
    GREEDY,
    KERNEL_MODEL,
    MODEL,
    PROMPTS,
    SAMPLING,
    Script,
    continued,
    counting,
)


def test_greedy_generation_follows_the_likeliest_token() -> None:
    params = replace(GREEDY, max_tokens=4)
    assert continued(counting(10), [[3], [0, 8]], params) == [[4, 5, 6, 7], [9, 0, 1, 2]]


def test_greedy_generation_is_argmax_whatever_the_filters() -> None:
    rows = [list(prompt) for prompt in PROMPTS]
    for row in rows:
        for _ in range(12):
            logits = MODEL(torch.tensor(row[window_start(len(row), 8) :]))[-1]
            row.append(int(logits.argmax()))
    expected = [row[-12:] for row in rows]
    params = replace(GREEDY, top_k=3, top_p=0.5, seed=77)
    assert continued(MODEL, PROMPTS, params) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"repetition_penalty": 1.5},
        {"beyond_context": "stop"},
    ],
)
@pytest.mark.parametrize("model", [MODEL, KERNEL_MODEL], ids=["plain", "kernels"])
def test_a_prompt_continues_as_it_does_alone(model: TransformerLM, changes: dict[str, Any]) -> None:
    """Lengths differ, and prompts outgrow the context at different steps."""
    params = replace(SAMPLING, num_samples=2, max_tokens=20, **changes)
    together = generate(model, PROMPTS, params)
    assert together == generate(model, PROMPTS, params, use_cache=False)
    for prompt, samples in zip(PROMPTS, together, strict=True):
        assert generate(model, [prompt], params) == [samples]
        for j, sample in enumerate(samples):
            alone = replace(params, num_samples=1, seed=params.seed + j)
            assert continued(model, [prompt], alone) == [sample]


def test_the_window_keeps_its_newest_half_and_fills_up_again() -> None:
    starts = [window_start(n, 8) for n in range(1, 18)]
    assert starts == [0] * 8 + [4] * 4 + [8] * 4 + [12]
    assert [window_start(n, 1) for n in (1, 2, 3)] == [0, 1, 2]
    script = counting(10)
    generate(script, [[0] * 6], replace(GREEDY, max_tokens=5), use_cache=False)
    assert script.widths == [6, 7, 8, 5, 6]
    script.widths.clear()
    generate(script, [[0] * 6], replace(GREEDY, max_tokens=5))
    assert script.widths == [5, 1, 1, 1, 4, 1, 1]  # the prompt but its last; half a context


def test_generation_stops_where_the_context_is_full() -> None:
    """6 tokens and 3 more: the third is drawn from the 8 of the context. 9 are too many."""
    params = replace(GREEDY, beyond_context="stop")
    assert continued(counting(10), [[0] * 6, [0] * 9], params) == [[1, 2, 3], []]


def test_generation_far_beyond_the_context() -> None:
    params = replace(GREEDY, max_tokens=30)
    assert continued(counting(10), [[9]], params) == [[i % 10 for i in range(30)]]


def test_the_stop_token_ends_a_prompt_and_is_not_returned() -> None:
    """Counting to 7: one prompt ends after two tokens, one at once, one after `max_tokens`."""
    params = replace(GREEDY, max_tokens=4)
    texts = continued(counting(10), [[4], [6], [8], [7]], params, stop_ids={7})
    assert texts == [[5, 6], [], [9, 0, 1, 2], [8, 9, 0, 1]]


def test_steps_of_a_batch_in_which_prompts_end() -> None:
    generation = Generation(counting(10), [[4], [6], [5]], GREEDY, stop_ids={7})
    steps = [generation.step() for _ in range(4)]
    assert steps == [[5, None, 6], [6, None, None], [None] * 3, [None] * 3]
    assert generation.active == []
    assert [row.tokens for row in generation.rows] == [[4, 5, 6], [6], [5, 6]]
    assert [row.finish_reason for row in generation.rows] == ["stop"] * 3


def test_a_prompt_that_ended_does_not_change_the_others() -> None:
    """The first prompt stops at once; the draws and positions of the second stay its own."""
    table = torch.zeros(10, 10)
    table[:, [0, 7]] = -1e3  # never drawn ...
    table[0, 7] = 1e3  # ... but 7 always follows 0
    first, second = continued(Script(table), [[0], [1, 2, 3]], SAMPLING, stop_ids={7})
    assert first == []
    alone = continued(Script(table), [[1, 2, 3]], SAMPLING)
    assert [second] == alone


def test_same_seed_same_tokens_and_another_seed_others() -> None:
    first = continued(MODEL, PROMPTS, SAMPLING)
    torch.manual_seed(99)  # the global generator is not used
    assert continued(MODEL, PROMPTS, SAMPLING) == first
    assert continued(MODEL, PROMPTS, replace(SAMPLING, seed=1000)) != first


def test_samples_of_a_prompt_are_drawn_apart() -> None:
    (samples,) = generate(MODEL, [[1]], replace(SAMPLING, num_samples=3))
    assert len({tuple(sample) for sample in samples}) == 3


def test_fewer_tokens_are_the_first_of_more() -> None:
    (long,) = continued(MODEL, [[1, 2]], replace(SAMPLING, max_tokens=40))
    assert continued(MODEL, [[1, 2]], replace(SAMPLING, max_tokens=7)) == [long[:7]]


def test_drawn_frequencies_match_the_probabilities() -> None:
    """5,000 draws of fixed probabilities: each frequency within 5 standard deviations."""
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.08, 0.02])
    script = Script(probabilities.log().repeat(5, 1))
    params = replace(SAMPLING, max_tokens=50, top_k=4, temperature=0.8)
    (samples,) = generate(script, [[0]], replace(params, num_samples=100))
    drawn = torch.tensor(samples).flatten()
    frequencies = drawn.bincount(minlength=5) / len(drawn)
    expected = probabilities[:4] ** (1 / 0.8)
    expected = torch.cat((expected / expected.sum(), torch.zeros(1)))
    deviations = (expected * (1 - expected) / len(drawn)).sqrt()
    assert ((frequencies - expected).abs() <= 5 * deviations).all()


def test_a_token_of_probability_0_is_never_drawn() -> None:
    """Not even by the number 0, or by one at which the sums do not rise."""
    probabilities = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    assert draw(probabilities, torch.tensor([0.0, 0.5])).tolist() == [1, 2]


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_penalty_is_for_tokens_of_the_prompt_and_those_drawn(use_cache: bool) -> None:
    script = Script(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]).repeat(5, 1))
    params = replace(GREEDY, max_tokens=5, repetition_penalty=10.0)
    assert continued(script, [[1]], params, use_cache=use_cache) == [[0, 2, 3, 4, 0]]


def test_generation_leaves_the_mode_of_its_caller_between_steps() -> None:
    """The mode of each step ends with it: the caller's gradients stay enabled."""
    Generation(MODEL, [[1]], SAMPLING).step()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_an_empty_prompt(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="there is no prompt, or one is empty; each needs at"):
        continued(MODEL, prompts, SAMPLING)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("use_cache", [True, False])
def test_logits_that_are_not_finite_are_one_error(
    temperature: float, bad: float, use_cache: bool
) -> None:
    """At temperature 0 too, where argmax would take the NaN."""
    model = TransformerLM(MODEL.params, 30, seed=1)
    with torch.no_grad():
        model.lm_head.weight[3] = bad
    params = replace(SAMPLING, temperature=temperature)
    with pytest.raises(FloatingPointError, match=r"^the model's logits are not finite: its"):
        generate(model, PROMPTS, params, use_cache=use_cache)


@pytest.mark.parametrize("changes", [{"num_samples": 10**12}, {"max_tokens": 10**12}])
def test_more_texts_than_memory_holds_are_refused_at_once(changes: dict[str, Any]) -> None:
    message = r"^sampling .* texts of up to .* needs at least .* lower num_samples, max_tokens or"
    with pytest.raises(MemoryError, match=message):
        generate(MODEL, PROMPTS, replace(SAMPLING, **changes))


@pytest.mark.parametrize("num_kv_heads", [0, 1])
def test_the_estimate_is_that_of_the_cache(
    num_kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of a row of logits for each text, and of one random number."""
    model = TransformerLM(replace(MODEL.params, num_kv_heads=num_kv_heads), 30, seed=1)
    needed: list[int] = []
    monkeypatch.setattr(
        "lmlib.sampling.generation.require_memory", lambda size, *_: needed.append(size)
    )
    require_sampling_memory(model, 3, replace(SAMPLING, max_tokens=1))
    assert needed == [model.empty_cache(3).keys_values.nbytes + 4 * 3 * 30 + 32]


@pytest.mark.parametrize("model", [MODEL, KERNEL_MODEL], ids=["plain", "kernels"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    "prompts",
    [
        ((1, 0),),
        "iterators",
        np.array([[1, 0]]),
        np.array([[1, 0]], ">u2"),
        np.array([[0, 1]])[:, ::-1],
        np.ma.array([[1, 0]], mask=False),
        torch.tensor([[1, 0]]),
        [[torch.tensor(1), np.int8(0)]],
        [[True, False]],
        np.array([[True, False]]),
        [b"\x01\x00"],
    ],
    ids=str,
)
def test_prompts_in_any_form(model: TransformerLM, use_cache: bool, prompts: Any) -> None:
    if isinstance(prompts, str):
        prompts = iter([iter([1, 0])])
    expected = generate(model, [[1, 0]], SAMPLING, use_cache=use_cache)
    prompts = copy.deepcopy(prompts)  # an iterator serves one test only
    assert generate(model, prompts, SAMPLING, torch.tensor([99]), use_cache=use_cache) == expected


@pytest.mark.parametrize("model", [MODEL, KERNEL_MODEL], ids=["plain", "kernels"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ([1, -1], "-1"),
        ([1, 30], "30"),
        ([1, 1 << 70], "1180591620717411303424"),
        ([1.0], "1.0"),
        (torch.tensor([1.0]), "1.0"),
        (np.ma.array([1, 2], mask=[False, True]), "None"),
        ([[1]], r"\[1\]"),
    ],
)
def test_what_is_no_prompt(model: TransformerLM, use_cache: bool, prompt: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"^generate: {shown} is not a token id"):
        generate(model, [prompt], SAMPLING, use_cache=use_cache)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_logits_that_are_not_finite(temperature: float, penalty: float) -> None:
    """Also at temperature 0, where the greatest would be NaN."""
    params = replace(SAMPLING, temperature=temperature, repetition_penalty=penalty)
    for bad in (torch.nan, torch.inf):
        table = torch.zeros(10, 10)
        table[3, 4] = bad
        with pytest.raises(FloatingPointError, match="logits are not finite: its training div"):
            generate(Script(table), [[3]], params)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_p": 1e-30},
        {"temperature": 1e-30},
        {"temperature": 1e30},
        {"min_p": 1e-320},
        {"repetition_penalty": 1e-30},
        {"repetition_penalty": 1e30},
        {"temperature": 1e-30, "top_p": 1e-30, "min_p": 1.0, "repetition_penalty": 1e-30},
    ],
    ids=str,
)
def test_extreme_options_do_not_look_like_a_failed_training(changes: dict[str, float]) -> None:
    for model in (MODEL, counting(10)):
        (text,) = continued(model, [[3]], replace(SAMPLING, **changes))
        assert len(text) == SAMPLING.max_tokens
    if changes in ({"top_p": 1e-30}, {"temperature": 1e-30}):
        expected = continued(MODEL, PROMPTS, GREEDY)
        assert continued(MODEL, PROMPTS, replace(SAMPLING, **changes)) == expected
