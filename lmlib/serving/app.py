"""The HTTP side: OpenAI's API and the page, on top of the engine."""

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lmlib.model import TransformerLM
from lmlib.sampling import SamplingParams
from lmlib.separator import separator_id
from lmlib.serving.answers import Answer
from lmlib.serving.continuation import Continuation, Piece, Prompt
from lmlib.serving.engine import Engine, Job, Limits, Update
from lmlib.serving.errors import ApiError, ApiErrorResponse, as_json
from lmlib.serving.guard import Guard
from lmlib.serving.schema import CompletionRequest
from lmlib.tokenizer import Tokenizer

CHUNK_S = 0.02  # at least, between two chunks of a response: each costs as much as a step
PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Served:
    """What is served, and how.

    name:      of the model in the API
    created:   when it was made, in seconds since 1970
    defaults:  of sampling, on the page
    stride:    of the windows of long texts; see `lmlib.serving.scoring.score`
    key:       the API key; None: none is needed
    local:     listens on loopback only
    """

    model: TransformerLM
    tokenizer: Tokenizer
    name: str
    created: int
    defaults: SamplingParams
    stride: int
    limits: Limits
    key: str | None = None
    local: bool = True


class Service:
    """The engine, and the queues through which its results reach the requests."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.longest_token = max(map(len, served.tokenizer.vocab.values()))
        self.encoding = asyncio.Lock()  # a tokenizer's caches are for one thread
        self.queues: dict[Job, asyncio.Queue[tuple[Piece | ApiError, int]]] = {}
        loop = asyncio.get_running_loop()

        def deliver(updates: list[Update]) -> None:
            loop.call_soon_threadsafe(self._dispatch, updates)

        self.engine = Engine(served.model, served.limits, served.stride, deliver)

    def _dispatch(self, updates: list[Update]) -> None:
        for job, news, index in updates:
            if queue := self.queues.get(job):  # its client may have left
                queue.put_nowait((news, index))

    async def submit(self, asked: CompletionRequest) -> tuple[Job, Answer]:
        """Queue what was asked for; raise ApiError if it cannot be done."""
        params = self._params(asked)
        async with self.encoding:
            prompts = await asyncio.to_thread(self._prompts, asked)
        separator = separator_id(self.served.tokenizer.special_ids)
        continuations = [
            Continuation(
                i * asked.n + j,
                prompt,
                replace(params, seed=params.seed + j, max_tokens=max(1, asked.max_tokens)),
                self.served.tokenizer,
                stop_ids=[] if separator is None else [separator],
                max_tokens=asked.max_tokens,
                top=asked.logprobs,
                echo=asked.echo,
            )
            for i, prompt in enumerate(prompts)
            for j in range(asked.n)
        ]
        job = Job(continuations)
        self.queues[job] = asyncio.Queue()
        try:
            self.engine.submit(job)
        except ApiError:
            del self.queues[job]
            raise
        return job, Answer(asked, continuations, self.served.tokenizer)

    def leave(self, job: Job) -> None:
        """Forget a job, whether it has ended or not."""
        if self.queues.pop(job, None):
            self.engine.cancel(job)

    async def results(self, job: Job) -> AsyncIterator[dict[int, list[Piece]]]:
        """Yield all that is new, by the index of the continuation; raise the job's ApiError."""
        queue = self.queues[job]
        unfinished = len(job.continuations)
        while unfinished:
            news = [await queue.get()]
            while not queue.empty():
                news.append(queue.get_nowait())
            pieces: dict[int, list[Piece]] = {}
            for new, index in news:
                if isinstance(new, ApiError):
                    raise new
                pieces.setdefault(index, []).append(new)
                unfinished -= new.finish_reason is not None
            yield pieces
            if unfinished:
                await asyncio.sleep(CHUNK_S)

    def _params(self, asked: CompletionRequest) -> SamplingParams:
        served, limits = self.served, self.served.limits
        if asked.model != served.name:
            raise ApiError(
                404,
                f"the model {asked.model!r:.100} does not exist; this server has {served.name!r}",
                param="model",
                code="model_not_found",
            )
        if asked.max_tokens > limits.max_tokens:
            message = (
                f"max_tokens is {asked.max_tokens}; this server's limit is {limits.max_tokens}"
            )
            raise ApiError(400, message, param="max_tokens")
        if asked.detailed_logprobs and asked.logprobs is None:
            message = "detailed_logprobs needs logprobs; set it to a number from 0 to 20"
            raise ApiError(400, message, param="detailed_logprobs")
        if asked.stream_options and not asked.stream:
            message = "stream_options is only allowed when stream is true"
            raise ApiError(400, message, param="stream_options")
        for name, idle in {
            "best_of": asked.n if asked.best_of is not None else None,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "logit_bias": {},
        }.items():
            if getattr(asked, name) != idle:
                message = f"{name} is not supported by this server; leave it out"
                raise ApiError(400, message, param=name, code="unsupported_parameter")
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        try:
            return SamplingParams(
                prompts=(),
                max_tokens=max(1, asked.max_tokens),
                temperature=asked.temperature,
                top_k=asked.top_k,
                top_p=asked.top_p,
                seed=seed,
                num_samples=asked.n,
                min_p=asked.min_p,
                repetition_penalty=asked.repetition_penalty,
                stop=asked.stop,
            )
        except ValueError as error:
            message = str(error).replace("num_samples", "n")
            raise ApiError(400, message, param=message.partition(" ")[0]) from error

    def _prompts(self, asked: CompletionRequest) -> list[Prompt]:
        """Return the prompts as tokens; raise ApiError for one that is too long or not a prompt."""
        limits = self.served.limits
        if len(asked.prompt) * asked.n > limits.queue:
            raise ApiError(
                400,
                f"{len(asked.prompt)} prompts, {asked.n} texts each, are more than this server's "
                f"limit of {limits.queue} texts per request; send several requests",
                param="prompt" if asked.n == 1 else "n",
            )
        return [self._prompt(given, asked) for given in asked.prompt]

    def _prompt(self, given: str | list[int], asked: CompletionRequest) -> Prompt:
        tokenizer, model, limits = self.served.tokenizer, self.served.model, self.served.limits
        is_scored = asked.echo and asked.logprobs is not None
        context_length = model.params.context_length
        longest = context_length
        if is_scored and asked.max_tokens == 0:
            longest = max(longest, limits.scored_tokens)
        if isinstance(given, str):
            if len(given) > longest * self.longest_token:  # too long, however it is encoded
                raise self._too_long(f"more than {longest}", longest)
            try:
                ids = tokenizer.encode(
                    given, allowed_special="all" if asked.allow_special else "none"
                )
            except ValueError as error:
                raise ApiError(400, str(error), param="prompt") from error
        else:
            ids = given
            for token in ids:
                if token not in tokenizer.vocab:
                    raise ApiError(
                        400,
                        f"{token} is not a token id of this model, whose ids are below "
                        f"{tokenizer.vocab_size}; encode prompts with its tokenizer",
                        param="prompt",
                    )
        separator = separator_id(tokenizer.special_ids)
        add = isinstance(given, str) if asked.add_separator is None else asked.add_separator
        before = [separator] if add and separator is not None and ids[:1] != [separator] else []
        if len(before) + len(ids) > longest:
            raise self._too_long(str(len(before) + len(ids)), longest)
        if not before + ids:
            raise ApiError(400, "prompt is empty; give at least one token", param="prompt")
        return Prompt(before + ids, len(before), asked.logprobs if is_scored else None)

    def _too_long(self, size: str, longest: int) -> ApiError:
        return ApiError(
            400,
            f"the prompt has {size} tokens, and this model's maximum context length is "
            f"{self.served.model.params.context_length}"
            + (f" (texts that are only scored: {longest})" if longest != self.context else "")
            + "; shorten the prompt",
            param="prompt",
            code="context_length_exceeded",
        )

    @property
    def context(self) -> int:
        """The model's context length, in tokens."""
        return self.served.model.params.context_length

    def card(self) -> dict[str, Any]:
        """Return what /v1/models says of the model."""
        defaults = self.served.defaults
        return {
            "id": self.served.name,
            "object": "model",
            "created": self.served.created,
            "owned_by": "lmlib",
            "max_model_len": self.context,
            "max_tokens": self.served.limits.max_tokens,
            "max_scored_tokens": self.served.limits.scored_tokens,
            "defaults": {
                "max_tokens": defaults.max_tokens,
                "temperature": defaults.temperature,
                "top_p": defaults.top_p,
                "seed": defaults.seed,
            },
        }


