"""Find special tokens in a text, however many there are."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import regex

PREFIX = 8  # characters of a token that a place is tested for, before all of it
FEW_PREFIXES = 16  # that one regular expression searches for faster than a set


class SpecialTokens:
    """Finds tokens; of several that begin at the same place, the longest counts.

    A place is tested for the prefixes of the tokens first. Where it has one, a trie finds the
    longest token: dictionaries by the next character, and "" where a token ends. A branch with a
    single token is the token itself.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.reach = max(map(len, tokens), default=1) - 1
        self._trie: dict[str, Any] = {}
        self._widths: dict[str, int] = {}  # first character -> size of prefix
        for token in tokens:
            self._add(token)
            width = self._widths.get(token[0], PREFIX)
            self._widths[token[0]] = min(width, len(token))
        self._prefixes = {token[: self._widths[token[0]]] for token in tokens}
        self._few = None
        if len(self._prefixes) <= FEW_PREFIXES:
            self._few = regex.compile("|".join(map(regex.escape, self._prefixes)) or "(?!)")

    def _add(self, token: str) -> None:
        node: dict[str, Any] = self._trie
        for depth, character in enumerate(token):
            child = node.setdefault(character, token)
            if child is token:
                return
            if isinstance(child, str):
                node[character] = child = {child[depth + 1 : depth + 2]: child}
            node = child
        node[""] = token

    def _end(self, text: str, start: int, end: int) -> int:
        """Return the end of the longest token of text[:end] that begins at `start`, or `start`."""
        node, longest = self._trie, start
        for place in range(start, end):
            child = node.get(text[place])
            if child is None:
                break
            if isinstance(child, str):
                return start + len(child) if text.startswith(child, start, end) else longest
            node = child
            if "" in node:
                longest = place + 1
        return longest

    def _candidates(self, text: str, start: int, end: int) -> Iterable[int]:
        """Return the places in text[start:end] at which a token may begin, in ascending order."""
        if self._few:
            found = self._few.finditer(text, start, end, overlapped=True)
            return (match.start() for match in found)
        widths = map(self._widths.get, text[start:end])
        return (
            place
            for place, width in enumerate(widths, start)
            if width and text[place : place + width] in self._prefixes
        )

    def everywhere(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the longest token at each place in text[start:end]."""
        for place in self._candidates(text, start, end):
            stop = self._end(text, place, end)
            if stop > place:
                yield place, stop

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the tokens from left to right; where two overlap, the first."""
        if self._few and not self._few.search(text):  # most texts: sooner known than iterated
            return
        done = 0
        for start, end in self.everywhere(text, 0, len(text)):
            if start >= done:
                yield start, end
                done = end
