"""Responses in the form of OpenAI's API."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lmlib.serving.batch import Scored
from lmlib.serving.continuation import Continuation, Entry, Piece
from lmlib.serving.schema import CompletionRequest
from lmlib.tokenizer import Tokenizer


class Answer:
    """Turns the pieces of a request's continuations into responses."""

    def __init__(
        self, asked: CompletionRequest, continuations: Sequence[Continuation], tokenizer: Tokenizer
    ) -> None:
        self.asked = asked
        self.continuations = continuations
        self.vocab = tokenizer.vocab
        self.wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self.frame = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }

    def whole(self, pieces: Mapping[int, Sequence[Piece]]) -> dict[str, Any]:
        """Return the response that is not streamed."""
        choices = [self._choice(index, new) for index, new in sorted(pieces.items())]
        return {**self.frame, "choices": choices, "usage": self._usage()}

    def chunk(self, index: int, new: Sequence[Piece]) -> dict[str, Any]:
        """Return a chunk of a streamed response: what is new of one continuation."""
        chunk = {**self.frame, "choices": [self._choice(index, new)]}
        return {**chunk, "usage": None} if self.wants_usage else chunk

    def chunk_of_usage(self) -> dict[str, Any]:
        """Return the last chunk of a streamed response whose client wants the usage."""
        return {**self.frame, "choices": [], "usage": self._usage()}

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        entries = [entry for piece in pieces for entry in piece.entries]
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": None if self.asked.logprobs is None else self._logprobs(entries),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _usage(self) -> dict[str, int]:
        """Count the tokens of each prompt once, and all that were drawn."""
        prompts = {id(each.prompt): len(each.prompt.ids) for each in self.continuations}
        prompt_tokens = sum(prompts.values())
        drawn = sum(each.row.drawn for each in self.continuations)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": drawn,
            "total_tokens": prompt_tokens + drawn,
        }

    def _logprobs(self, entries: Sequence[Entry]) -> dict[str, Any]:
        logprobs: dict[str, Any] = {
            "tokens": [spelt(entry.data) for entry in entries],
            "token_logprobs": [entry.token.logprob for entry in entries],
            "top_logprobs": [self._top(entry.token) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
        }
        if self.asked.detailed_logprobs:
            logprobs["content"] = [
                {
                    **self._detailed(entry.token.id, entry.token.logprob),
                    "top_logprobs": [self._detailed(*pair) for pair in entry.token.top],
                }
                for entry in entries
            ]
        return logprobs

    def _top(self, token: Scored) -> dict[str, float] | None:
        """Return the logprobs of the most likely tokens, and of the token itself."""
        if token.logprob is None:
            return None
        top = {spelt(self.vocab[other]): logprob for other, logprob in token.top}
        return {**top, spelt(self.vocab[token.id]): token.logprob}

    def _detailed(self, token: int, logprob: float | None) -> dict[str, Any]:
        data = self.vocab[token]
        return {"id": token, "token": spelt(data), "logprob": logprob, "bytes": list(data)}


def spelt(data: bytes) -> str:
    r"""Return a token as text or, if it is not whole characters, as OpenAI does: bytes:\xe2\x80."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
