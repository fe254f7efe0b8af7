r"""Named pre-token patterns, and where each lets a text be cut in two.

A pattern splits text into pre-tokens; no merge crosses their borders. Any pattern not named here
is a regular expression in the syntax of the `regex` package. The named patterns take the classes
of characters (letter, number, white space) from characters.py, in one version of Unicode; other
expressions take them from the installed `regex`, in its version.

A *cut* is a place where a text can be divided: its two sides, split separately, give the pre-tokens
of the whole. For a named pattern this depends on the two adjacent characters alone, and `cut`
matches where it is safe:

- The left character is a letter or a number and the right one is of another class. Runs of
  letters and of numbers contain nothing else, so the pre-token ends here whatever follows, and
  no alternative that starts to the left looks further (only a run of spaces looks ahead).
- The left character is not white space and the right one is. In `gpt2` white space occurs only
  at the start of a pre-token. In `cl100k` punctuation includes the line ends after it, hence
  `[^\S\r\n]` there.

There is never a cut between an apostrophe and a letter, since "'ll" may begin there, nor after
white space, since ` ?` and `\s+(?!\S)` bind it to what follows.

`o200k` differs after letters: marks and a contraction may follow them in the same pre-token, so
there is no cut between a letter and a mark or an apostrophe. Before any other character that is
not a letter, letters split as at the end of a text, since their expression only asks whether a
letter or a mark follows. A change of case is not a cut (see "x'vE"), nor is the place between a
mark and punctuation, because a mark may belong to either letters or punctuation.
"""

from dataclasses import dataclass
from functools import lru_cache

import regex


@dataclass(frozen=True)
class Pattern:
    """How to split text into pre-tokens; `cut` is empty if no place is provably safe."""

    split: str
    cut: str


PATTERNS = {
    # Radford et al. 2019, the encoder.py of GPT-2
    "gpt2": Pattern(
        split=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        cut=r"(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})|(?<=\S)(?=\s)",
    ),
    # cl100k_base of OpenAI's tiktoken 0.14 (GPT-3.5, GPT-4), with `(?![\s\S])` for its `$`: it
    # means the very end of the text in every dialect
    "cl100k": Pattern(
        split=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s++(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        cut=r"(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})|(?<=\S)(?=[^\S\r\n])",
    ),
    # o200k_base of OpenAI's tiktoken 0.14 (GPT-4o)
    "o200k": Pattern(
        split=(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        cut=r"(?<=\p{L})(?=[^\p{L}\p{M}'])|(?<=\p{N})(?=\P{N})|(?<=\S)(?=[^\S\r\n])",
    ),
}


# a word or words, perhaps with a version, as in `gpt-3.5`: a name and not an expression
_NAME = regex.compile(r"[\w\s./-]*\w[\w\s./-]*|")
# `\K` moves the start of a match, even to before the end of the one before
_MOVES_START = regex.compile(r"(?<!\\)(?:\\\\)*\\K")
# recursion, as in `(?R)?a`: an expression that begins with itself takes memory without end
_RECURSES = regex.compile(r"(?<!\\)(?:\\\\)*\(\?(?:R|\d|&|P>)")
# flags with which matches do not follow each other as in all other engines
_FOREIGN_FLAGS = {
    "(?r)": regex.REVERSE,
    "(?p)": regex.POSIX,
    "(?b)": regex.BESTMATCH,
    "(?e)": regex.ENHANCEMATCH,
    "(?L)": regex.LOCALE,
}


@lru_cache(maxsize=32)
def find_pattern(name_or_regex: str) -> Pattern:
    """Return the named pattern, or a custom one.

    Raises ValueError for an unknown name, an invalid expression, and one whose matches might
    overlap or come in another order, so that text would be lost or repeated.
    """
    if name_or_regex in PATTERNS:
        return PATTERNS[name_or_regex]
    advice = (
        f"give {', '.join(PATTERNS)}, or an expression in the `regex` package's syntax, such as "
        r"\w+|\W"
    )
    shortened = f"{name_or_regex!r:.200}"
    if _NAME.fullmatch(name_or_regex):
        raise ValueError(f"pattern {shortened} is not the name of a pattern; {advice}")
    try:
        flags = regex.compile(name_or_regex).flags
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"pattern {shortened} is not a valid regular expression: "
            f"{str(error) or 'it is too large'}; {advice}"
        ) from error
    if _RECURSES.search(name_or_regex):
        raise ValueError(
            f"pattern {shortened} calls itself or a group, which can take memory without end; "
            "write out what it calls"
        )
    foreign = [text for text, flag in _FOREIGN_FLAGS.items() if flags & flag]
    if _MOVES_START.search(name_or_regex):
        foreign.append(r"\K")
    if foreign:
        raise ValueError(
            f"pattern {shortened} has {', '.join(foreign)}, under which text could be lost, "
            "repeated or split in another way; write it without"
        )
    return Pattern(split=name_or_regex, cut="")
