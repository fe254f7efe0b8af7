"""The requests that the API understands: OpenAI's completions, and a few fields of our own."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_LOGPROBS = 20  # as in OpenAI's chat API; its completions allow 5
MAX_STOPS = 16  # as many; OpenAI allows 4
MAX_STOP_CHARACTERS = 1000


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """Return a prompt in any of its four forms as a list of texts or of rows of token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if all(type(item) is str for item in value):
            return value
        if all(type(row) is list and all(type(item) is int for item in row) for row in value):
            return value
    raise ValueError(
        "must be a text, a list of texts, a list of token ids, or a list of such lists"
    )


def _stops(value: Any) -> tuple[str, ...]:
    """Return one stop text or a list of them as a tuple."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(type(text) is str and text for text in texts):
        raise ValueError("must be a text or a list of texts, none of them empty")
    if len(texts) > MAX_STOPS or max(map(len, texts), default=0) > MAX_STOP_CHARACTERS:
        raise ValueError(
            f"has too many or too long texts; at most {MAX_STOPS} of up to {MAX_STOP_CHARACTERS} "
            "characters are allowed"
        )
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise ValueError("has half of a surrogate pair, which no UTF-8 can hold")
    return tuple(texts)


class Schema(BaseModel):
    """Fields of exactly these types; a field that is unknown is an error; null: the default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if value is not None}
        return values


class StreamOptions(Schema):
    """include_usage: a last chunk, without choices, has the usage of the whole request."""

    include_usage: bool = False
    include_obfuscation: bool = False  # of OpenAI, against listeners; nothing is added here


class CompletionRequest(Schema):
    """The body of POST /v1/completions.

    Fields that OpenAI's API lacks:

    top_k, min_p, repetition_penalty    as in params.yaml, section sampling
    allow_special       read special tokens in prompts as such; otherwise they are ordinary text
    add_separator       put the token between documents before each prompt that does not begin with
                        it, as in training: by default before texts, and not before token ids. It
                        counts as a token of the prompt, but is not echoed. A client that cannot
                        send the field can use the address /v1/completions?add_separator=true
    detailed_logprobs   with logprobs: `logprobs.content` has an object for each token, as in the
                        chat API (token, logprob, bytes, top_logprobs), with `id`
    """

    model: str
    prompt: Annotated[Any, BeforeValidator(_prompts)] = [""]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: Annotated[int, Field(ge=1)] = 1
    seed: int | None = None
    stop: Annotated[Any, BeforeValidator(_stops)] = ()
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None  # no use is made of it

    # of OpenAI; only with the values that change nothing
    best_of: int | None = None
    suffix: Literal[""] = ""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] = {}

    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    allow_special: bool = False
    add_separator: bool | None = None
    detailed_logprobs: bool = False
