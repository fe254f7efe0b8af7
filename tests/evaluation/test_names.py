"""Names kept, counted by hand."""

import pytest

from lmlib.evaluation import NamesKept, names_kept

NAMES = ["Tom", "Mia", "Ben"]


@pytest.mark.parametrize(
    ("prompt", "text", "counted", "kept"),
    [
        ("", "Tom ran. Tom fell. Mia saw Tom.", 3, 2),  # not the first Tom; then Tom, Mia, Tom
        ("", 'Tom, said Tom\'s "Tom!" and Tommy', 2, 2),  # whole words; of Tommy no part counts
        ("", "Once upon a time", 0, 0),
        ("Tom met Mia.", " Mia met Ben, and Tom", 3, 2),  # names of the prompt are not counted
        ("A boy named", " Tom. Mia said", 1, 0),  # the first of a story may be in its text
        ("To", "m and Tom and Ben", 2, 1),  # the prompt may end within a name
        ("", "TOM and tom and Tom and Tom", 1, 1),
    ],
)
def test_by_hand(prompt: str, text: str, counted: int, kept: int) -> None:
    assert names_kept([(prompt, text)], NAMES) == NamesKept(counted, kept)


def test_each_story_has_names_of_its_own() -> None:
    """The second story has no Tom yet."""
    found = names_kept([("", "Tom. Tom."), ("", "Mia. Tom. Mia.")], NAMES)
    assert found == NamesKept(3, 2)
    assert found.share == pytest.approx(2 / 3)
    assert names_kept([], NAMES).share == 0
