"""How new sampled text is: distinct n-grams, and the longest span copied from the training text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lmlib.evaluation.kernels.records import READING
from lmlib.native import address_of, load_kernels, record
from lmlib.tokens import Tokens, blocks

GAP = -1  # between two samples; not a token id


@dataclass(frozen=True)
class CopiedSpan:
    """The longest run of tokens of a sample that also occurs in the training text.

    length:       in tokens; 0 when no token of the sample occurs there
    start:        the index of its first token in the sample
    train_start:  the same in the training text, for one of its occurrences
    """

    length: int
    start: int
    train_start: int


def distinct_n(samples: Sequence[Sequence[int]], n: int) -> float:
    """Return the share of distinct n-grams among all those of the samples; 0 when there are none.

    It falls with the number of tokens: compare only samples with equally many.
    Source:  Li et al. 2016, arXiv:1510.03055.
    """
    ngrams = [tuple(s[i : i + n]) for s in samples for i in range(len(s) - n + 1)]
    return len(set(ngrams)) / max(1, len(ngrams))


def copied_spans(
    samples: Sequence[Sequence[int]], train_tokens: Tokens, separator_id: int | None = None
) -> list[CopiedSpan]:
    """Return the longest copied span of each sample; the first of equally long ones.

    Exact, in one pass over `train_tokens` (which may be shards), in linear time. A span
    never crosses `separator_id`, which separates documents.
    """
    automaton = SuffixAutomaton([token for sample in samples for token in (*sample, GAP)])
    lengths, ends = automaton.matches(train_tokens, -1 if separator_id is None else separator_id)
    bounds = np.cumsum([0, *(len(sample) + 1 for sample in samples)])
    spans = []
    for first, last in pairwise(bounds.tolist()):  # tokens first to last - 2, and a gap
        at = int(lengths[first:last].argmax())
        length = int(lengths[first + at])
        start, train_start = (at + 1 - length, int(ends[first + at]) - length) if length else (0, 0)
        spans.append(CopiedSpan(length, start, train_start))
    return spans


class SuffixAutomaton:
    """The smallest automaton that recognises every substring of a sequence of tokens.

    A state represents substrings that end at the same places: the longest has `length[state]`
    tokens, and each of the others is one token shorter than the next. The longest suffix of these
    that ends at more places belongs to the state `link[state]`. State 0 is the empty substring.

    Source:  Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text"; the
             online construction, in linear time, is in Crochemore & Rytter 1994, chapter 6.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.length, self.link = [0], [-1]
        self.prefixes: list[int] = []  # the state of each prefix of `tokens`
        for token in tokens:
            self._append(token)

    def _append(self, token: int) -> None:
        before = self.prefixes[-1] if self.prefixes else 0
        state = self._add(self.length[before] + 1, {})
        self.prefixes.append(state)
        while before >= 0 and token not in self.next[before]:
            self.next[before][token] = state
            before = self.link[before]
        if before < 0:
            return
        target = self.next[before][token]
        if self.length[target] > self.length[before] + 1:
            # only the shorter substrings of `target` end here too: they get a state of their own
            longer, target = target, self._add(self.length[before] + 1, self.next[target].copy())
            self.link[target], self.link[longer] = self.link[longer], target
            while before >= 0 and self.next[before].get(token) == longer:
                self.next[before][token] = target
                before = self.link[before]
        self.link[state] = target

    def _add(self, length: int, following: dict[int, int]) -> int:
        self.next.append(following)
        self.length.append(length)
        self.link.append(0)
        return len(self.next) - 1

    def matches(self, text: Tokens, separator_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Return, per token, the length of its longest match, and where that ends in `text`."""
        edges = [sorted(following.items()) for following in self.next]
        labels, targets = np.array([e for of in edges for e in of], np.int64).reshape(-1, 2).T
        length, link = np.array(self.length), np.array(self.link)
        by_token = np.zeros(max(self.next[0], default=GAP) + 1, np.int64)
        for token, target in self.next[0].items():
            if token != GAP:
                by_token[token] = target
        best, ends = np.zeros_like(length), np.zeros_like(length)
        arrays = {
            "firsts": np.cumsum([0, *map(len, edges)]),
            "labels": np.ascontiguousarray(labels),
            "targets": np.ascontiguousarray(targets),
            "length": length,
            "link": link,
            "by_token": by_token,
            "best": best,
            "ends": ends,
        }
        reading = record(
            READING,
            **arrays,
            num_states=len(length),
            num_edges=len(labels),
            num_tokens=len(by_token),
            separator_id=separator_id,
        )
        kernels = load_kernels("lmlib.evaluation.kernels")
        for block in blocks(text):
            tokens = np.asarray(block).astype(np.int64)
            kernels.read(address_of(tokens), len(tokens), address_of(reading))
        order = np.argsort(length, kind="stable")
        for state in order[:0:-1].tolist():  # a match here is also a shorter match there
            shorter = self.link[state]
            if best[state] and best[shorter] < length[shorter]:
                best[shorter], ends[shorter] = length[shorter], ends[state]
        for state in order[1:].tolist():  # without a match, take a shorter substring's
            if not best[state]:
                best[state], ends[state] = best[self.link[state]], ends[self.link[state]]
        return best[self.prefixes], ends[self.prefixes]
