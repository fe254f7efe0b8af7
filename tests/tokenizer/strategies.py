"""Hypothesis strategies for texts and bytes that tokenizers get wrong, and the right results."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lmlib.tokenizer import Tokenizer, reference
from lmlib.tokenizer.characters import char_classes

# Examples may share fixtures: none changes them, and files are overwritten.
examples = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

END = "<|endoftext|>"

# One a prefix of another, overlapping, ending in what patterns join (spaces, letters, marks),
# and with characters of several bytes
SPECIAL = [
    END,
    "<|end",
    "oftext|><|",
    "<<",
    "<",
    "ß|",
    " the ",
    "ab",
    "é\u0301",
    "中\n",
    "👩\u200d",
]

# Every class in the patterns, ASCII and not; line ends; contractions and lookalikes
TRICKY = [
    *"'sdmtlvreSLVE  \n\r\t\v\f\x00aAbBZéÉǅʰ中字1٣²½!/。_-",
    *"\u017f\u212a\u0130\u0301\u0903\u200d\ufe0f\ufeff\u00a0\u0085\u2028\u3000\u1680\x1c",
    *"😀👩\U0002a6d6\U0001e900\U0001e922",
    *"\u0378\U000e0000\ufffe\uffff\U0010ffff\ud7ff\ue000",  # unassigned, and next to surrogates
    *["'ll", "'ve", "'re", "'S", "'LL", "'\u017f", "  ", "\r\n", "\n\n", "\u0085\n", "   a"],
    *["123456", "the ", " of", "aaaa", "abab", "don't", "DON'T", "camelCase", "//\n/"],
    *SPECIAL,
]

texts = st.one_of(st.lists(st.sampled_from(TRICKY), max_size=40).map("".join), st.text())

# Complete characters, parts of characters, overlong forms, surrogates, and any byte
BROKEN = [
    *[b"\xff", b"\xfe", b"\x80", b"\xbf"],  # bytes that never begin a character
    *[b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"\xf0\x9f\x98"],  # truncated
    *[b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x80\x80\x80"],  # overlong
    *[b"\xf0\x8f\xbf\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80"],
    *[b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80"],  # above U+10FFFF
    *[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xf4\x8f\xbf\xbf"],  # valid: their neighbours
]
raw_bytes = st.lists(
    st.one_of(
        texts.map(lambda text: text.encode("utf-8")),
        st.sampled_from(BROKEN),
        st.binary(max_size=6),
    ),
    max_size=8,
).map(b"".join)

special_lists = st.lists(st.sampled_from(SPECIAL), unique=True, max_size=4)

# Words of few letters, one of them of two bytes: ties everywhere, and runs of one letter
small_words = st.dictionaries(
    st.text("ab\xe9", min_size=1, max_size=12).map(str.encode), st.integers(1, 4), max_size=8
)

CHINESE = "敏捷的棕色狐狸跳过了懒狗"
FAMILY = "👩\u200d👩\u200d👧\u200d👦\ufe0f"

# Pre-tokens of several kilobytes: each of one class of characters, or of two in turn
LONG = {
    "lower case": b"a" * 3000,
    "upper case": b"A" * 3000,
    "camel case": b"aB" * 1500,
    "two letters": b"ab" * 1500,
    "odd run": b"x" + b"a" * 2047 + b"x",
    "chinese": (CHINESE * 90).encode(),
    "chinese and upper case": (CHINESE + "A" * 3000).encode(),
    "marks": "\u0301".encode() * 1500,
    "letters and marks": "e\u0301".encode() * 2000,
    "digits": b"1234567890" * 300,
    "spaces": b" " * 3000,
    "spaces before a word": b" " * 3000 + b"a",
    "wide spaces": "\u3000".encode() * 1000,
    "newlines": b"\n" * 3000,
    "a newline and spaces": b"\n" + b" " * 3000,
    "line ends of two": b"\r\n" * 1500,
    "spaces and newlines": b" \n" * 1500,
    "emoji": "😀".encode() * 800,
    "families": (FAMILY * 90).encode(),
    "punctuation": b"!" * 3000,
    "slashes and newlines": b"/\n" * 1500,
    "apostrophes": b"'" * 3000,
    "contractions": b"'ll" * 1000,
    "nulls": b"\x00" * 3000,
    "bytes that are no text": b"\xff" * 3000,
    "halves of characters": b"\xe2\x82" * 1500,
}

# A sentence each in many scripts and kinds of text
PASSAGES = [
    "The fox didn't jump; it's he'd who'll, WE'VE heard, \u201cleap\u201d over 1,234,567 dogs...",
    "Zwölf Boxkämpfer jagten Viktor quer über den großen Sylter Deich, für 3,50\u00a0€.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë.",
    "Съешь же ещё этих мягких булок, 1869 года. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    f"{CHINESE}。那是另一个句子、有１２３个字。 色は匂へど散りぬるを。다람쥐 헌 쳇바퀴에 타고파.",
    "नमस्ते दुनिया, यह एक वाक्य है। สวัสดีชาวโลก ทดสอบภาษาไทย",
    "مرحبا بالعالم، ١٢٣ كلمة. שלום עולם, זה משפט.",
    "Tiếng Việt: trăm năm trong cõi người ta; e\u0301 and a\u0308 apart, \u0130stanbul, ǅ, ŉ.",
    f"Emoji {FAMILY}{FAMILY} 🇩🇪🇫🇷 👍🏽 ❤\ufe0f!!1 \u200b(zero width)\ufeff",
    "def f(x_1: int, *args) -> str:\r\n\treturn f'{x_1!r}'  # HTTPServer2, camelCase\r\n\r\n\r\n",
    "https://example.org/a/b?c=d&e=%20f//\n/\n\n  | a | b |\n  |---|---|\n\t \t\u2028\u0085\x00 ",
]
MANY_SCRIPTS = "\n".join(PASSAGES)


# Contexts for a character: between characters that bind to one class and not to another
FORMS = ["1{}Aa", "a{}A!", "!!{}!", "  {} ", "a'{}s'{}", "!\n{}/1{}1"]


def telling_characters() -> str:
    """Return the first characters, and the first and last one of each run of one class."""
    ends = np.flatnonzero(np.diff(char_classes()))
    codes = {*range(0x300), *ends, *ends + 1, 0x10FFFF} - {*range(0xD800, 0xE000)}
    return "".join(map(chr, sorted(codes)))


def border_tokenizer(pattern: str) -> Tokenizer:
    """Return a tokenizer whose ids show the borders of pre-tokens.

    Within a pre-token it merges each byte beyond ASCII with an ASCII character next to it.
    """
    ascii_bytes = [bytes([byte]) for byte in b"aA1! s'\n/"]
    others = [bytes([byte]) for byte in range(0x80, 0x100)]
    merges = [(b"A", b"a"), *product(others, ascii_bytes)]
    merges += product(ascii_bytes, others)
    tokens = [*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    return Tokenizer(dict(enumerate(tokens)), merges, pattern=pattern)


# -- the right results, as plainly as possible, without `Splitter` or the fast paths


def plain_pieces(text: str, special_tokens: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield (piece, is_special), split at the next special token, the longest of several."""
    start = 0
    while places := [(at, -len(t), t) for t in special_tokens if (at := text.find(t, start)) >= 0]:
        at, _, token = min(places)
        if start < at:
            yield text[start:at], False
        yield token, True
        start = at + len(token)
    if start < len(text):
        yield text[start:], False


