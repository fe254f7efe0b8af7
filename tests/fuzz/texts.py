"""Texts, bytes and vocabularies that byte-level BPE gets wrong, built from a grammar."""

from dataclasses import dataclass
from random import Random

from lmlib.tokenizer.patterns import PATTERNS

SPACES = [*" \n\r\t\v\f\x1c\x1d\x1e\x1f\x85\xa0", "\r\n", *map(chr, range(0x2000, 0x200C))]
SPACES += [*"\u1680\u2028\u2029\u202f\u205f\u3000\u180e\ufeff"]
CONTRACTIONS = [quote + word for quote in ("'", "\u2019", "''", " '") for word in (
    *("s", "S", "\u017f", "t", "re", "rE", "VE", "m", "ll", "lL", "d", "D", "l", "v", "r", "ss"),
    *("st", "\u212a", "\ufb06"),
)]  # fmt: skip
NUMBERS = [*"0123456789²½٣१Ⅷ㊿\U0001d7d8", "\U0001e950", "\U00010107"]
LETTERS = [*"abcABCxyzéÉßǅʰªЖאبक中字가ʕ", *"\u0130\u212a\u017f\u0295\u1c90\u10d0\u2c2f"]
LETTERS += [*"\U0001e900\U0001e922\U00010400\U0002a6d6"]
MARKS = [*"\u0301\u0903\u20dd\ufe0f\u0345\U0001d165\U000e0100"]
OTHERS = [*'!?.,-_/\\()[]{}#$%&*+=|~`@";:<>', *"\x00\x01\x7f\x80\x9f\u200d\xad😀👩€"]
OTHERS += [*"\ue000\ufffd\ufffe\uffff\U0010ffff\u0378\ud7ff\ufdd0"]
CLASSES = (SPACES, CONTRACTIONS, NUMBERS, LETTERS, MARKS, OTHERS)
WORDS = ["the", "The", "HTTPServer", "camelCase", "don't", "I'll", "aaaa", "abab", "naïve", "12"]

# near the sizes at which something changes: keys, cached words, blocks, pages
EDGES = (15, 16, 64, 65, 100, 256, 257, 4096)

# one a part of another, overlapping, of one byte, ending with what patterns join
SPECIAL = ["<|endoftext|>", "<|end", "oftext|><|", "<<", "<", "ß|", " the ", "ab", "é\u0301", "a"]
SPECIAL += ["中\n", "👩\u200d", " ", "\n", "  ", "12", "'s", "\x00", "\r\n", "the", "x" * 70, "aab"]
SPECIAL += ["baa", "aa", "ab" * 40, "\U0010ffff", "'ll", "1 "]

