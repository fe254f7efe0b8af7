"""lmlib/serving/batch.py: rows of any age, each with the tokens that it has alone."""

from dataclasses import replace

import pytest
import torch

from lmlib.model import TransformerLM
from lmlib.sampling import SamplingParams, generate
from lmlib.sampling.cpu_decoder import CpuDecoder
from lmlib.sampling.decoders import PlainDecoder
from lmlib.serving.batch import Batch, Row, Scored
from tests.sampling import scripted
from tests.serving.running import MODEL, SAMPLING

LONG = 2 * MODEL.params.context_length  # tokens: the window slides several times
VARIATIONS: list[dict[str, object]] = [
    {},
    {"seed": 6},
    {"temperature": 0.0},
    {"temperature": 0.5, "top_p": 0.7},
    {"top_k": 5, "min_p": 0.01},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 1.5, "temperature": 0.0},
    {"top_p": 0.99, "seed": 7},
]


def params(number: int) -> SamplingParams:
    return replace(SAMPLING, max_tokens=LONG, **VARIATIONS[number % len(VARIATIONS)])  # type: ignore[arg-type]


def prompt(number: int) -> list[int]:
    """Of 1 to 24 tokens, which is the whole context."""
    return [(7 * number + i) % 200 for i in range(1 + 5 * number % 24)]


def run(model: TransformerLM, numbers: list[int], every: int = 1) -> dict[int, list[Scored]]:
    """Start the rows `every` steps after each other; return their tokens, by number."""
    batch = Batch(model)
    waiting = [Row(prompt(number), params(number), number % 4) for number in numbers]
    result: dict[int, list[Scored]] = {number: [] for number in numbers}
    of_row = dict(zip(waiting, numbers, strict=True))
    step = 0
    while waiting or batch.rows:
        if waiting and step % every == 0:
            batch.add([waiting.pop(0)])
        for row, token in batch.step():
            result[of_row[row]].append(token)
        # rows end after different numbers of tokens, so that places are empty for a while
        batch.remove(row for row in batch.rows if row.drawn == LONG - of_row[row] % 5)
        step += 1
    return result


def test_each_row_has_the_bits_that_it_has_alone() -> None:
    """Tokens and logprobs, with neighbours that come and go, in whatever order they are added."""
    assert isinstance(Batch(MODEL).decoder, CpuDecoder)
    alone = {number: run(MODEL, [number])[number] for number in range(20)}
    assert run(MODEL, list(range(20)), every=3) == alone
    assert run(MODEL, list(range(19, -1, -1))) == alone
    assert len({tuple(token.id for token in tokens) for tokens in alone.values()}) == 20


def test_rows_have_the_tokens_of_generate() -> None:
    for number in range(len(VARIATIONS)):
        (tokens,) = generate(MODEL, [prompt(number)], params(number))[0]
        got = [token.id for token in run(MODEL, [number])[number]]
        assert got == tokens[: len(got)]
        assert len(got) > LONG - 5


def test_other_decoders_give_the_same_tokens() -> None:
    """Up to rounding, that is: in float64 no two tokens are nearly tied."""
    model = TransformerLM(MODEL.params, MODEL.vocab_size).double()
    model.load_state_dict(MODEL.state_dict())
    assert isinstance(Batch(model).decoder, PlainDecoder)
    together = run(model, list(range(8)), every=3)
    for number in range(8):
        (tokens,) = generate(model, [prompt(number)], params(number))[0]
        got = [token.id for token in together[number]]
        assert got == tokens[: len(got)]


def test_logprobs_are_those_of_the_model_before_any_option() -> None:
    row = Row([5, 6], replace(SAMPLING, temperature=0.3, top_k=2, repetition_penalty=2.0), top=3)
    batch = Batch(MODEL)
    batch.add([row])
    ((_, token),) = batch.step()
    with torch.inference_mode():
        log_p = MODEL(torch.tensor([[5, 6]]))[0, -1].log_softmax(-1)
    assert token.logprob == pytest.approx(log_p[token.id].item(), abs=1e-5)
    values, ids = log_p.topk(3)
    assert [other for other, _ in token.top] == ids.tolist()
    torch.testing.assert_close(
        torch.tensor([nats for _, nats in token.top]), values, atol=1e-5, rtol=0
    )


def test_equal_prompts_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with n = 3; each has its own random numbers."""
    batch = Batch(MODEL)
    filled: list[int] = []
    fill = batch.decoder.fill
    monkeypatch.setattr(
        batch.decoder, "fill", lambda windows: filled.append(len(windows)) or fill(windows)
    )
    rows = [Row([1, 2, 3], replace(SAMPLING, seed=seed)) for seed in (5, 6, 7)]
    batch.add([*rows, Row([4, 5], SAMPLING)])
    assert filled == [2]
    for _ in range(12):
        batch.step()
    expected = generate(MODEL, [[1, 2, 3]], replace(SAMPLING, num_samples=3))[0]
    assert [row.tokens[3:] for row in rows] == expected


def test_places_are_a_power_of_two_and_are_given_up() -> None:
    batch = Batch(MODEL)
    rows = [Row([1], SAMPLING) for _ in range(9)]
    for row in rows:
        batch.add([row])
    assert len(batch.places) == 16
    batch.remove(rows[:2])
    batch.step()
    assert len(batch.places) == 8
    batch.remove(rows)
    assert batch.cache is None
    assert batch.step() == []


def test_a_decoder_that_keeps_rows_keeps_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph is recorded for one cache: with another it would be recorded again."""
    model = scripted.MODEL
    batch = Batch(model)
    monkeypatch.setattr(batch.decoder, "keeps_rows", True)
    rows = [Row([token], SAMPLING) for token in range(3)]
    batch.add(rows)
    cache = batch.cache
    batch.remove(rows[1:])
    batch.step()
    assert batch.cache is cache
    batch.remove(rows)
    later = Row([1, 2, 3], SAMPLING)
    batch.add([later])
    for _ in range(12):
        batch.step()
    assert batch.cache is cache
    assert [later.tokens[3:]] == generate(model, [[1, 2, 3]], SAMPLING)[0]


def test_logits_that_are_not_finite() -> None:
    model = scripted.counting(30)
    model.table[2, 3] = torch.nan
    for temperature in (0.0, 1.0):
        batch = Batch(model)
        batch.add([Row([1], replace(SAMPLING, temperature=temperature))])
        batch.step()
        with pytest.raises(FloatingPointError, match="not finite"):
            batch.step()
