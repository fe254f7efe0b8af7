"""The template language of the stories: parsing, drawing, rendering, polishing.

A template is plain text with three kinds of markup:

    [one|two|]        one of the alternatives, equally likely; they nest, and may be empty
    {toy} {toy.place} a column of the table row drawn for `toy` (`name` if none is given), which
                      may contain slots itself;
                      {he} {him} {his} {hers} {himself} {kind} are short for {hero.he} and so on,
                      and {He} or {Toy} capitalises the value
    <glad friend>     the phrase `glad` of phrases.txt with `friend` in place of each `$`; <glad>
                      is short for <glad hero>

Blank lines separate paragraphs; other line breaks are spaces. Always write `a` before a slot, and
begin sentences in either case: `polish` turns `a` into `an` where needed and adds the capitals.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import log2
from operator import itemgetter
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")
Entity: TypeAlias = Mapping[str, str]
Table: TypeAlias = tuple[Entity, ...]


class Slot(NamedTuple):
    """A place in a template that is filled with column `column` of the row cast as `role`."""

    role: str
    column: str
    capital: bool


class Choice(NamedTuple):
    """Alternatives, each a list of nodes."""

    options: tuple[list["Node"], ...]


Node: TypeAlias = str | Slot | Choice


HERO_COLUMNS = ("he", "him", "his", "hers", "himself", "kind")
TOKEN = re.compile(r"[\[\]|]|\{[^{}]*\}|<[^<>]*>|[^\[\]|{}<>]+|.")


class TemplateError(ValueError):
    """A mistake in a template; `line` is the index of its line."""

    def __init__(self, template: str, position: int, message: str) -> None:
        self.line = template.count("\n", 0, position)
        text = template.split("\n")[self.line].strip()
        super().__init__(f"{message}: {text}")


def parse(template: str, phrases: Mapping[str, str]) -> list[Node]:
    """Return the nodes of `template`; raise TemplateError for an unknown phrase or bad bracket."""
    # a stack of open brackets, each the list of its alternatives so far, and their positions
    stack: list[list[list[Node]]] = [[[]]]
    positions: list[int] = []
    for match in TOKEN.finditer(template):
        token = match[0]
        if token == "[":
            stack.append([[]])
            positions.append(match.start())
        elif token == "|" and positions:
            stack[-1].append([])
        elif token == "]" and positions:
            choice = Choice(tuple(stack.pop()))
            positions.pop()
            stack[-1][-1].append(choice)
        elif token[0] == "{" and len(token) > 1:
            stack[-1][-1].append(_slot(token[1:-1]))
        elif token[0] == "<" and len(token) > 1:
            name, *roles = token[1:-1].split()
            if name not in phrases:
                message = f"phrase <{name}> is unknown; add `{name}` to phrases.txt"
                raise TemplateError(template, match.start(), message)
            text = re.sub(
                r"\$(\.[a-z]+)?", rf"{{{roles[0] if roles else 'hero'}\1}}", phrases[name]
            )
            stack[-1][-1].extend(parse(text, phrases))
        elif token in "[]|{}<>":
            raise TemplateError(template, match.start(), f"unbalanced {token!r}")
        else:
            stack[-1][-1].append(token)
    if positions:
        raise TemplateError(template, positions[-1], "unbalanced '['")
    return stack[0][0]


def _slot(text: str) -> Slot:
    role, _, column = text.lower().partition(".")
    if role in HERO_COLUMNS:
        role, column = "hero", role
    return Slot(role, column or "name", capital=text[0].isupper())


class Draws:
    """Random draws, and the bits that it takes to say what they gave.

    random:  `random.Random.random`, uniform in [0, 1). It is the only source of randomness: Python
             guarantees its sequence for a seed, unlike those of `choice` and `sample`.
    bits:    -log2 of the probability of all that was drawn; equal options count as one
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self.random = random
        self.bits = 0.0

    def one_of(self, options: Sequence[T]) -> T:
        """Return one of equally likely options."""
        option = options[int(self.random() * len(options))]
        self.bits += log2(len(options) / options.count(option))
        return option

    def either(self, first: T, second: T, share: float) -> T:
        """Return `first` with probability `share`, else `second`."""
        is_first = self.random() < share
        if first != second:
            self.bits -= log2(share if is_first else 1 - share)
        return first if is_first else second


