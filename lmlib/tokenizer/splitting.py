"""Cut text at special tokens, and cut streams and files where no pre-token can be harmed."""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import regex

from lmlib.tokenizer.patterns import find_pattern

# Bytes of a file looked at first when a cut is sought; doubled until there is one.
CUT_WINDOW = 1 << 14


def check_special_tokens(special_tokens: Iterable[str] | None) -> list[str]:
    """Return the special tokens without repeats; raise ValueError for one that cannot be found."""
    if isinstance(special_tokens, str):
        raise ValueError(
            f"special_tokens is the text {special_tokens!r}; it should be a list of texts: "
            f"write [{special_tokens!r}]."
        )
    tokens = list(dict.fromkeys(special_tokens or ()))
    for token in tokens:
        if not isinstance(token, str) or not token:
            raise ValueError(
                f"special_tokens holds {token!r}; a special token is a text of at least one "
                "character: remove it or give it a name such as '<|endoftext|>'."
            )
        encode_strictly(token, "special_tokens")
    return tokens


def encode_strictly(text: str, where: str) -> bytes:
    """Return the UTF-8 bytes; raise ValueError where a lone surrogate makes that impossible."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}, which UTF-8 cannot hold. Repair the text with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from error


class Splitter:
    """Cuts for one pattern and one set of special tokens.

    Text is `str`. Bytes that are no UTF-8 stand in it as lone surrogates (`surrogateescape`),
    one each, which every pattern treats like punctuation: they survive encoding unchanged.
    """

    def __init__(self, pattern: str, special_tokens: Iterable[str]) -> None:
        self.pattern = pattern
        # Longest first: alternatives are tried in order, so the longest match wins.
        self.special_tokens = sorted(special_tokens, key=len, reverse=True)
        self._reach = max(map(len, self.special_tokens), default=1) - 1
        self._reach_bytes = max((len(t.encode()) for t in self.special_tokens), default=1) - 1
        escaped = [regex.escape(token) for token in self.special_tokens]
        self._special = regex.compile("|".join(escaped)) if escaped else None
        cut = find_pattern(pattern).cut
        self._candidates = regex.compile("|".join([*escaped, cut] if cut else escaped) or "(?!)")

    def __reduce__(self) -> tuple:
        return (Splitter, (self.pattern, self.special_tokens))

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield (piece, is_special) from left to right; the pieces join to the text."""
        start = 0
        for match in self._special.finditer(text) if self._special else ():
            if start < match.start():
                yield text[start : match.start()], False
            yield match[0], True
            start = match.end()
        if start < len(text):
            yield text[start:], False

    @cached_property
    def special_bytes(self) -> re.Pattern[bytes] | None:
        """An expression that finds the special tokens in bytes, longest match first."""
        tokens = sorted((token.encode() for token in self.special_tokens), key=len, reverse=True)
        return re.compile(b"|".join(map(re.escape, tokens))) if tokens else None

    def _is_inside_special(self, text: str, place: int) -> bool:
        """Tell whether some occurrence of a special token begins before and ends after `place`."""
        return any(
            text.find(token, max(0, place - len(token) + 1), place + len(token) - 1) >= 0
            for token in self.special_tokens
        )

    def cuts(self, text: str, first: int, last: int) -> Iterator[int]:
        """Yield cuts c with first <= c <= last, ascending.

        The caller vouches that no special token reaches into the text from outside past `first`
        or `last`. An occurrence of a special token is certainly cut out when no other one runs
        over its start or its end; with overlapping special tokens others may not be.
        """
        for match in self._candidates.finditer(text, max(0, first - self._reach - 1)):
            if match.end() > last:
                return
            if match.end() < first or self._is_inside_special(text, match.end()):
                continue
            if match.start() < match.end() and self._is_inside_special(text, match.start()):
                continue
            yield match.end()

    def last_cut(self, text: str) -> int:
        """Return the last cut in a text that goes on after its end, or 0 when there is none."""
        # Behind `end` an unseen character could still complete a special token or a pair.
        end = len(text) - max(1, self._reach)
        width = 256
        while end > 0:
            start = max(1, end - width)
            place = max(self.cuts(text, start, end), default=0)
            if place or start == 1:
                return place
            width *= 4
        return 0

    def chunks(self, path: Path, chunk_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) byte ranges of a file, cut safely about every `chunk_bytes`."""
        size = path.stat().st_size
        start = 0
        while start < size:
            end = self._file_cut(path, start + chunk_bytes, size)
            yield start, end
            start = end

    def _file_cut(self, path: Path, target: int, size: int) -> int:
        """Return the first safe cut at or after byte `target`, or the size of the file."""
        margin = 2 * self._reach_bytes + 4  # special tokens left of the target, and one character
        window = CUT_WINDOW
        with path.open("rb") as file:
            while target + margin < size:
                start = max(0, target - margin)
                file.seek(start)
                data = file.read(target + window - start)
                # A window may begin inside a character: step over up to 3 continuation bytes.
                skip = 0
                while start and skip < 3 and data[skip] & 0xC0 == 0x80:
                    skip += 1
                text = data[skip:].decode("utf-8", "surrogateescape")
                before = data[skip : target - start].decode("utf-8", "surrogateescape")
                # The last 3 bytes may be the beginning of a character and not what they seem.
                last = len(text) - self._reach - 4
                for place in self.cuts(text, len(before), last):
                    end = text[:place].encode("utf-8", "surrogateescape")
                    return start + skip + len(end)
                if start + len(data) >= size:
                    break
                window *= 2
        return size
