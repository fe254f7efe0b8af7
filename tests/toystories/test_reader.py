"""The text files of the stories: lists, phrases, plots, and errors that name file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmlib.toystories.grammar import Slot
from lmlib.toystories.reader import FOLDER, THEMES, Plot, read_lists, read_phrases, read_plots

LISTS = {"PARENTS": ({"name": "Mom"}, {"name": "Dad"}), "PETS": ({"name": "Rex"},)}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes text to a file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "made.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_theme_is_read() -> None:
    assert sorted(THEMES) == sorted(path.stem for path in (FOLDER / "plots").iterdir())


# --- words.txt ---


def test_names(file: Callable[[str], Path]) -> None:
    lists = read_lists(file("# two\nHATS: a hat,\n    two  hats\n\n# one\nSUN: the sun\n"))
    assert lists == {
        "HATS": ({"name": "a hat", "the": "the hat"}, {"name": "two hats", "the": "two hats"}),
        "SUN": ({"name": "the sun", "the": "the sun"},),
    }


def test_a_row_continues_where_it_is_indented_deeper(file: Callable[[str], Path]) -> None:
    text = "THINGS: name | place\n    a hat |\n        here\n    the sun | up\n"
    assert read_lists(file(text))["THINGS"] == (
        {"name": "a hat", "place": "here", "the": "the hat"},
        {"name": "the sun", "place": "up", "the": "the sun"},
    )


def test_rows_of_several_names_with_pronouns(file: Callable[[str], Path]) -> None:
    text = (
        "ALL: he | kin | names\n    he | father | Dad, Daddy\n    she | mother | Mom,\n      Mama\n"
    )
    rows = read_lists(file(text))["ALL"]
    assert [row["name"] for row in rows] == ["Dad", "Daddy", "Mom", "Mama"]
    father = {"he": "he", "him": "him", "his": "his", "hers": "his", "himself": "himself"}
    mother = {"he": "she", "him": "her", "his": "her", "hers": "hers", "himself": "herself"}
    assert rows[1] == father | {"name": "Daddy", "kin": "father", "the": "Daddy"}
    assert rows[3] == mother | {"name": "Mama", "kin": "mother", "the": "Mama"}


def test_lists_are_joined_in_order(file: Callable[[str], Path]) -> None:
    lists = read_lists(file("ONE: a, b\nTWO: c\nALL: TWO + ONE\n"))
    assert [row["name"] for row in lists["ALL"]] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ONE: a\nTWO a, b\n", "2: write `name: value`, and indent continuation lines"),
        ("    a, b\n", "1: write `name: value`, and indent continuation lines"),
        ("ONE: a\n# second\nONE: b\n", "3: `ONE` is defined twice; choose another name"),
        ("ONE: a\x0cb\r\nTWO: c\nONE: d\n", "3: `ONE` is defined twice"),
        ("ALL: ONE + TWO\n", "1: list ONE is unknown; add it to words.txt"),
        ("ONE: a, b,\n", "1: a name is empty; write names with one comma between them"),
        ("\nONE: a | b\n    c | d\n", "2: a table needs a column `name` or `names`"),
        (
            "ONE: name | b\n    a | b\n    c\n        d | e | f\n",
            r"3: the row has 3 cells, but 2 columns; write name \| b",
        ),
        ("ONE: he | names\n    him | Dad\n", "2: column `he` is 'him'; write `he` or `she`"),
        ("ONE: a caf\u00e9\n", r"1: 'ONE: a caf\\xe9' is not ASCII; write plain quotes"),
    ],
)
def test_bad_lists(file: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"made.txt:{message}"):
        read_lists(file(text))


# --- phrases.txt ---


def test_phrases(file: Callable[[str], Path]) -> None:
    text = 'said: [said $|$ said]\nthanks:\n    "Thanks: [a lot|]!"\n    <said>.\n'
    assert read_phrases(file(text)) == {
        "said": "[said $|$ said]",
        "thanks": '"Thanks: [a lot|]!"\n    <said>.',
    }


def test_a_bad_phrase(file: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"made.txt:2: unbalanced '\['"):
        read_phrases(file("said: said $\nglad: $ [laughed\n"))


# --- plots/*.txt ---


def test_plots(file: Callable[[str], Path]) -> None:
    text = """# Of two parents.

== first ==
hero: PARENTS + PETS
color: red, blue
thing: name | use
    a hat | wore it

{He} had
# not in the story
{thing}.

The <end>.
== second ==
hero: PETS

Hello.
"""
    first, second = read_plots(file(text), LISTS, {"end": "end"})
    assert (first.name, second.name) == ("first", "second")
    assert first.cast == {
        "hero": ({"name": "Mom"}, {"name": "Dad"}, {"name": "Rex"}),
        "color": ({"name": "red", "the": "red"}, {"name": "blue", "the": "blue"}),
        "thing": ({"name": "a hat", "use": "wore it", "the": "the hat"},),
    }
    he, hat = Slot("hero", "he", capital=True), Slot("thing", "name", capital=False)
    assert first.text == ["\n", he, " had\n", hat, ".\n\nThe ", "end", "."]
    assert second == Plot("second", {"hero": LISTS["PETS"]}, ["\nHello."])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hero: PETS\n", "1: a plot begins with its title; write `== title ==`"),
        ("== pets ==\nhero PETS\n\n", "2: write `name: value`"),
        ("== pets ==\nhero: PETS\n", "1: the plot has no text; write it below a blank line"),
        ("== pets ==\nhero: CATS\n\n", "2: list CATS is unknown; add it to words.txt"),
        ("== pets ==\nhero: PETS\n\nOne.\n\nTwo [or\nthree.\n", r"6: unbalanced '\[': Two \[or"),
        ("== pets ==\nhero: PETS\n\nOne.\n# two\nThree]\n", r"6: unbalanced ']': Three]"),
        (
            "== pets ==\nhero: PETS\n\n<glad>\n",
            "4: phrase <glad> is unknown; add `glad` to phrases",
        ),
    ],
)
def test_bad_plots(file: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"made.txt:{message}"):
        read_plots(file(text), LISTS, {})
