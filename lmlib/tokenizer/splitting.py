"""Split text at special tokens, and cut streams and files where that changes no pre-token."""

import hashlib
import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import regex

from lmlib.tokenizer.characters import for_regex
from lmlib.tokenizer.ids import whole_number
from lmlib.tokenizer.paths import CorpusFile, read_range
from lmlib.tokenizer.patterns import find_pattern
from lmlib.tokenizer.special import SpecialTokens

# Bytes of a file that are searched for a cut first; the window grows until there is one.
CUT_WINDOW = 1 << 10


def check_special_tokens(special_tokens: Iterable[str] | None) -> list[str]:
    """Return the special tokens without repeats; raise ValueError for an invalid one."""
    if isinstance(special_tokens, str):
        raise ValueError(
            f"special_tokens is the string {special_tokens!r}; it should be a list of strings: "
            f"write [{special_tokens!r}]"
        )
    tokens = list(dict.fromkeys(special_tokens or ()))
    for token in tokens:
        if not isinstance(token, str) or not token:
            raise ValueError(
                f"special_tokens holds {token!r}; a special token is a string of at least one "
                "character; remove it or give it a name such as '<|endoftext|>'"
            )
        encode_strictly(token, "special_tokens")
    return tokens


def encode_strictly(text: str, where: str) -> bytes:
    """Return the UTF-8 bytes.

    Raises ValueError for a lone surrogate, TypeError for anything but a str.
    """
    try:
        return str.encode(text, "utf-8")  # not text.encode: other types have one too
    except TypeError:
        raise TypeError(
            f"{where}: {text!r:.50} is {type(text).__name__}, not str; decode bytes first: "
            "data.decode('utf-8')"
        ) from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}, which UTF-8 cannot represent; repair the text with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from error


class Splitter:
    """Splits and cuts text by one pattern and one set of special tokens.

    Text is `str`. Each byte of invalid UTF-8 is one lone surrogate in it (`surrogateescape`), which
    every pattern treats like punctuation, so that these bytes survive encoding unchanged.
    """

    def __init__(self, pattern: str, special_tokens: Iterable[str]) -> None:
        self.pattern = pattern
        self.special_tokens = sorted(special_tokens)
        self.special_bytes = [token.encode() for token in self.special_tokens]
        # for comparisons: thousands of tokens take longer to compare than a short text to encode
        self._digest = hashlib.sha256(repr((pattern, self.special_tokens)).encode()).digest()
        self.reach_bytes = max(map(len, self.special_bytes), default=1) - 1
        self._special = SpecialTokens(self.special_tokens)
        self._cut = regex.compile(find_pattern(pattern).cut or "(?!)")  # (?!): nowhere

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Splitter) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __reduce__(self) -> tuple:
        return (Splitter, (self.pattern, self.special_tokens))

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield (piece, is_special) from left to right; joined, the pieces are the text."""
        done = 0
        for start, end in self._special.spans(text):
            if done < start:
                yield text[done:start], False
            yield text[start:end], True
            done = end
        if done < len(text):
            yield text[done:], False

    def cuts(self, text: str, first: int, last: int) -> Iterator[int]:
        """Yield cuts c with first <= c <= last, in ascending order; some may be repeated.

        The caller guarantees that no special token reaches into the text from outside past `first`
        or `last`. The ends of a special token are certainly cuts if no other one overlaps its start
        or its end; otherwise they may not be.
        """
        start = max(0, first - self._special.reach - 1)
        # A cut depends on the two characters around it, so this part of the text is enough.
        part = for_regex(text[start : last + 1])
        places = (start + match.start() for match in self._cut.finditer(part))
        end = min(len(text), last + self._special.reach)
        # and before it the tokens that may overlap the start of one that ends at `first`
        spans = list(self._special.everywhere(text, max(0, start - self._special.reach), end))
        starts = [span[0] for span in spans]
        ends = list(accumulate((span[1] for span in spans), max))

        def is_inside_special(place: int) -> bool:
            before = bisect_left(starts, place)
            return before > 0 and ends[before - 1] > place

        special_ends = sorted(stop for begin, stop in spans if not is_inside_special(begin))
        for place in heapq.merge(places, special_ends):
            if first <= place <= last and not is_inside_special(place):
                yield place

    def last_cut(self, text: str) -> int:
        """Return the last cut in a text that will be continued, or 0 if there is none."""
        # After `end` an unseen character could still complete a special token or a pair.
        end = len(text) - max(1, self._special.reach)
        width = 256
        while end > 0:
            start = max(1, end - width)
            place = max(self.cuts(text, start, end), default=0)
            if place or start == 1:
                return place
            width *= 4
        return 0

    def find_cut(self, data: bytes, first: int, last: int) -> int:
        """Return an offset from `first` to `last` at which to cut these bytes of a text, or -1.

        The caller guarantees the same as for `cuts`, and that `data` begins between characters.
        """
        text = data.decode("utf-8", "surrogateescape")
        # Inside a character, `first` moves a little to the right and `last` to the left.
        first = len(data[:first].decode("utf-8", "surrogateescape"))
        last = len(data[: max(last, 0)].decode("utf-8", "ignore"))
        for place in self.cuts(text, first, last):
            return len(text[:place].encode("utf-8", "surrogateescape"))
        return -1


FindCut = Callable[[bytes, int, int], int]


def file_chunks(
    file: CorpusFile,
    splitter: Splitter,
    chunk_bytes: int,
    find_cut: FindCut,
    start: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (start, end) byte ranges of a file, cut safely about every `chunk_bytes`.

    They begin at byte `start` and end at byte `end`, or at that of the file.

    find_cut(data, first, last) returns an offset at which to cut a part of the file, or -1; it is
    `Splitter.find_cut` or the faster `engine.find_cut`.
    """
    size, chunk_bytes = file.stat().st_size, whole_number(chunk_bytes, "chunk_bytes")
    last = size if end is None else end
    while start < last:
        target = start + chunk_bytes
        cut = last
        if target < last:
            cut = min(last, file_cut(file, target, size, splitter.reach_bytes, find_cut))
        yield start, cut
        start = cut


def file_cut(file: CorpusFile, target: int, size: int, reach_bytes: int, find_cut: FindCut) -> int:
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
        # The last bytes may be the beginning of a character or of a special token.
        last = len(data) - reach_bytes - 4
        place = find_cut(data[skip:], target - start - skip, last - skip)
        if place >= 0:
            return start + skip + place
        target = start + last  # no cut up to here: continue from here, with a larger window
        window *= 4
    return size
