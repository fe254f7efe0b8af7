"""The template language of the stories: tables, plots, parsing, rendering, polishing.

A template is plain text with three kinds of markup:

    [one|two|]        one of the alternatives, equally likely; they nest, and may be empty
    {toy} {toy.place} a column of the table row drawn for `toy` (`name` when none is given), which
                      may hold slots of its own;
                      {he} {him} {his} {hers} {himself} {kind} are short for {hero.he} and so on,
                      and a capital, {He} or {Toy}, writes the value with one
    <glad friend>     the phrase `glad` of phrases.py with `friend` for its `$` (`hero` if left out)

Blank lines part paragraphs; other line breaks are spaces. Write `a` before a slot and begin
sentences as you like: `polish` turns `a` into `an` and sets the capitals.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

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


@dataclass(frozen=True)
class Plot:
    """A story schema: who and what may play in it, and its text.

    `cast` gives a table for each role; one row is drawn for each, never two of the same name.
    """

    name: str
    cast: Mapping[str, Table]
    text: str


def table(columns: str, rows: str) -> Table:
    """Return the rows of a text table, one a line, columns parted by `|`.

    A line that ends with `|` goes on in the next. Each row gets a column `the` as well.
    """
    keys = columns.split()
    lines = (line.split("|") for line in re.sub(r"\|\s*\n", "|", rows).strip().splitlines())
    return tuple(
        _with_definite(dict(zip(keys, map(str.strip, cells), strict=True))) for cells in lines
    )


def words(text: str) -> Table:
    """Return a table of one column, `name`, from values parted by commas."""
    return tuple(_with_definite({"name": " ".join(value.split())}) for value in text.split(","))


def _with_definite(row: dict[str, str]) -> dict[str, str]:
    """Return `row` with the column `the`: "the red hat" where the name is "a red hat"."""
    return row | {"the": re.sub(r"^(a|an|some) ", "the ", row["name"])}


MALE = {"he": "he", "him": "him", "his": "his", "hers": "his", "himself": "himself"}
FEMALE = {"he": "she", "him": "her", "his": "her", "hers": "hers", "himself": "herself"}


def people(male: str, female: str, columns: str = "name") -> tuple[dict[str, str], ...]:
    """Return a table of people with their pronouns, from values parted by commas.

    Further columns are parted by `/`: people("Dad/father", "Mom/mother", columns="name title").
    """
    keys = columns.split()
    return tuple(
        dict(zip(keys, " ".join(person.split()).split("/"), strict=True)) | pronouns
        for names, pronouns in ((male, MALE), (female, FEMALE))
        for person in names.split(",")
    )


HERO_COLUMNS = ("he", "him", "his", "hers", "himself", "kind")
TOKEN = re.compile(r"[\[\]|]|\{[^{}]*\}|<[^<>]*>|[^\[\]|{}<>]+|.")


def parse(template: str, phrases: Mapping[str, str]) -> list[Node]:
    """Return the nodes of `template`; raise ValueError for an unknown phrase or a bad bracket."""
    # a stack of open brackets, each the list of its alternatives so far
    stack: list[list[list[Node]]] = [[[]]]
    for token in TOKEN.findall(re.sub(r"\n\s*\n", "\n\n", template.strip())):
        if token == "[":
            stack.append([[]])
        elif token == "|" and len(stack) > 1:
            stack[-1].append([])
        elif token == "]" and len(stack) > 1:
            choice = Choice(tuple(stack.pop()))
            stack[-1][-1].append(choice)
        elif token[0] == "{" and len(token) > 1:
            stack[-1][-1].append(_slot(token[1:-1]))
        elif token[0] == "<" and len(token) > 1:
            name, *roles = token[1:-1].split()
            if name not in phrases:
                raise ValueError(f"phrase {token} is unknown; add `{name}` to phrases.py")
            text = re.sub(
                r"\$(\.[a-z]+)?", rf"{{{roles[0] if roles else 'hero'}\1}}", phrases[name]
            )
            stack[-1][-1].extend(parse(text, phrases))
        elif token in "[]|{}<>":
            raise ValueError(f"unbalanced {token!r} in the template {template.strip()[:60]!r}...")
        else:
            stack[-1][-1].append(token)
    if len(stack) > 1:
        raise ValueError(f"unbalanced '[' in the template {template.strip()[:60]!r}...")
    return stack[0][0]


def _slot(text: str) -> Slot:
    role, _, column = text.lower().partition(".")
    if role in HERO_COLUMNS:
        role, column = "hero", role
    return Slot(role, column or "name", capital=text[0].isupper())


def draw_cast(cast: Mapping[str, Table], random: Callable[[], float]) -> dict[str, Entity]:
    """Return one row for each role of `cast`, no two of the same name.

    random: uniform in [0, 1). Only this one method is drawn on: unlike `choice` and `sample`,
    its sequence for a seed is promised to stay the same in every Python.
    """
    drawn: dict[str, Entity] = {}
    names: list[str] = []
    for role, rows in cast.items():
        entity = rows[int(random() * len(rows))]
        while entity["name"] in names:
            entity = rows[int(random() * len(rows))]
        names.append(entity["name"])
        drawn[role] = entity
    return drawn


def render(nodes: list[Node], cast: Mapping[str, Entity], random: Callable[[], float]) -> str:
    """Return the text of `nodes`, one alternative drawn for each choice, before polishing."""
    out: list[str] = []
    _render(nodes, cast, random, out.append)
    return "".join(out)


@cache
def _parse_cell(value: str) -> list[Node]:
    return parse(value, {})


def _render(
    nodes: list[Node],
    cast: Mapping[str, Entity],
    random: Callable[[], float],
    write: Callable[[str], None],
) -> None:
    for node in nodes:
        if isinstance(node, str):
            write(node)
        elif isinstance(node, Slot):
            value = cast[node.role][node.column]
            if "{" in value:
                value = render(_parse_cell(value), cast, random)
            write(value[0].upper() + value[1:] if node.capital else value)
        else:
            options = node.options
            _render(options[int(random() * len(options))], cast, random, write)


# a sentence begins a paragraph, or follows a full stop (inside or outside quotes) or `!` or `?`;
# after `!"` and `?"` it may go on, as in `"Look!" he said`, so there the template decides
SENTENCE_START = re.compile(r'(?:(?:\A|\n|[.!?] |\." )"?| ")([a-z])')
# `u` as in `unicorn` and `useful` and the `o` of `one` sound like consonants
BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=(?!uni|use|one\b)[aeiou]|hour|honest)")
# `said Lily. Lily smiled` and `Lily ran. Lily fell`: the second name is better a pronoun
NAME_AGAIN = re.compile(
    r"(?:^|(?<=[.!?] )|(?<=said )|(?<=asked )|(?<=cried )|(?<=called )|(?<=shouted )|(?<=named ))"
    r"((?:[A-Z][\w-]+\.? )?[A-Z][\w-]+)([^.!?\"\n]*[.!?]) \1('s)?(?= [a-z])",
    re.MULTILINE,
)


def polish(text: str, cast: Mapping[str, Entity]) -> str:
    """Return `text` with single spaces, `an` where it belongs, and capitals at sentence starts.

    Where a quotation follows another one directly the speaker changes, and so the paragraph; a
    name that opens a sentence just after the same name becomes a pronoun.
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    text = "\n\n".join(filter(None, paragraphs)).replace('" "', '"\n\n"')
    text = BEFORE_VOWEL.sub(r"\1n ", text)
    people = {entity["name"]: entity for entity in cast.values() if "he" in entity}

    def pronoun(match: re.Match[str]) -> str:
        person = people.get(match[1])
        if person is None or any(name in match[2] for name in people):
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
# not before a stop: "I like the way I am."
LONG_FORM = re.compile(rf"\b(?:{'|'.join(_SHORT)})(?= \w)", re.IGNORECASE)


def contract(text: str) -> str:
    """Return `text` with the short forms of speech: "don't" for "do not"."""
    return LONG_FORM.sub(lambda match: match[0][0] + _SHORT[match[0].lower()][1:], text)
