"""The API, as the `openai` client and plain HTTP see it."""

import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import openai
import pytest

from lmlib.sampling import generate_samples, generate_text
from lmlib.separator import SEPARATOR
from lmlib.serving import guard
from lmlib.serving.engine import Limits
from tests.serving.running import MODEL, SAMPLING, SEPARATOR_ID, TOKENIZER, Server, serving

LIMITS = Limits(batch=8, queue=16, max_tokens=2000, scored_tokens=100)
BODY = {"model": "lm", "prompt": "ab", "max_tokens": 3, "seed": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(limits=LIMITS) as server:
        yield server


def post(
    server: Server, body: Any, headers: dict[str, str] | None = None, path: str = "/v1/completions"
) -> tuple[int, Any]:
    """Return the status and the JSON of an answer; `body` may be bytes."""
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    data = body if isinstance(body, bytes) else json.dumps(body)
    with closing(connection):
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request("POST", path, data, sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


# -- what it answers


def test_models(server: Server) -> None:
    (model,) = server.client.models.list().data
    assert (model.id, model.object, model.created, model.owned_by) == ("lm", "model", 1, "lmlib")
    assert server.client.models.retrieve("lm") == model
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        server.client.models.retrieve("other")


def test_the_text_is_that_of_stages_sample(server: Server) -> None:
    """With the separator before the prompt, and for as long as it takes the window to slide."""
    prompts = ["ab", "", "日本"]
    params = replace(SAMPLING, max_tokens=60, temperature=0.7, top_p=0.9, num_samples=2)
    expected = generate_samples(MODEL, TOKENIZER, prompts, params)
    answer = server.complete(prompt=prompts, max_tokens=60, temperature=0.7, top_p=0.9, seed=5, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    got = [(choice.text, choice.finish_reason) for choice in answer.choices]
    assert got == [(each.text, each.finish_reason) for some in expected for each in some]
    drawn = sum(
        len(each.tokens) + (each.finish_reason == "stop") for some in expected for each in some
    )
    ids = sum(1 + len(TOKENIZER.encode(prompt)) for prompt in prompts)
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": ids,
        "completion_tokens": drawn,
        "total_tokens": ids + drawn,
    }
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert abs(answer.created - time.time()) < 60
    assert answer.model == "lm"


def test_options_of_params_yaml(server: Server) -> None:
    options = {"top_k": 4, "min_p": 0.01, "repetition_penalty": 1.3}
    params = replace(SAMPLING, max_tokens=20, stop=("e",), **options)  # type: ignore[arg-type]
    ((text,),) = generate_text(MODEL, TOKENIZER, ["ab"], params)
    answer = server.complete(prompt="ab", max_tokens=20, seed=5, stop="e", **options)
    assert answer.choices[0].text == text


def test_prompts_of_token_ids(server: Server) -> None:
    """They are taken as they are, without a separator, unless one is asked for."""
    ids = TOKENIZER.encode("ab a")
    text = server.complete(prompt="ab a", seed=5).choices[0].text
    assert server.complete(prompt=[SEPARATOR_ID, *ids], seed=5).choices[0].text == text
    assert server.complete(prompt=ids, seed=5, add_separator=True).choices[0].text == text
    once = server.complete(prompt=[SEPARATOR_ID, *ids], seed=5, add_separator=True)
    assert (once.choices[0].text, once.usage.prompt_tokens) == (text, 1 + len(ids))
    bare = server.complete(prompt=ids, seed=5)
    assert bare.choices[0].text != text
    assert bare.usage.prompt_tokens == len(ids)
    assert server.complete(prompt="ab a", seed=5, add_separator=False).choices == bare.choices
    body = {**BODY, "prompt": ids, "max_tokens": 16}
    answered = post(server, body, path="/v1/completions?add_separator=true")[1]
    assert answered["choices"][0]["text"] == text
    answer = server.complete(prompt=[ids, [1, 2]], seed=5)
    assert answer.choices[0].text == bare.choices[0].text


def test_special_tokens_are_text_unless_allowed(server: Server) -> None:
    text = f"a{SEPARATOR}b"
    plain = server.complete(prompt=text, max_tokens=0, echo=True, logprobs=0)
    assert len(plain.choices[0].logprobs.tokens) == len(text)
    special = server.complete(prompt=text, max_tokens=0, echo=True, logprobs=0, allow_special=True)
    assert special.choices[0].logprobs.tokens == ["a", SEPARATOR, "b"]
    assert plain.choices[0].text == special.choices[0].text == text


def test_without_a_seed_texts_differ(server: Server) -> None:
    texts = {server.complete(prompt="ab", max_tokens=20).choices[0].text for _ in range(3)}
    assert len(texts) == 3


def test_echo_scores_the_prompt(server: Server) -> None:
    """What lm-eval's local-completions asks for: its sums leave out the token that is drawn."""
    ids = [1, 2, 3, 4, 250]
    answer = server.complete(
        prompt=[ids, [7]], echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234
    )
    first, second = (choice.logprobs for choice in answer.choices)
    assert len(first.tokens) == len(first.token_logprobs) == len(first.top_logprobs) == 6
    assert first.token_logprobs[0] is None
    assert first.top_logprobs[0] is None
    assert len(second.tokens) == 2
    assert first.token_logprobs[-1] == max(first.top_logprobs[-1].values())
    for logprob, top in zip(first.token_logprobs[1:], first.top_logprobs[1:], strict=True):
        assert logprob in top.values()
        assert len(top) in (1, 2)
    # the same without a token more, and as the prompt's own continuation
    only = server.complete(prompt=ids, echo=True, logprobs=1, max_tokens=0).choices[0]
    assert only.logprobs.token_logprobs == first.token_logprobs[:5]
    assert only.finish_reason == "length"
    forced = server.complete(prompt=ids[:4], logprobs=20, max_tokens=1, temperature=0, seed=5)
    assert max(forced.choices[0].logprobs.top_logprobs[0].values()) == pytest.approx(
        max(first.top_logprobs[4].values()), abs=1e-5
    )


def test_a_token_that_ends_the_text_is_among_the_logprobs(server: Server) -> None:
    """Else lm-eval, which leaves out the last one, would leave out one of the prompt."""
    answers = (
        server.complete(prompt="ab", max_tokens=30, seed=seed, logprobs=0) for seed in range(200)
    )
    answer = next(each for each in answers if each.choices[0].finish_reason == "stop")
    choice = answer.choices[0]
    assert choice.logprobs.tokens[-1] == SEPARATOR
    assert SEPARATOR not in choice.text
    assert len(choice.logprobs.tokens) == answer.usage.completion_tokens


def test_logprobs_spell_parts_of_characters(server: Server) -> None:
    answer = server.complete(prompt="日a", max_tokens=0, echo=True, logprobs=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["bytes:\\xe6\\x97", "bytes:\\xa5", "a"]
    assert logprobs.text_offset == [0, 0, 1]
    assert answer.choices[0].text == "日a"


def test_detailed_logprobs(server: Server) -> None:
    """Of the same tokens, with ids and bytes, and in an order that any language keeps."""
    answer = server.complete(
        prompt="日a", max_tokens=4, echo=True, logprobs=3, detailed_logprobs=True, seed=5
    )
    logprobs = answer.choices[0].logprobs
    assert [token["token"] for token in logprobs.content] == logprobs.tokens
    assert [token["logprob"] for token in logprobs.content] == logprobs.token_logprobs
    assert [token["id"] for token in logprobs.content[:3]] == TOKENIZER.encode("日a")
    for token in logprobs.content:
        assert bytes(token["bytes"]) == TOKENIZER.vocab[token["id"]]
        nats = [other["logprob"] for other in token["top_logprobs"]]
        assert nats == sorted(nats, reverse=True)
        assert len(nats) == 3


@pytest.mark.parametrize("options", [{}, {"echo": True}, {"stop": ["a", "e"]}, {"n": 3}])
def test_a_stream_says_what_the_whole_answer_says(server: Server, options: dict[str, Any]) -> None:
    asked = {"prompt": ["ab", "c"], "max_tokens": 30, "seed": 5, "logprobs": 2, **options}
    whole = server.complete(**asked)
    stream = server.complete(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    *chunks, last = chunks
    assert (last.choices, last.usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        reasons = [part.finish_reason for part in parts]
        assert reasons == [None] * (len(parts) - 1) + [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [item for part in parts for item in getattr(part.logprobs, name)]
            assert joined == getattr(choice.logprobs, name)


def test_a_stream_without_usage(server: Server) -> None:
    chunks = list(server.complete(prompt="ab", stream=True))
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert "usage" not in chunks[-1].model_fields_set


def test_each_client_gets_the_text_that_it_gets_alone(server: Server) -> None:
    """16 clients with prompts and options of their own, twice as many as are decoded together."""

    def ask(number: int) -> Any:
        return server.complete(
            prompt="ab a"[: number % 5] + chr(97 + number),
            seed=number % 3,
            max_tokens=20 + 5 * number,
            temperature=number % 4 / 2,
            top_p=1 - number % 5 / 10,
            logprobs=number % 3,
            echo=number % 2 == 0,
        ).choices

    alone = [ask(number) for number in range(16)]
    together: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda number=number: together.update({number: ask(number)}))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(16)] == alone


# -- what it refuses


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"prompt": 5}, "prompt", "prompt must be a text, a list of texts, a list of token ids"),
        ({"prompt": []}, "prompt", "must be a text"),
        ({"prompt": [1, "a"]}, "prompt", "must be a text"),
        ({"prompt": [True]}, "prompt", "must be a text"),
        ({"prompt": [[]]}, "prompt", "prompt is empty; give at least one token"),
        ({"prompt": "", "add_separator": False}, "prompt", "prompt is empty"),
        ({"prompt": [5000]}, "prompt", "5000 is not a token id of this model"),
        ({"prompt": [-1]}, "prompt", "-1 is not a token id"),
        ({"prompt": "\ud800"}, "prompt", "lone surrogate"),
        ({"prompt": ["a"] * 17}, "prompt", "17 prompts, 1 texts each, are more than"),
        ({"n": 17}, "n", "1 prompts, 17 texts each, are more than"),
        ({"n": 0}, "n", "n should be greater than or equal to 1"),
        ({"max_tokens": 2001}, "max_tokens", "this server's limit is 2000"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": "5"}, "max_tokens", "max_tokens should be a valid integer"),
        ({"temperature": -1}, "temperature", "it must be 0, or from 1e-30 to 1e30"),
        ({"temperature": math.nan}, "temperature", "temperature should be a finite number"),
        ({"top_p": 0}, "top_p", "it must be from 1e-30 to 1"),
        ({"seed": -1}, "seed", "from 0 to 2**63 - 1"),
        ({"seed": 2**63 - 1, "n": 2}, "seed", "lower seed"),
        ({"stop": ["a", ""]}, "stop", "stop must be a text or a list of texts, none of them empty"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": "\ud800"}, "stop", "half of a surrogate pair"),
        ({"stop": ["a", "b\udfff"]}, "stop", "half of a surrogate pair"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"detailed_logprobs": True}, "detailed_logprobs", "needs logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "when stream is true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "is unknown"),
        ({"best_of": 2}, "best_of", "best_of is not supported by this server; leave it out"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"suffix": "x"}, "suffix", "suffix should be ''"),
        ({"temprature": 1}, "temprature", "temprature is unknown"),
    ],
)
def test_faults_of_a_request(
    server: Server, change: dict[str, Any], param: str, message: str
) -> None:
    status, answer = post(server, {**BODY, **change})
    assert status == 400
    assert message in answer["error"]["message"]
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_null_is_the_default(server: Server) -> None:
    nulls = dict.fromkeys(["temperature", "n", "stop", "logprobs", "suffix", "user", "best_of"])
    assert post(server, {**BODY, **nulls})[1]["choices"] == post(server, BODY)[1]["choices"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[" * 100_000, "error"),
        (b"\xff", "error"),
        (b"[]", "the body must be a JSON object"),
        (b"", "the body must be a JSON object"),
        (b'{"prompt": "a"}', "model"),
        (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', "larger than 1048576 bytes"),
    ],
)
def test_bodies_that_are_not_requests(server: Server, body: bytes, message: str) -> None:
    status, answer = post(server, body)
    assert status in (400, 413)
    assert message in answer["error"]["message"]


def test_a_body_that_does_not_come(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.2)
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    with closing(connection):
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        answer = connection.getresponse()
        assert answer.status == 408
        assert "did not arrive within 0.2 s" in json.loads(answer.read())["error"]["message"]


def test_another_content_type(server: Server) -> None:
    """Such as text/plain, with which pages of other origins could send without asking."""
    status, answer = post(server, BODY, {"Content-Type": "text/plain"})
    assert status == 400
    assert "Content-Type: application/json" in answer["error"]["message"]


def test_addresses_and_methods_that_do_not_exist(server: Server) -> None:
    status, answer = post(server, BODY, path="/v1/chat/completions")
    assert (status, answer["error"]["type"]) == (404, "invalid_request_error")
    assert "/v1/completions" in answer["error"]["message"]
    assert post(server, BODY, path="/v1/models")[0] == 405


def test_the_client_raises_what_the_server_says(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'gpt' does not exist") as not_found:
        server.complete(model="gpt", prompt="a")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(
        openai.BadRequestError, match=r"25 tokens.*context length is 24"
    ) as too_long:
        server.complete(prompt="a" * 24)
    assert too_long.value.code == "context_length_exceeded"
    assert too_long.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="more than 24 tokens"):
        server.complete(prompt="a" * 100_000)


def test_longer_texts_can_be_scored(server: Server) -> None:
    """Nothing else: a text that is written needs the context."""
    answer = server.complete(prompt="b" * 99, max_tokens=0, echo=True, logprobs=0)
    assert len(answer.choices[0].logprobs.tokens) == 99
    with pytest.raises(openai.BadRequestError, match="texts that are only scored: 100"):
        server.complete(prompt="b" * 100, max_tokens=0, echo=True, logprobs=0)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 24"):
        server.complete(prompt="b" * 99, max_tokens=1, echo=True, logprobs=0)


def test_a_long_text_is_scored_between_the_steps_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window at a time: who waits for the next token does not wait for the whole text."""
    events: list[str] = []
    with serving(limits=Limits(batch=2)) as server:
        engine = server.service.engine
        hidden, step = MODEL.hidden, engine.batch.step
        stream = long_request(server)
        next(stream)
        monkeypatch.setattr(MODEL, "hidden", lambda ids: events.append("window") or hidden(ids))
        monkeypatch.setattr(engine.batch, "step", lambda: events.append("step") or step())
        server.complete(prompt="b" * 200, max_tokens=0, echo=True, logprobs=0)
        stream.close()
    windows = [number for number, event in enumerate(events) if event == "window"]
    assert len(windows) == 11  # of 24 tokens, then of 18 more each
    assert all(later > earlier + 1 for earlier, later in pairwise(windows))


# -- limits, and clients that leave


def long_request(server: Server, **options: Any) -> Any:
    """Start a text that takes seconds."""
    return server.complete(prompt="b", max_tokens=2000, stream=True, temperature=0, **options)


def test_a_full_queue() -> None:
    with serving(limits=Limits(batch=1, queue=2)) as server:
        running = long_request(server)
        next(running)
        waiting = [
            threading.Thread(target=server.complete, kwargs={"prompt": "a", "max_tokens": 1})
            for _ in range(2)
        ]
        for thread in waiting:
            thread.start()
        server.wait_until(lambda: len(server.service.engine.waiting) == 2)
        with pytest.raises(openai.RateLimitError, match="busy: 2 texts wait, and 1 more") as busy:
            server.complete(prompt="a", max_tokens=1)
        assert busy.value.code == "server_busy"
        assert busy.value.response.headers["Retry-After"] == "1"
        assert len(server.service.queues) == 3
        running.close()
        for thread in waiting:
            thread.join()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_client_that_leaves_stops_costing(batch: int) -> None:
    """While its text is written or waits, streamed or not."""
    with serving(limits=Limits(batch=batch)) as server:
        engine = server.service.engine
        stream = long_request(server)
        next(stream)
        for streamed in (True, False):
            body = {**BODY, "max_tokens": 2000, "temperature": 0, "stream": streamed}
            connection = http.client.HTTPConnection(server.address.removeprefix("http://"))
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            server.wait_until(lambda: len(engine.running) == batch)
            server.wait_until(lambda: len(engine.waiting) == 2 - batch)
            assert isinstance(connection.sock, socket.socket)
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
            server.wait_until(lambda: (len(engine.running), len(engine.waiting)) == (1, 0))
        stream.close()
        server.wait_until(lambda: not engine.running and not engine.batch.rows)
        assert server.service.queues == {}
        assert server.complete(prompt="a", max_tokens=1).usage.completion_tokens == 1


def test_the_limit_on_time() -> None:
    """Of a text that is written, and of one that waits; then the server serves others."""
    with serving(limits=Limits(batch=1, seconds=0.5)) as server:
        stream = long_request(server)
        with pytest.raises(openai.APIError, match=r"longer than the server's limit of 0.5 s"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match=r"limit of 0.5 s") as late:
            server.complete(prompt="b", max_tokens=4000, temperature=0)
        assert late.value.status_code == 504
        assert late.value.code == "timeout"
        assert server.service.queues == {}
        assert server.complete(prompt="a", max_tokens=1).usage.completion_tokens == 1


def test_a_failure_of_the_model_is_told_to_all_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as server:
        batch = server.service.engine.batch

        def fail() -> None:
            raise FloatingPointError("the model's logits are not finite: its training diverged")

        with monkeypatch.context() as broken:
            broken.setattr(batch, "step", fail)
            with pytest.raises(openai.InternalServerError, match="its training diverged"):
                server.complete(prompt="a")
            with pytest.raises(openai.APIError, match="its training diverged"):
                list(server.complete(prompt="a", stream=True))
        assert "the requests in progress failed" in caplog.text
        assert server.service.queues == {}
        assert batch.rows == []
        assert server.complete(prompt="a", max_tokens=1).usage.completion_tokens == 1


# -- who may use it


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),  # DNS rebinding
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Host": "["}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),  # a file, or a frame in a sandbox
        ({"Origin": "http://["}, 403),
    ],
)
def test_pages_of_other_origins(server: Server, headers: dict[str, str], status: int) -> None:
    got, answer = post(server, BODY, headers)
    assert got == status
    if status == 403:
        assert answer["error"]["code"] in ("wrong_host", "wrong_origin")


def test_the_key() -> None:
    """The page itself needs none, so that it can ask for it; any host name may lead here."""
    with serving(key="schlüssel", local=False) as server:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "schlüssel"}):
            encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
            status, answer = post(server, BODY, encoded)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        right = {"Authorization": "Bearer schlüssel".encode().decode("latin-1")}
        assert post(server, BODY, {**right, "Host": "lm.example"})[0] == 200
        assert post(server, BODY, {**right, "Origin": "http://evil.example"})[0] == 403
        connection = http.client.HTTPConnection(server.address.removeprefix("http://"))
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    with serving(key="secret") as server:
        assert server.complete(prompt="a", max_tokens=1).usage.completion_tokens == 1
        with pytest.raises(openai.AuthenticationError, match="a valid API key is missing"):
            server.client.with_options(api_key="other").models.list()
