"""Texts and bytes that tokenizers get wrong, for hypothesis."""

from collections import Counter
from itertools import pairwise

from hypothesis import strategies as st

SPECIAL = ["<|endoftext|>", "<|end", "oftext|><|", "<<", "<", "ß|"]

# Every class that patterns know, ASCII and not; line ends; contractions; what looks like them
TRICKY = [
    *"'sdmtlvreSLVE  \n\r\t\v\x00aZé中字1٣²½!。_-",
    *"\u017f\u212a\u0301\u200d\ufe0f\u00a0\u0085\u2028\u3000\u1680\x1c😀👩\U0002a6d6",
    *"\u0378\U000e0000\ufffe\uffff\U0010ffff\ud7ff\ue000",  # unassigned, and beside surrogates
    *["'ll", "'ve", "'re", "'S", "'LL", "'\u017f", "  ", "\r\n", "\n\n", "   a", "123456"],
    *["the ", " of", "aaaa", "abab"],
    *SPECIAL,
]

texts = st.one_of(st.lists(st.sampled_from(TRICKY), max_size=40).map("".join), st.text())

# Characters that Unicode 14 knows: later ones are letters to some libraries and not to others.
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))
assigned_texts = st.one_of(
    st.lists(st.sampled_from([c for c in TRICKY if c.isprintable() or c.isspace()])).map("".join),
    st.text(ASSIGNED),
)

# Whole characters, halves of characters, overlong forms, surrogates, and anything
raw_bytes = st.lists(
    st.one_of(
        texts.map(lambda text: text.encode("utf-8")),
        st.sampled_from(
            [
                *[b"\xff", b"\x80", b"\xc3", b"\xc0\xaf", b"\xe2\x82", b"\xe0\x80\x80"],
                *[b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf0\x80\x80\x80"],
                *[b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"],
            ]
        ),
        st.binary(max_size=6),
    ),
    max_size=8,
).map(b"".join)

special_lists = st.lists(st.sampled_from(SPECIAL), unique=True, max_size=4)


def brute_force_merges(words: Counter[bytes], num_merges: int) -> list[tuple[bytes, bytes]]:
    """Learn merges as one would explain it: count everything anew for each merge."""
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
