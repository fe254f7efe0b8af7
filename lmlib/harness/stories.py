"""Questions about the stories of a validation text, for tasks that need no network.

    endings    which of two sentences ends the story: its own, or that of a later story whose hero
               has the same pronoun, with this hero's name in it
    names      which of two names is at the last place where the hero is named: the hero's, or one
               that the story has mentioned since, or the hero of a later story

A name is one or more capitalised words in the middle of a sentence, whose last word the text never
writes in lower case. The hero is the first whom the story names three times. A document without a
hero, or with fewer than two sentences, gives no question, and neither does one whose like is not
found. So any English text with characters has some, and toystories has one for most stories.

The right answer is the first choice of every other question, because the harness takes the first
of equal choices: a model that cannot tell scores 0.5.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlib.separator import SEPARATOR

if TYPE_CHECKING:
    from datasets import Dataset

MOST_BYTES = 4 << 20  # of a text; a question is made from about a kilobyte
MENTIONS = 3  # of a hero, at least: one names it, and one is asked for

_TITLE = r"(?:(?:Mr|Mrs|Ms|Dr)\. |Miss )"
_NAME = re.compile(rf"\b[a-z]+,? ({_TITLE}?[A-Z][a-z]+(?: [A-Z][a-z]+)*)\b")
# `"Yes!" said Tom.` is one sentence
_SENTENCE = re.compile(r"""(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)[.!?]["'”]?(?=\s+["'“A-Z])""")
_HE = re.compile(r"\b(?:he|him|his)\b", re.IGNORECASE)
_SHE = re.compile(r"\b(?:she|hers?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Story:
    """A document, whom it is about, and all whom it names, the hero included."""

    text: str
    hero: str
    names: tuple[str, ...]

    @property
    def pronoun(self) -> str:
        """The pronoun that the story has more often; "" if it has both equally often."""
        he, she = len(_HE.findall(self.text)), len(_SHE.findall(self.text))
        return "" if he == she else "he" if he > she else "she"

    @property
    def ending(self) -> str:
        """The last sentence, with the white space before it; "" if it is the only one."""
        ends = [match.end() for match in _SENTENCE.finditer(self.text)]
        return self.text[ends[-1] :] if ends else ""


def endings(text: str | Path, **_: Any) -> "dict[str, Dataset]":
    """Return `ending_questions` as the harness wants them: a split called `test`."""
    return _split(ending_questions(text))


def names(text: str | Path, **_: Any) -> "dict[str, Dataset]":
    """Return `name_questions` as the harness wants them: a split called `test`."""
    return _split(name_questions(text))


def _split(questions: list[dict[str, Any]]) -> "dict[str, Dataset]":
    from datasets import Dataset

    return {"test": Dataset.from_list(questions)}


def ending_questions(path: str | Path) -> list[dict[str, Any]]:
    """Return the questions about endings: what comes before, two sentences, and which is right.

    path: a file of documents, separated by <|endoftext|>; its first MOST_BYTES are read

    Raises OSError if the file cannot be read, ValueError if it gives no question.
    """
    return _questions(path, _ask_for_ending)


def name_questions(path: str | Path) -> list[dict[str, Any]]:
    """Return the questions about names, as `ending_questions` does."""
    return _questions(path, _ask_for_name)


def read_stories(path: str | Path) -> list[Story]:
    """Return the documents of a file that have a hero."""
    with Path(path).open("rb") as file:
        text = file.read(MOST_BYTES).decode("utf-8", errors="replace")
    lower = set(re.findall(r"\b[a-z]+\b", text))
    documents = (document.strip() for document in text.split(SEPARATOR))
    return [story for document in documents if (story := _story(document, lower))]


def _story(document: str, lower: set[str]) -> Story | None:
    """Return a document as a story; None if it has no hero. `lower`: words that are no names."""
    found = dict.fromkeys(_NAME.findall(document))
    names = [name for name in found if name.split()[-1].lower() not in lower]
    heroes = [name for name in names if len(_places(name, document)) >= MENTIONS]
    if not heroes:
        return None
    return Story(document, min(heroes, key=lambda name: _places(name, document)[0]), tuple(names))


def _places(name: str, text: str) -> list[int]:
    """Return where a name begins in a text, as whole words."""
    return [match.start() for match in re.finditer(rf"\b{re.escape(name)}\b", text)]


def _questions(
    path: str | Path, ask: Callable[[Story, Iterator[Story]], tuple[str, str, str] | None]
) -> list[dict[str, Any]]:
    """Return what `ask` makes of each story and those after it."""
    stories = read_stories(path)
    asked = [ask(story, _after(i, stories)) for i, story in enumerate(stories)]
    questions = [
        {
            "context": context,
            "choices": [wrong, right] if j % 2 else [right, wrong],
            "answer": j % 2,
        }
        for j, (context, right, wrong) in enumerate(filter(None, asked))
    ]
    if not questions:
        raise ValueError(
            f"{path}: no story whose hero is named {MENTIONS} times, so there is nothing to ask; "
            "name other tasks"
        )
    return questions


def _after(place: int, stories: list[Story]) -> Iterator[Story]:
    """Yield the stories after one, then those before it."""
    return (stories[(place + step) % len(stories)] for step in range(1, len(stories)))


def _ask_for_ending(story: Story, others: Iterator[Story]) -> tuple[str, str, str] | None:
    """Return the story without its ending, its ending, and another; None if there is none."""
    right = story.ending
    for other in others:
        if not right or other.pronoun != story.pronoun or not other.ending:
            continue
        sentence = re.sub(rf"\b{re.escape(other.hero)}\b", story.hero, other.ending.strip())
        wrong = right[: len(right) - len(right.lstrip())] + sentence
        if wrong != right:
            return story.text.removesuffix(right), right, wrong
    return None


def _ask_for_name(story: Story, others: Iterator[Story]) -> tuple[str, str, str] | None:
    """Return what precedes the last mention of the hero, the hero, and another name."""
    place = _places(story.hero, story.text)[-1]
    before = story.text[:place]
    context = before.rstrip()
    mentioned = Counter(
        {
            name: _places(name, before)[-1]
            for name in story.names
            if name not in story.hero and story.hero not in name and _places(name, before)
        }
    )
    if mentioned:
        ((wrong, _),) = mentioned.most_common(1)
    else:
        wrong = next((each.hero for each in others if each.hero not in story.text), "")
    space = before[len(context) :]
    return (context, space + story.hero, space + wrong) if wrong else None
