"""lmlib/harness/stories.py: questions made of stories, by hand."""

from pathlib import Path

import pytest

from lmlib.harness import stories
from lmlib.separator import SEPARATOR
from lmlib.toystories import child_names, write_corpus

MIA = (
    'One day Mia met a boy. "Hi!" said Mia. Tom said, "I am Tom." So she and Tom ran, and Mia won.'
)
ANN = "There was a girl named Ann. Mom and Ann sang. She was glad, and so was Ann."
BEN = 'Once there was Ben. He saw Mr. Bo. "Go!" said Ben.\n\nHe was sad. He said, "I am Ben."'
SUE = "A girl named Sue ran.\nShe fell. Then Sue cried. And so\nSue learned to walk."
NOBODY = "The mom saw the boy. He ran."  # and her son, in the first story, is a Mom


def write(folder: Path, *documents: str) -> Path:
    path = folder / "valid.txt"
    path.write_text(SEPARATOR.join([*documents, ""]), encoding="utf-8")
    return path


def test_heroes_by_hand(tmp_path: Path) -> None:
    """The first who is named three times, and no word that is in lower case elsewhere."""
    found = stories.read_stories(write(tmp_path, MIA, NOBODY, ANN, BEN, SUE))
    assert [(story.hero, story.pronoun) for story in found] == [
        ("Mia", "she"),
        ("Ann", "she"),
        ("Ben", "he"),
        ("Sue", "she"),
    ]
    assert found[0].names == ("Mia", "Tom")
    assert found[2].names == ("Ben", "Mr. Bo")


def test_endings_by_hand(tmp_path: Path) -> None:
    """The other ending is of the next story with the same pronoun, told of this hero."""
    found = stories.ending_questions(write(tmp_path, MIA, NOBODY, ANN, BEN, SUE))
    of_mia = " So she and Tom ran, and Mia won."
    of_ann = " She was glad, and so was Ann."
    of_sue = " And so\nSue learned to walk."
    # Ben is the only boy
    assert found == [
        {
            "context": MIA.removesuffix(of_mia),
            "choices": [of_mia, of_ann.replace("Ann", "Mia")],
            "answer": 0,
        },
        {
            "context": ANN.removesuffix(of_ann),
            "choices": [of_sue.replace("Sue", "Ann"), of_ann],
            "answer": 1,
        },
        {
            "context": SUE.removesuffix(of_sue),
            "choices": [of_sue, of_mia.replace("Mia", "Sue")],
            "answer": 0,
        },
    ]


def test_names_by_hand(tmp_path: Path) -> None:
    """The last mention; the other is whom the story named last, or the hero of a later story."""
    found = stories.name_questions(write(tmp_path, MIA, NOBODY, ANN, BEN, SUE))
    asked = [(q["context"][-8:], q["choices"], q["answer"]) for q in found]
    assert asked == [
        ("ran, and", [" Mia", " Tom"], 0),
        ("d so was", [" Ben", " Ann"], 1),
        ('d, "I am', [" Ben", " Mr. Bo"], 0),
        (". And so", ["\nMia", "\nSue"], 1),
    ]


def test_what_starts_a_sentence_is_no_ending() -> None:
    """`"Hi!" said Mia.` is one sentence, and so is one with `Mr. Bo`."""
    story = stories.Story('Mia ran. "Hi!" said Mr. Bo.', "Mia", ("Mia",))
    assert story.ending == ' "Hi!" said Mr. Bo.'
    assert stories.Story("One sentence only.", "Mia", ()).ending == ""


def test_a_text_without_heroes_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, NOBODY, "")
    for ask in (stories.ending_questions, stories.name_questions):
        with pytest.raises(ValueError, match=f"^{path}: no story whose hero is named 3 times"):
            ask(path)


def test_of_the_embedded_corpus_most_stories_have_questions(tmp_path: Path) -> None:
    """About children, mostly; the right answer is the first as often as the second."""
    write_corpus(
        tmp_path / "train.txt",
        tmp_path / "valid.txt",
        seed=1,
        train_bytes=1000,
        valid_bytes=100_000,
    )
    text = (tmp_path / "valid.txt").read_text(encoding="utf-8")
    count = text.count(SEPARATOR)
    heroes = [story.hero for story in stories.read_stories(tmp_path / "valid.txt")]
    assert len(heroes) > 0.9 * count
    assert sum(hero in child_names() for hero in heroes) > 0.6 * count
    for ask in (stories.ending_questions, stories.name_questions):
        found = ask(tmp_path / "valid.txt")
        assert len(found) > 0.9 * count
        assert abs(sum(question["answer"] for question in found) - len(found) / 2) <= 0.5
        for question in found:
            right = question["choices"][question["answer"]]
            assert question["context"] + right in text
            assert len(set(question["choices"])) == 2
