"""The template language: slots, choices, phrases, and the editor's touches."""

from itertools import cycle
from math import log2

import pytest

from lmlib.toystories.grammar import Cast, Choice, Draws, contract, parse, polish, render

LILY = {"name": "Lily", "he": "she", "him": "her", "his": "her"}
CAST = {"hero": LILY, "toy": {"name": "orange ball", "place": "under {his} bed"}}


def tell(template: str, numbers: tuple[float, ...] = (0.0,)) -> str:
    """Return `template` rendered with CAST, the given random numbers, and one phrase."""
    nodes = parse(template, {"said": "said $[| to $.him]"})
    random = cycle(numbers).__next__
    cast = Cast({role: (row,) for role, row in CAST.items()}, random)
    return polish(render(nodes, cast, Draws(random)), cast)


def test_slots_choices_and_phrases() -> None:
    assert tell("{hero} had [a {toy}|no toy].") == "Lily had an orange ball."
    assert tell("{hero} had [a {toy}|no toy].", (0.5,)) == "Lily had no toy."
    assert tell("It was {toy.place}.") == "It was under her bed."
    assert tell('"Oh!" <said>. {Toy}!', (0.9,)) == '"Oh!" said Lily to her. Orange ball!'
    assert tell('"Oh!" <said toy>.') == '"Oh!" said orange ball.'


def test_nested_choices_draw_from_the_outside_in() -> None:
    assert tell("[a|b [c|d]]", (0.5, 0.99)) == "B d"


def test_polish_sets_spaces_paragraphs_and_capitals() -> None:
    told = tell("one.  two\nthree.\n\n\n{he} ran. {he} fell.")
    assert told == "One. Two three.\n\nShe ran. She fell."
    assert tell('"Run!" {he} said. "now."') == '"Run!" she said. "Now."'


def test_polish_gives_each_speaker_a_paragraph() -> None:
    assert tell('"Why?" "Because."') == '"Why?"\n\n"Because."'


def test_polish_replaces_a_repeated_name() -> None:
    assert tell("{hero} ran. {hero} fell. {hero}'s leg hurt.") == (
        "Lily ran. She fell. Lily's leg hurt."
    )
    assert tell('"Oh," said {hero}. {hero}\'s leg hurt.') == '"Oh," said Lily. Her leg hurt.'


def test_polish_keeps_a_name_where_a_pronoun_could_mean_another() -> None:
    cast = CAST | {"friend": {"name": "Mia", "he": "she", "his": "her"}}
    assert polish("Lily saw Mia. Lily ran.", cast) == "Lily saw Mia. Lily ran."


def test_polish_keeps_a_name_after_a_pronoun_for_another() -> None:
    cast = {"hero": LILY, "pet": {"name": "Rex", "he": "he", "his": "his"}}
    assert polish("She had a dog named Rex. Rex ran.", cast) == "She had a dog named Rex. He ran."
    cast["pet"] = {"name": "Luna", "he": "she", "his": "her"}
    assert polish("She had a cat named Luna. Luna ran.", cast).endswith("Luna. Luna ran.")


@pytest.mark.parametrize(
    ("bare", "article"),
    [
        ("a apple", "an apple"),
        ("a unicorn", "a unicorn"),
        ("a umbrella", "an umbrella"),
        ("a hour", "an hour"),
        ("a one", "a one"),
        ("a only child", "an only child"),
    ],
)
def test_articles(bare: str, article: str) -> None:
    assert polish(f"It was {bare}.", {}) == f"It was {article}."


def test_contract_keeps_what_ends_a_sentence() -> None:
    text = "I am glad. I do not know who I am. It will not do. I will not go. Cannot is long."
    assert contract(text) == (
        "I'm glad. I don't know who I am. It won't do. I won't go. Can't is long."
    )


def test_cast_has_no_name_twice() -> None:
    rows = ({"name": "red"}, {"name": "blue"})
    numbers = iter((0.0, 0.1, 0.2, 0.9))  # red; red again, twice; blue
    cast = Cast({"one": rows, "two": rows}, lambda: next(numbers))
    assert [entity["name"] for entity in cast.values()] == ["red", "blue"]


# --- the bits that say what was drawn ---


def test_equal_options_count_as_one() -> None:
    """Three of four options are `a`: log2(4 / 3) bits, then log2(4)."""
    numbers = iter((0.3, 0.9))
    draws = Draws(lambda: next(numbers))
    options = parse("[a|a|b|a]", {})[0]
    assert isinstance(options, Choice)
    assert draws.one_of(options.options) == ["a"]
    assert draws.bits == pytest.approx(log2(4 / 3))
    assert draws.one_of("aaab") == "b"
    assert draws.bits == pytest.approx(log2(4 / 3) + 2)


def test_either() -> None:
    numbers = iter((0.2, 0.8, 0.8))
    draws = Draws(lambda: next(numbers))
    assert [draws.either("a", "b", 0.75), draws.either("a", "b", 0.75)] == ["a", "b"]
    assert draws.bits == pytest.approx(log2(4 / 3) + 2)
    assert draws.either("a", "a", 0.75) == "a"  # nothing to say
    assert draws.bits == pytest.approx(log2(4 / 3) + 2)


def test_a_cast_costs_what_is_shown() -> None:
    """Of four children, Mia is shown by her pronoun, then by name; of the others three are free."""
    children = tuple(
        {"name": name, "he": he}
        for name, he in (("Tom", "he"), ("Mia", "she"), ("Ben", "he"), ("Eva", "she"))
    )
    numbers = iter((0.3, 0.3, 0.9))  # Mia; Mia again, then Eva
    cast = Cast({"hero": children, "friend": children}, lambda: next(numbers))
    assert cast.bits == 0
    assert cast.show("hero", "he") == "she"
    assert cast.bits == pytest.approx(1)
    assert cast.show("hero", "name") == "Mia"
    assert cast.bits == pytest.approx(2)
    assert cast.show("friend", "he") == "she"  # one girl of Tom, Ben and Eva
    assert cast.bits == pytest.approx(2 + log2(3))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a [b|c", "unbalanced '\\['"),
        ("a b]", "unbalanced ']'"),
        ("a | b", "unbalanced '|'"),
        ("{hero", "unbalanced '{'"),
        ("<shrugged>", "phrase <shrugged> is unknown; add `shrugged` to phrases.txt"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        parse(template, {})
