"""Read the plots, and the lists and phrases that they share, from text files.

    words.txt     NAME: value, a list or table of people, animals or things
    phrases.txt   name: value, a template for a sentence or part of one
    plots/*.txt   == title ==, then the cast as lines role: value, and after a blank line the text

Continuation lines of a value are indented. A line that begins with # is a comment. The value of a
list or role is one of

    red, blue             names
    CHILDREN + PARENTS    lists of words.txt
    name | place          columns; each line below is a row, unless it is indented deeper than the
                          first and continues the row above it

A table has a column `name`, or a column `names` that makes a row for each of several names. A
column `he`, with `he` or `she`, adds the columns him, his, hers and himself. Every row gets a
column `the`: "the red hat" if its name is "a red hat".

A mistake in a file raises a ValueError that begins with file and line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from lmlib.toystories.grammar import Entity, Node, Table, TemplateError, parse

FOLDER = Path(__file__).parent

# the order matters: a story takes the plot at a random index in the list of all plots
THEMES = ("home", "outdoors", "people", "short", "wonder", "animals")

PRONOUNS = {
    "he": {"him": "him", "his": "his", "hers": "his", "himself": "himself"},
    "she": {"him": "her", "his": "her", "hers": "hers", "himself": "herself"},
}


@dataclass(frozen=True)
class Plot:
    """A story schema: who and what may appear in it, and its text.

    `cast` gives a table for each role; one row is drawn for each, never two with the same name.
    """

    name: str
    cast: Mapping[str, Table]
    text: list[Node]


class Line(NamedTuple):
    """A line of a text file, and its position as `file:line` for errors."""

    place: str
    text: str


@cache
def plots() -> tuple[Plot, ...]:
    """Return all plots; a story takes each with equal probability."""
    lists, phrases = read_lists(FOLDER / "words.txt"), read_phrases(FOLDER / "phrases.txt")
    files = [FOLDER / "plots" / f"{theme}.txt" for theme in THEMES]
    return tuple(plot for file in files for plot in read_plots(file, lists, phrases))


def child_names() -> list[str]:
    """Return the names that children have in the stories."""
    return [row["name"] for row in read_lists(FOLDER / "words.txt")["CHILDREN"]]


def read_lists(path: Path) -> dict[str, Table]:
    """Return the lists of `path` by name."""
    lists: dict[str, Table] = {}
    for name, value in _entries(_lines(path)).items():
        lists[name] = _table(value, lists)
    return lists


def read_phrases(path: Path) -> dict[str, str]:
    """Return the phrases of `path`, templates with `$` for a role, by name."""
    entries = _entries(_lines(path))
    phrases = {name: _join(value) for name, value in entries.items()}
    for value in entries.values():
        _parse(value, phrases)  # report an error in a phrase here, not in a plot that uses it
    return phrases


def read_plots(path: Path, lists: Mapping[str, Table], phrases: Mapping[str, str]) -> list[Plot]:
    """Return the plots of `path` in file order."""
    sections: list[list[Line]] = []
    for line in _lines(path):
        if line.text.startswith("=="):
            sections.append([line])
        elif sections:
            sections[-1].append(line)
        elif line.text:
            raise ValueError(f"{line.place}: a plot begins with its title; write `== title ==`")
    return [_plot(section, lists, phrases) for section in sections]


def _plot(lines: list[Line], lists: Mapping[str, Table], phrases: Mapping[str, str]) -> Plot:
    head = list(takewhile(lambda line: line.text, lines))
    if len(head) == len(lines):
        raise ValueError(f"{head[0].place}: the plot has no text; write it below a blank line")
    cast = {role: _table(value, lists) for role, value in _entries(head[1:]).items()}
    return Plot(head[0].text.strip("= "), cast, _parse(lines[len(head) :], phrases))


def _lines(path: Path) -> Iterator[Line]:
    """Yield the lines of `path` without comments and trailing spaces."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.isascii():
                raise ValueError(
                    f"{path}:{number}: {line.rstrip()!a} is not ASCII; write plain quotes, dashes "
                    "and letters"
                )
            if not line.startswith("#"):
                yield Line(f"{path}:{number}", line.rstrip())


def _entries(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the values of lines `name: value` by name; blank lines are skipped."""
    entries: dict[str, list[Line]] = {}
    name = ""
    for place, text in lines:
        if name and text.startswith(" "):
            entries[name].append(Line(place, text))
        elif text:
            name, colon, value = text.partition(":")
            if not colon or not re.fullmatch("[A-Za-z_]+", name):
                raise ValueError(f"{place}: write `name: value`, and indent continuation lines")
            if name in entries:
                raise ValueError(f"{place}: `{name}` is defined twice; choose another name")
            entries[name] = [Line(place, value)]
    return entries


def _table(value: list[Line], lists: Mapping[str, Table]) -> Table:
    """Return the rows that `value` lists itself or takes from `lists`."""
    header, text = value[0], _join(value)
    if "|" in header.text:
        return tuple(_rows(header, value[1:]))
    if not re.fullmatch(r"[A-Z_]+(\s\+\s[A-Z_]+)*", text):
        return tuple(_entity({}, name) for name in _names(header.place, text))
    names = _split(text, "+")
    for name in names:
        if name not in lists:
            raise ValueError(f"{header.place}: list {name} is unknown; add it to words.txt")
    return tuple(row for name in names for row in lists[name])


def _rows(header: Line, lines: list[Line]) -> Iterator[Entity]:
    columns = _split(header.text, "|")
    if not {"name", "names"} & set(columns):
        raise ValueError(f"{header.place}: a table needs a column `name` or `names`")
    for row in _unwrap(lines):
        cells = _split(row.text, "|")
        if len(cells) != len(columns):
            raise ValueError(
                f"{row.place}: the row has {len(cells)} cells, but {len(columns)} columns; "
                f"write {' | '.join(columns)}"
            )
        entity = dict(zip(columns, cells, strict=True))
        if entity.get("he", "he") not in PRONOUNS:
            raise ValueError(f"{row.place}: column `he` is {entity['he']!r}; write `he` or `she`")
        names = _names(row.place, entity.pop("names")) if "names" in entity else [entity["name"]]
        yield from (_entity(entity, name) for name in names)


def _unwrap(lines: list[Line]) -> list[Line]:
    """Return one line per row; a line indented deeper than the first continues the one above."""
    rows: list[Line] = []
    for line in lines:
        if rows and _indent(line) > _indent(lines[0]):
            rows[-1] = Line(rows[-1].place, rows[-1].text + line.text)
        else:
            rows.append(line)
    return rows


def _names(place: str, text: str) -> list[str]:
    names = _split(text, ",")
    if "" in names:
        raise ValueError(f"{place}: a name is empty; write names with one comma between them")
    return names


def _entity(row: Mapping[str, str], name: str) -> Entity:
    the = re.sub(r"^(a|an|some) ", "the ", name)
    return {**row, "name": name, "the": the, **PRONOUNS.get(row.get("he", ""), {})}


def _parse(lines: list[Line], phrases: Mapping[str, str]) -> list[Node]:
    try:
        return parse("\n".join(line.text for line in lines), phrases)
    except TemplateError as error:
        raise ValueError(f"{lines[error.line].place}: {error}") from error


def _join(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines).strip()


def _split(text: str, separator: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(separator)]


def _indent(line: Line) -> int:
    return len(line.text) - len(line.text.lstrip())