class EventStream(StreamingResponse):
    """Server-sent events of a job, which ends with the response, however that ends."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, job: Job, content: AsyncIterator[str]) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store"})
        self.service, self.job = service, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until all are sent, or the client has left."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.service.leave(self.job)


def make_app(served: Served) -> FastAPI:
    """Return the application; its engine runs from startup to shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = Service(served)
        try:
            yield
        finally:
            service.engine.stop()

    app = FastAPI(
        title="lmlib",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from the network
        redoc_url=None,
        exception_handlers={
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.add_middleware(Guard, key=served.key, local=served.local)
    page, headers = _page()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers=headers)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": [request.app.state.service.card()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        if name != served.name:
            message = f"the model {name!r:.100} does not exist; this server has {served.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return _json(request.app.state.service.card())

    @app.post("/v1/completions")
    async def completions(
        asked: CompletionRequest, request: Request, add_separator: bool | None = None
    ) -> Response:
        service: Service = request.app.state.service
        if asked.add_separator is None:
            asked.add_separator = add_separator
        job, answer = await service.submit(asked)
        if asked.stream:
            return EventStream(service, job, _events(service, job, answer))
        try:
            pieces = await _unless_gone(request, _all(service, job))
            # in a thread: the logprobs of a long text are megabytes
            return await asyncio.to_thread(lambda: _json(answer.whole(pieces)))
        finally:
            service.leave(job)

    return app


async def _events(service: Service, job: Job, answer: Answer) -> AsyncIterator[str]:
    """Yield the chunks of a streamed response."""
    try:
        async for pieces in service.results(job):
            for index, new in pieces.items():
                yield _event(answer.chunk(index, new))
        if answer.wants_usage:
            yield _event(answer.chunk_of_usage())
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event({"error": error.error})


async def _all(service: Service, job: Job) -> dict[int, list[Piece]]:
    """Return all pieces of a job."""
    pieces: dict[int, list[Piece]] = {each.index: [] for each in job.continuations}
    async for new in service.results(job):
        for index, some in new.items():
            pieces[index] += some
    return pieces


async def _unless_gone(request: Request, work: Any) -> Any:
    """Return the result of `work`, which is cancelled when the client leaves."""
    working = asyncio.ensure_future(work)

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(wait_until_gone())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has left", code="client_left")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


def _event(content: dict[str, Any]) -> str:
    return f"data: {as_json(content)}\n\n"


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(as_json(content), status, media_type="application/json")


def _page() -> tuple[str, dict[str, str]]:
    """Return the page, and headers that allow it nothing but its own script, style and server."""
    text = PAGE.read_text(encoding="utf-8")

    def hashes(tag: str) -> str:
        parts = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = [hashlib.sha256(part.encode("utf-8")).digest() for part in parts]
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer a body that is not what the schema says, with its first fault."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    where = [str(part) for part in fault["loc"][1:]]
    param = ".".join(where) or None
    if fault["type"] == "json_invalid":
        message, param = f"the body is not JSON: {fault['ctx']['error']}", None
    elif fault["type"] == "extra_forbidden":
        message = f"{param:.100} is unknown; see `CompletionRequest` for the fields"
    elif param is None:
        message = "the body must be a JSON object, sent with `Content-Type: application/json`"
    else:
        text = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        message = f"{param} {text[:1].lower()}{text[1:]}"
    return ApiErrorResponse(ApiError(400, message, param=param))


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer with an error of ours, or of the framework in our form."""
    assert isinstance(error, HTTPException)
    if not isinstance(error, ApiError):
        messages = {
            404: "there is no such address; the API has /v1/completions and /v1/models",
            405: "this address does not take that method; POST to /v1/completions",
        }
        error = ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))
    return ApiErrorResponse(error)


async def _unexpected(_: Request, error: Exception) -> Response:
    """Answer a fault of the server; its traceback is logged."""
    return ApiErrorResponse(ApiError(500, "the server failed; its log says why"))
