"""Prompts and what continues them, as text and tokens that arrive piece by piece."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lmlib.sampling import SamplingParams, TextStream
from lmlib.serving.batch import Row, Scored
from lmlib.tokenizer import Tokenizer


@dataclass(eq=False)
class Prompt:
    """What a client gave.

    ids:     the tokens that the model reads
    hidden:  how many of the first ones the server added, which are not shown to the client
    top:     for how many of the most likely tokens to report logprobs; None: not to score it
    scores:  its tokens and their logprobs, as far as the engine has computed them
    """

    ids: list[int]
    hidden: int
    top: int | None = None
    scores: list[Scored] = field(default_factory=list)
    scoring: Iterator[list[Scored]] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all is computed that the client wants to know of it."""
        return self.top is None or len(self.scores) == len(self.ids)


@dataclass(frozen=True)
class Entry:
    """A token in a text: its bytes, and the character of the text at which it begins.

    A token that begins inside a character has that character's offset.
    """

    token: Scored
    data: bytes
    offset: int


@dataclass(frozen=True)
class Piece:
    """New text, and the tokens that begin in it; `finish_reason` (stop, length) is in the last."""

    text: str
    entries: tuple[Entry, ...] = ()
    finish_reason: str | None = None


@dataclass
class Spelling:
    """The bytes of tokens in a row, and where each begins, in characters of their text."""

    tokenizer: Tokenizer
    offset: int = 0
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def entry(self, token: Scored) -> Entry:
        """Return the next token's entry."""
        data, offset = self.tokenizer.vocab[token.id], self.offset
        self.offset += len(self.decoder.decode(data))
        return Entry(token, data, offset)


class Continuation:
    """A continuation of a prompt: its row in the batch, and its text.

    A piece of text is given out when no later token can change it: whole characters, and nothing
    that may become a stop text. With it go the tokens that begin in it, so that at every moment a
    client has the tokens of the text that it has. A token that ends the text (the separator) comes
    last, with no text of its own.

    index:          its number among those of a request
    finish_reason:  stop or length; None until it has ended
    """

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        params: SamplingParams,
        tokenizer: Tokenizer,
        *,
        stop_ids: Sequence[int],
        max_tokens: int,
        top: int | None,
        echo: bool,
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.echo = echo
        self.stop_ids = frozenset(stop_ids)
        self.row = Row(list(prompt.ids), params, top)
        self.finish_reason: str | None = None
        self.spelling = Spelling(tokenizer)
        self.stream = TextStream(params.stop)
        # a character that the prompt began belongs to the text, where it ends
        given = tokenizer.decode_bytes(prompt.ids[prompt.hidden :])
        self.before = self.stream.decoder.decode(given)
        self.shown = len(self.before)  # characters
        self.held: list[Entry] = []

    def begin(self) -> Piece | None:
        """Return the prompt, if it is echoed; to call once, when its scores are known."""
        scores = self.prompt.scores or [Scored(token) for token in self.prompt.ids]
        entries = [self.spelling.entry(token) for token in scores[self.prompt.hidden :]]
        text = self.before if self.echo else ""
        if self.max_tokens == 0:
            self.finish_reason = "length"
            rest = self.stream.close()
            self.shown += len(rest)
            text += rest if self.echo else ""
        if not self.echo:
            return Piece("", finish_reason=self.finish_reason) if self.finish_reason else None
        self.held = entries
        return Piece(text, self._released(), self.finish_reason)

    def take(self, token: Scored) -> Piece | None:
        """Add a token that was drawn; return what is now final."""
        if token.id in self.stop_ids:
            text, self.finish_reason = self.stream.close(), "stop"
            self.shown += len(text)
            end = Entry(token, self.spelling.tokenizer.vocab[token.id], self.shown)
            return Piece(text, (*self._released(), end), "stop")
        self.held.append(self.spelling.entry(token))
        text = self.stream.push(self.held[-1].data)
        if self.stream.stopped:
            self.finish_reason = "stop"
        elif self.row.drawn == self.max_tokens:
            self.finish_reason = "length"
            text += self.stream.close()
        self.shown += len(text)
        entries = self._released()
        if text or entries or self.finish_reason:
            return Piece(text, entries, self.finish_reason)
        return None

    def _released(self) -> tuple[Entry, ...]:
        """Return the held tokens that begin in the text shown so far."""
        released = tuple(entry for entry in self.held if entry.offset < self.shown)
        self.held = self.held[len(released) :]
        return released
