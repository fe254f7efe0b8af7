"""The page, in a browser: writing, looking at tokens, continuing from one, reading a text."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lmlib.evaluation import evaluate
from lmlib.sampling import generate, generate_text
from lmlib.serving.engine import Limits
from tests.browser import Browser, open_browser
from tests.serving.running import (
    MODEL,
    SAMPLING,
    SEPARATOR_ID,
    STRIDE,
    TOKENIZER,
    Server,
    serving,
)

PROMPT = "ab 日a"
TEXT = "document.querySelector('#written .tokens').textContent"
DONE = "$('stop').disabled && written.tokens.length > 0"
PANEL = "document.querySelector('#panel')"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(limits=Limits(max_tokens=4000)) as server:
        yield server


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(started: Browser, server: Server) -> Browser:
    started.look(width=1000)
    started.open(server.address)
    started.wait_for("model !== null")
    return started


def write(page: Browser, **options: object) -> str:
    """Fill in the form, start, and return the text."""
    for name, value in {"prompt": PROMPT, "seed": 5, **options}.items():
        page.value(f"$('{name}').value = {json.dumps(str(value))}")
    page.value("$('start').click()")
    page.wait_for(DONE)
    return page.value(TEXT)


def test_the_form_has_the_options_of_params_yaml(page: Browser) -> None:
    page.wait_for("$('max_tokens').value !== ''")  # the page asks the server for them
    shown = page.value(
        "[$('max_tokens'), $('temperature'), $('top_p'), $('seed')].map(x => x.value)"
    )
    assert shown == ["12", "1", "1", "5"]


def test_it_writes_the_text_of_stages_sample(page: Browser) -> None:
    """With the prompt before it; no part of a character is lost."""
    ((text,),) = generate_text(MODEL, TOKENIZER, [PROMPT], SAMPLING)
    shown = write(page)
    assert shown.replace("\ufffd", "") == (PROMPT + text).replace("\ufffd", "")
    ids = page.value("written.tokens.map((token) => token.id)")
    assert ids[: len(TOKENIZER.encode(PROMPT))] == TOKENIZER.encode(PROMPT)
    kinds = page.value("written.tokens.map((token) => token.kind)")
    assert [bool(kind == "prompt") for kind in kinds[:6]] == [True] * 5 + [False]
    assert "12 tokens in" in page.value("document.querySelector('#written .facts').textContent")
    assert text[:5] in page.value("$('said').textContent")  # for screen readers


def test_the_text_appears_as_it_is_written(page: Browser) -> None:
    page.value("$('prompt').value = 'b'")
    page.value("$('max_tokens').value = 4000")
    page.value("$('temperature').value = 0")
    page.value("$('start').click()")
    page.wait_for("written.tokens.length > 20 && !!running")
    seen = page.value("written.tokens.length")
    page.wait_for(f"written.tokens.length > {seen}")
    page.press("Escape")
    page.wait_for("!running")
    stopped = page.value("written.tokens.length")
    assert stopped < 4000
    assert "Stopped after" in page.value("document.querySelector('#written .facts').textContent")
    assert page.value("$('error').hidden")


def test_a_token_shows_its_probability_and_the_alternatives(page: Browser) -> None:
    """Under the mouse, and with the keys."""
    write(page)
    assert page.value(f"{PANEL}.hidden")
    page.point("written.tokens[6].element")
    page.wait_for(f"!{PANEL}.hidden")
    ids = page.value("written.tokens.map((token) => token.id)")
    with torch.inference_mode():
        p = MODEL(torch.tensor([[SEPARATOR_ID, *ids[:6]]]))[0, -1].softmax(-1)
    shown = page.value(f"[...{PANEL}.querySelectorAll('.number')].map((x) => x.textContent)")
    expected = [p[ids[6]].item(), *p.topk(8).values.tolist()]
    for text, probability in zip(shown, expected, strict=True):
        assert float(text.partition("%")[0]) == pytest.approx(100 * probability, abs=0.051)
    page.value("document.querySelector('h1').scrollIntoView()")
    page.point("document.querySelector('h1')")
    page.wait_for(f"{PANEL}.hidden")
    page.value("written.tokens[0].element.focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.value("document.activeElement === written.tokens[2].element")
    assert page.value("shown === written.tokens[2]")
    label = page.value("document.activeElement.getAttribute('aria-label')")
    assert label == page.value("spelt(written.tokens[2]) + ', ' + odds(written.tokens[2])")
    page.press("Escape")
    assert page.value(f"{PANEL}.hidden")


@pytest.mark.parametrize("with_keys", [True, False])
def test_continuing_from_an_alternative(page: Browser, with_keys: bool) -> None:
    """What came before stays, and the rest is what the model writes after it."""
    write(page)
    before = page.value("written.tokens.slice(0, 7).map((token) => token.id)")
    other = page.value("written.tokens[7].top_logprobs[2].id")
    if with_keys:
        page.value("written.tokens[7].element.focus()")
        for key in ("Enter", "ArrowDown", "ArrowDown", "Enter"):
            page.press(key)
    else:
        page.point("written.tokens[7].element", click=True)
        page.point(f"{PANEL}.querySelectorAll('button')[2]", click=True)
    page.wait_for("written.tokens[7]?.kind === 'picked' && " + DONE)
    ids = page.value("written.tokens.map((token) => token.id)")
    assert ids[:8] == [*before, other]
    ((expected,),) = generate(MODEL, [[SEPARATOR_ID, *before, other]], SAMPLING, [SEPARATOR_ID])
    ended = len(expected) < SAMPLING.max_tokens
    assert ids[8:] == expected + [SEPARATOR_ID] * ended
    assert page.value("written.tokens[7].top_logprobs[2].id") == other


def test_continuing_a_text_longer_than_the_context(page: Browser) -> None:
    write(page, max_tokens=40)
    count = page.value("written.tokens.length")
    page.value(f"continueFrom(written.tokens[{count - 2}], written.tokens[{count - 2}])")
    page.wait_for(f"{DONE} && written.tokens.length > {count}")
    assert page.value("$('error').hidden")


def test_another_text(page: Browser) -> None:
    first = write(page)
    page.value("$('another').click()")
    page.wait_for(DONE)
    assert page.value("$('seed').value") == "6"
    assert page.value(TEXT) != first


def test_errors_are_shown(page: Browser) -> None:
    page.value(f"$('prompt').value = {json.dumps('b' * 100)}")
    page.value("$('start').click()")
    page.wait_for("!$('error').hidden")
    assert "maximum context length is 24" in page.value("$('error').textContent")
    assert page.value("$('error').getAttribute('role')") == "alert"
    write(page)
    assert page.value("$('error').hidden")


@pytest.mark.parametrize("length", [5, 60])
def test_reading_a_text(page: Browser, length: int) -> None:
    """Coloured by loss, with the mean that `evaluate` finds, also of one beyond the context."""
    text = ("ab 日\n" + "cé" * length)[:length]
    page.value("$('tab-read').click()")
    page.value(f"$('text').value = {json.dumps(text)}")
    page.value("$('score').click()")
    page.wait_for("scored.tokens.length && !running")
    ids = TOKENIZER.encode(text)
    scores = evaluate(
        MODEL,
        np.array(ids, dtype=np.uint16),
        len(text.encode()),
        context_length=MODEL.params.context_length,
        windows="documents",
        stride=STRIDE,
        start_id=SEPARATOR_ID,
    )
    figure = page.value("document.querySelector('#scored .figure').textContent")
    assert figure == f"{scores.bits_per_byte:.3f} bits per byte"
    assert page.value("scored.text") == text
    assert page.value("scored.tokens.map((token) => token.id)") == ids
    colours = page.value("scored.tokens.map((t) => getComputedStyle(t.element).backgroundColor)")
    assert len(set(colours)) > 2
    assert page.value("document.querySelector('#legend-read .scale').offsetWidth") > 100
    assert "1 is one in two" in page.value("$('legend-read').textContent")


def test_a_phone_and_the_dark(page: Browser) -> None:
    """Nothing is wider than the screen; colours follow the system."""
    page.look(width=360)
    write(page, max_tokens=40)
    page.point("written.tokens[6].element", click=True)
    page.wait_for(f"!{PANEL}.hidden")
    assert page.value("document.documentElement.scrollWidth") <= 360
    bottom = page.value("written.tokens[6].element.getBoundingClientRect().bottom")
    assert bottom <= page.value(f"{PANEL}.getBoundingClientRect().top")
    page.value("$('tab-read').click()")
    assert page.value("document.documentElement.scrollWidth") <= 360
    light = page.value("getComputedStyle(document.body).backgroundColor")
    page.look(width=360, dark=True)
    assert page.value("getComputedStyle(document.body).backgroundColor") != light


def test_every_field_has_a_label(page: Browser) -> None:
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((x) => !x.labels.length)"
    assert page.value(unnamed + ".length") == 0
    assert page.value("$('said').getAttribute('aria-live')") == "polite"
    page.value("$('tab-write').focus()")
    page.press("ArrowRight")
    assert page.value("document.activeElement.id") == "tab-read"
    assert page.value("$('tab-read').getAttribute('aria-selected')") == "true"
    assert page.value("$('write').hidden && !$('read').hidden")


def test_the_key_is_asked_for(started: Browser) -> None:
    with serving(key="secret", local=False) as server:
        started.open(server.address)
        started.wait_for("!$('key-asked').hidden")
        started.wait_for("$('error').textContent.includes('API key')")
        started.value("$('key').value = 'secret'; $('key').dispatchEvent(new Event('change'))")
        started.wait_for("model !== null && $('key-asked').hidden")
        assert len(write(started)) > len(PROMPT)