def plain_tokens(
    data: bytes, special_tokens: Sequence[str], pattern: str
) -> Iterator[tuple[bytes, bool]]:
    """Yield (pre-token or special token, is_special) of bytes that need not be UTF-8."""
    for piece, is_special in plain_pieces(data.decode("utf-8", "surrogateescape"), special_tokens):
        for token in [piece] if is_special else reference.pre_tokens(piece, pattern):
            yield token.encode("utf-8", "surrogateescape"), is_special


def plain_counts(data: bytes, special_tokens: Sequence[str], pattern: str) -> Counter[bytes]:
    """Return how often each pre-token occurs outside special tokens."""
    tokens = plain_tokens(data, special_tokens, pattern)
    return Counter(token for token, is_special in tokens if not is_special)


class PlainEncoder:
    """What a tokenizer should return, computed from its vocabulary and merges alone."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.pattern = tokenizer.pattern
        self.special_tokens = tokenizer.special_tokens
        self.id_of: dict[bytes, int] = {}
        for token_id, token in sorted(tokenizer.vocab.items()):
            self.id_of.setdefault(token, token_id)
        self.merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(tokenizer.merges):
            pair = self.id_of[left], self.id_of[right]
            self.merges.setdefault(pair, (rank, self.id_of[left + right]))
        self.known: dict[bytes, list[int]] = {}

    def ids(self, data: bytes) -> list[int]:
        """Return the ids of bytes that need not be UTF-8."""
        ids: list[int] = []
        for token, is_special in plain_tokens(data, self.special_tokens, self.pattern):
            ids += [self.id_of[token]] if is_special else self.merged(token)
        return ids

    def merged(self, pre_token: bytes) -> list[int]:
        """Return the ids of one pre-token; long ones by the heap that test_reference checks."""
        if pre_token not in self.known:
            single = [self.id_of[bytes([byte])] for byte in pre_token]
            long = len(single) > 200
            merge = reference.apply_merges_long if long else reference.apply_merges
            self.known[pre_token] = merge(single, self.merges)
        return self.known[pre_token]


def with_pattern(tokenizer: Tokenizer, pattern: str, special_tokens: list[str]) -> Tokenizer:
    """Return the same merges with another pattern and other special tokens."""
    return Tokenizer(tokenizer.vocab, tokenizer.merges, special_tokens, pattern=pattern)


def file_ids(
    tokenizer: Tokenizer,
    data: bytes,
    folder: Path,
    *,
    num_workers: int | None = 1,
    chunk_bytes: int = 1 << 20,
) -> list[int]:
    """Return what `encode_file` writes for a file with these bytes."""
    src, dst = folder / "encode.txt", folder / "encode.npy"
    src.write_bytes(data)
    written = tokenizer.encode_file(src, dst, num_workers=num_workers, chunk_bytes=chunk_bytes)
    ids = np.load(dst)
    assert len(ids) == written
    return ids.tolist()


def brute_force_merges(words: Counter[bytes], num_merges: int) -> list[tuple[bytes, bytes]]:
    """Learn merges as a textbook would: count everything again for each merge."""
    split = {word: [word[i : i + 1] for i in range(len(word))] for word in words}
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < num_merges:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, tokens in split.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for tokens in split.values():
            i = 0
            while i + 1 < len(tokens):
                if (tokens[i], tokens[i + 1]) == best:
                    tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
                i += 1
    return merges
