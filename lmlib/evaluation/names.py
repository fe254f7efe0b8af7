"""Whether stories keep to the names of their children."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class NamesKept:
    """How many of the names in stories, after the first of each story, are kept.

    counted:  names, each time one is written
    kept:     those that the story, or its prompt, has written before
    """

    counted: int
    kept: int

    @property
    def share(self) -> float:
        """`kept` / `counted`; 0 without names."""
        return self.kept / max(1, self.counted)


def names_kept(stories: Iterable[tuple[str, str]], names: Collection[str]) -> NamesKept:
    """Count the names in stories, each given as its prompt and the text that continues it.

    A name is a whole word: `Tom,` or `Tom's`, but not `Tommy`. A name in the prompt is not counted,
    but it has been written before. A story introduces each of its children once, so that no text
    keeps all names: compare with held-out stories.
    """
    word = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
    counted = kept = 0
    for prompt, text in stories:
        written: set[str] = set()
        for match in word.finditer(prompt + text):
            if written and match.end() > len(prompt):
                counted += 1
                kept += match[0] in written
            written.add(match[0])
    return NamesKept(counted, kept)