class Cast(dict[str, Entity]):
    """One row for each role of a plot, no two with the same name."""

    def __init__(self, tables: Mapping[str, Table], random: Callable[[], float]) -> None:
        """Draw the rows; see `Draws` for `random`."""
        super().__init__()
        self._free: dict[str, Table] = {}  # the rows that could be drawn for a role
        self._shown: defaultdict[str, set[str]] = defaultdict(set)
        for role, rows in tables.items():
            names = {entity["name"] for entity in self.values()}
            self._free[role] = tuple(row for row in rows if row["name"] not in names)
            entity = rows[int(random() * len(rows))]
            while entity["name"] in names:
                entity = rows[int(random() * len(rows))]
            self[role] = entity

    def show(self, role: str, column: str) -> str:
        """Return a cell for the text of the story."""
        self._shown[role].add(column)
        return self[role][column]

    @property
    def bits(self) -> float:
        """The bits that it takes to say which cells were shown.

        A role that was not shown costs nothing, and rows with the same shown cells count as one.
        """
        bits = 0.0
        for role, columns in self._shown.items():
            cells, free = itemgetter(*columns), self._free[role]
            bits += log2(len(free) / [cells(row) for row in free].count(cells(self[role])))
        return bits


def render(nodes: list[Node], cast: Cast, draws: Draws) -> str:
    """Return the unpolished text of `nodes`, with one alternative drawn for each choice."""
    out: list[str] = []
    _render(nodes, cast, draws, out.append)
    return "".join(out)


@cache
def _parse_cell(value: str) -> list[Node]:
    return parse(value, {})


def _render(nodes: list[Node], cast: Cast, draws: Draws, write: Callable[[str], None]) -> None:
    for node in nodes:
        if isinstance(node, str):
            write(node)
        elif isinstance(node, Slot):
            value = cast.show(node.role, node.column)
            if "{" in value:
                value = render(_parse_cell(value), cast, draws)
            write(value[0].upper() + value[1:] if node.capital else value)
        else:
            _render(draws.one_of(node.options), cast, draws, write)


# a sentence begins a paragraph, or follows a full stop (inside or outside quotes) or `!` or `?`;
# after `!"` and `?"` the sentence may continue, as in `"Look!" he said`, so the template decides
SENTENCE_START = re.compile(r'(?:(?:\A|\n|[.!?] |\." )"?| ")([a-z])')
# `u` as in `unicorn` and `useful` and the `o` of `one` sound like consonants
BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=(?!uni|use|one\b)[aeiou]|hour|honest)")
# `said Lily. Lily smiled` and `Lily ran. Lily fell`: the second name reads better as a pronoun
NAME_AGAIN = re.compile(
    r"(?:^|(?<=[.!?] )|(?<=said )|(?<=asked )|(?<=cried )|(?<=called )|(?<=shouted )|(?<=named ))"
    r"((?:[A-Z][\w-]+\.? )?[A-Z][\w-]+)([^.!?\"\n]*[.!?]) \1('s)?(?= [a-z])",
    re.MULTILINE,
)


def polish(text: str, cast: Mapping[str, Entity]) -> str:
    """Return `text` with single spaces, `an` where needed, and capitals at sentence starts.

    A quotation that directly follows another has a new speaker, so it starts a new paragraph. A
    name that opens a sentence right after the same name becomes a pronoun.
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    text = "\n\n".join(filter(None, paragraphs)).replace('" "', '"\n\n"')
    text = BEFORE_VOWEL.sub(r"\1n ", text)
    people = {entity["name"]: entity for entity in cast.values() if "he" in entity}

    def pronoun(match: re.Match[str]) -> str:
        person = people.get(match[1])
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        before = re.split("[.!?] ", before)[-1]  # the sentence up to the name
        others = (name for name in people if name in before + match[2])
        if person is None or any(others) or re.search(rf"(?i)\b{person['he']}\b", before):
            return match[0]  # with two people in the sentence, a pronoun could mean either
        return f"{match[1]}{match[2]} {person['his' if match[3] else 'he']}"

    text = NAME_AGAIN.sub(pronoun, text)
    return SENTENCE_START.sub(lambda match: match[0].upper(), text)


_SHORT = {
    "i will not": "i won't", "you will not": "you won't", "it will not": "it won't",
    "we will not": "we won't", "he will not": "he won't", "she will not": "she won't",
    "do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't",
    "are not": "aren't", "was not": "wasn't", "were not": "weren't", "cannot": "can't",
    "could not": "couldn't", "will not": "won't", "would not": "wouldn't", "have not": "haven't",
    "i am": "i'm", "i will": "i'll", "you are": "you're", "you will": "you'll", "we are": "we're",
    "we will": "we'll", "they are": "they're", "it is": "it's", "it will": "it'll",
    "that is": "that's", "there is": "there's", "here is": "here's", "let us": "let's",
}  # fmt: skip
# not before punctuation: "I like the way I am."
LONG_FORM = re.compile(rf"\b(?:{'|'.join(_SHORT)})(?= \w)", re.IGNORECASE)


def contract(text: str) -> str:
    """Return `text` with the short forms of speech: "don't" for "do not"."""
    return LONG_FORM.sub(lambda match: match[0][0] + _SHORT[match[0].lower()][1:], text)