BROKEN = [b"\xff", b"\xfe", b"\x80", b"\xbf", b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"\xf0\x9f\x98"]
BROKEN += [b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x80\x80\x80"]
BROKEN += [b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80"]
BROKEN += [b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x85", b"\xa0", b"\xe3\x80", b"\xe1\x9a"]


def character(rng: Random) -> str:
    """Return any character but a surrogate; those of few bytes are as likely as others."""
    while 0xD800 <= (code := rng.randrange(rng.choice((0x80, 0x800, 0x10000, 0x110000)))) < 0xE000:
        pass
    return chr(code)


def near(rng: Random) -> int:
    """Return a length close to one of EDGES, seldom a long one."""
    return max(1, rng.choice(EDGES[: rng.choice((4, 7, 7, 8))]) + rng.randrange(-2, 3))


def fragment(rng: Random) -> str:
    """Return one piece of a text."""
    kind = rng.randrange(10)
    members = rng.choice(CLASSES)
    if kind <= 2:
        return "".join(rng.choice(members) for _ in range(rng.randrange(1, 7)))
    if kind == 3:
        return rng.choice(members) * rng.choice((1, 2, 3, rng.randrange(1, 80)))
    if kind == 4:
        return rng.choice((" ", "\n", "  ", "")) + rng.choice(WORDS)
    if kind == 5:
        token = rng.choice(SPECIAL)
        return token[: rng.randrange(len(token)) + 1]
    if kind == 6:
        return rng.choice(SPECIAL)
    if kind == 7:
        return character(rng)
    if kind == 8:  # a long word of few letters
        letters = rng.choice(("ab", "a", "aB", "中a", "é", "12", "!", " ", "\u0301e"))
        return "".join(rng.choices(letters, k=rng.choice((near(rng), rng.randrange(1, 40)))))
    return rng.choice(rng.choice(CLASSES))


def text(rng: Random) -> str:
    """Return a text; a quarter of them end close to a multiple of 64 bytes."""
    result = "".join(fragment(rng) for _ in range(rng.choice((0, 1, 2, 3, 5, 8, 13, 40))))
    if rng.random() < 0.25:
        missing = -len(result.encode()) % 64 + rng.choice((-1, 0, 0, 1, 63))
        result += rng.choice(" a1!\n") * missing
    return result


def raw(rng: Random) -> bytes:
    """Return bytes of which a part is no UTF-8."""
    parts = []
    for _ in range(rng.randrange(7)):
        kind = rng.randrange(4)
        if kind < 2:
            parts.append(text(rng).encode())
        elif kind == 2:
            parts.append(rng.choice(BROKEN) * rng.choice((1, 1, 2, 5, rng.randrange(1, 90))))
        else:
            parts.append(rng.randbytes(rng.randrange(12)))
    data = b"".join(parts)
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data


@dataclass(frozen=True)
class Vocabulary:
    """The arguments of a Tokenizer."""

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special: list[str]
    pattern: str


def vocabulary(rng: Random) -> Vocabulary:
    """Return a vocabulary: merges in any order, several ways to one token, ids with gaps."""
    special = rng.sample(SPECIAL, rng.choice((0, 0, 1, 2, 3, 6, len(SPECIAL))))
    if rng.random() < 0.03:
        special += ["".join(character(rng) for _ in range(3)) for _ in range(200)]
        special = list(dict.fromkeys(special))
    pool = [bytes([byte]) for byte in b"aabBtheTHE '\n12s!<|"]
    pool += [b"\xc3", b"\xa9", b"\xe4", b"\xb8", b"\xad", b"\xcc", b"\x81", b"\xff", b"\x80", b"\0"]
    merges = []
    for _ in range(rng.choice((0, 1, 5, 40, 300))):
        left, right = rng.choice(pool), rng.choice(pool)
        if rng.random() < 0.2:
            right = left
        if len(left) + len(right) <= rng.choice((4, 8, 40, 200)):
            merges.append((left, right))
            pool.append(left + right)
    for token in map(str.encode, special):  # merges that spell a special token
        if rng.random() < 0.3:
            merges += [(token[:at], token[at : at + 1]) for at in range(1, len(token))]
    by_bytes = {bytes([byte]): None for byte in range(256)}
    by_bytes |= dict.fromkeys(part for pair in merges for part in (*pair, pair[0] + pair[1]))
    for token in list(by_bytes):  # another way to a token
        if 2 < len(token) < 40 and rng.random() < 0.1:
            at = rng.randrange(1, len(token))
            if token[:at] in by_bytes and token[at:] in by_bytes:
                merges.append((token[:at], token[at:]))
    if rng.random() < 0.5:
        rng.shuffle(merges)
    if merges and rng.random() < 0.3:
        merges += rng.choices(merges, k=3)
    ids = list(range(len(by_bytes)))
    if rng.random() < 0.3:
        rng.shuffle(ids)
    elif rng.random() < 0.3:  # gaps, up to the greatest id that kernels support and beyond
        most = rng.choice((2 * len(ids), 1 << 16, (1 << 16) + 1, (1 << 20) - 1 - len(special)))
        ids = rng.sample(range(max(most, len(ids))), len(ids))
        ids[0] = most - 1 if most - 1 not in ids else ids[0]
    vocab = dict(zip(ids, by_bytes, strict=True))
    return Vocabulary(vocab, merges, special, rng.choice(list(PATTERNS)))
