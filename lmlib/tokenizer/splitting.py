"""Cut text at special tokens, and cut streams and files where no pre-token can be harmed."""

from collections.abc import Callable, Iterable, Iterator

import regex

from lmlib.tokenizer.paths import CorpusFile, read_range
from lmlib.tokenizer.patterns import find_pattern

# Bytes of a file looked at first when a cut is sought, then more at a time until there is one.
CUT_WINDOW = 1 << 10


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
    """Return the UTF-8 bytes.

    Raises ValueError where a lone surrogate makes that impossible, TypeError for what is no text.
    """
    try:
        return text.encode("utf-8")
    except AttributeError:
        raise TypeError(
            f"{where}: {text!r:.50} is {type(text).__name__}, not str; decode bytes first: "
            "data.decode('utf-8')."
        ) from None
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
        self.special_bytes = tuple(token.encode() for token in self.special_tokens)
        self.reach_bytes = max(map(len, self.special_bytes), default=1) - 1
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

    def find_cut(self, data: bytes, first: int, last: int) -> int:
        """Return a place from `first` to `last` to cut these bytes of a longer text, or -1.

        The caller vouches for the same as in `cuts`, and that no character is broken at 0.
        """
        text = data.decode("utf-8", "surrogateescape")
        # Where a character is broken, `first` is taken a little later and `last` earlier.
        first = len(data[:first].decode("utf-8", "surrogateescape"))
        last = len(data[: max(last, 0)].decode("utf-8", "ignore"))
        for place in self.cuts(text, first, last):
            return len(text[:place].encode("utf-8", "surrogateescape"))
        return -1


FindCut = Callable[[bytes, int, int], int]


def file_chunks(
    file: CorpusFile, splitter: Splitter, chunk_bytes: int, find_cut: FindCut
) -> Iterator[tuple[int, int]]:
    """Yield (start, end) byte ranges of a file, cut safely about every `chunk_bytes`.

    find_cut(data, first, last) returns a place to cut a part of the file, or -1; it is
    `Splitter.find_cut` or its faster equal, `engine.find_cut`.
    """
    size = file.stat().st_size
    start = 0
    while start < size:
        end = _file_cut(file, start + chunk_bytes, size, splitter.reach_bytes, find_cut)
        yield start, end
        start = end


def _file_cut(file: CorpusFile, target: int, size: int, reach_bytes: int, find_cut: FindCut) -> int:
    """Return a safe cut at or after byte `target`, or the size of the file."""
    margin = 2 * reach_bytes + 4  # special tokens on either side, and one character
    window = CUT_WINDOW
    while target + margin < size:
        start = max(0, target - margin)
        data = read_range(file, start, min(size, target + window + margin))
        # A window may begin inside a character: step over up to 3 continuation bytes.
        skip = 0
        while start and skip < 3 and data[skip] & 0xC0 == 0x80:
            skip += 1
        # The last bytes may be the beginning of something, and not what they seem.
        last = len(data) - reach_bytes - 4
        place = find_cut(data[skip:], target - start - skip, last - skip)
        if place >= 0:
            return start + skip + place
        target = start + last  # nowhere up to here: go on from here, with more at a time
        window *= 4
    return size
