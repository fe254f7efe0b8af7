"""The stories: the same everywhere, of many plots, in correct English, and no two alike."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice, pairwise
from math import log2
from pathlib import Path
from random import Random

import pytest

from lmlib.separator import SEPARATOR
from lmlib.toystories import generate_stories, write_corpus
from lmlib.toystories.generate import Story, tell
from lmlib.toystories.grammar import Cast, Choice, Draws, Node, Slot, parse, render
from lmlib.toystories.reader import FOLDER, Plot, plots, read_lists

PLOTS = plots()
CHILDREN = read_lists(FOLDER / "words.txt")["CHILDREN"]

# sha256 of the first 1,000,000 bytes of the stream of seed 1, its stories concatenated.
# It changes with every edit of words or plots, and only then.
FIRST_MEGABYTE = "071d5352a912434a4cdd6e8fef5df4b5200a55042123e3332d2f463530c073ed"

FIRST_MEGABYTE_SCRIPT = """
import hashlib
from lmlib.toystories import generate_stories
text, stories = bytearray(), generate_stories(1)
while len(text) < 1_000_000:
    text += next(stories).encode()
print(hashlib.sha256(text[:1_000_000]).hexdigest())
"""


@pytest.fixture(scope="module")
def stories() -> list[tuple[str, str]]:
    """Return 4,000 stories as (name of the plot, text): about a hundred of each plot."""
    told = (tell(3, index) for index in range(4000))
    return [(story.plot, story.text) for story in told]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[int]]:
    """Return the paths of a corpus of 3 MB and 0.2 MB, and the arguments of on_bytes."""
    folder = tmp_path_factory.mktemp("toystories")
    train, valid = folder / "train.txt", folder / "valid.txt"
    told: list[int] = []
    write_corpus(
        train, valid, seed=1, train_bytes=3_000_000, valid_bytes=200_000, on_bytes=told.append
    )
    return train, valid, told


def documents(path: Path) -> list[str]:
    text = path.read_text(encoding="ascii")
    assert text.endswith(f"\n{SEPARATOR}\n")
    return text.split(f"\n{SEPARATOR}\n")[:-1]


# --- the same on every machine ---


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_first_megabyte_is_pinned_in_a_fresh_interpreter(hash_seed: str) -> None:
    """An order taken from a set or from hash() would change with PYTHONHASHSEED."""
    result = subprocess.run(
        [sys.executable, "-c", FIRST_MEGABYTE_SCRIPT],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == FIRST_MEGABYTE


def test_seeds_differ_and_repeat() -> None:
    first, again, other = (list(islice(generate_stories(seed), 20)) for seed in (5, 5, 6))
    assert first == again
    assert not set(first) & set(other)


def test_negative_seed_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="seed is -1; give a whole number from 0 up"):
        generate_stories(-1)


# --- the plots ---


def slots(nodes: list[Node]) -> Iterator[Slot]:
    for node in nodes:
        if isinstance(node, Slot):
            yield node
        elif isinstance(node, Choice):
            for option in node.options:
                yield from slots(option)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_slot_is_filled_by_every_row_of_its_table(plot: Plot) -> None:
    """All alternatives of the text, and of the slots inside table cells; every role is used."""
    used: set[str] = set()
    waiting = list(slots(plot.text))
    while waiting:
        slot = waiting.pop()
        used.add(slot.role)
        for row in plot.cast[slot.role]:
            waiting += slots(parse(row[slot.column], {}))

    assert used == set(plot.cast)


def test_every_plot_is_told_about_equally_often(stories: list[tuple[str, str]]) -> None:
    told = Counter(name for name, _ in stories)
    assert len(PLOTS) == len({plot.name for plot in PLOTS}) >= 16
    mean = len(stories) / len(PLOTS)
    assert set(told) == {plot.name for plot in PLOTS}
    assert all(mean / 2 < times < 2 * mean for times in told.values())


def test_stories_of_one_plot_vary(stories: list[tuple[str, str]]) -> None:
    """Two tellings of a plot share less than 60% of their sentences."""
    for plot in PLOTS:
        texts = [text for name, text in stories if name == plot.name][:12]
        sentences = [set(re.split(r"(?<=[.!?]) |\n\n", text)) for text in texts]
        for one, two in pairwise(sentences):
            assert len(one & two) < 0.6 * len(one), plot.name


# --- English ---


def test_nothing_unfilled_and_tidy_spaces(stories: list[tuple[str, str]]) -> None:
    for _, text in stories:
        assert not re.search(r"[\[\]{}<>|$_]", text), text
        assert not re.search(r" [,.!?;:]|[ ]{2}|[ \n]\n\n|\n\n\n|[.!?,]{2}|\n ", text), text
        assert text == text.strip()
        assert SEPARATOR not in text
        assert text.isascii()


def test_quotes_are_balanced_in_every_paragraph(stories: list[tuple[str, str]]) -> None:
    for _, text in stories:
        for paragraph in text.split("\n\n"):
            parts = paragraph.split('"')
            assert len(parts) % 2 == 1, paragraph
            for quote in parts[1::2]:
                assert re.fullmatch(r"[A-Z].*[.,!?]", quote), paragraph


def test_sentences_start_with_capitals_and_end(stories: list[tuple[str, str]]) -> None:
    for _, text in stories:
        for paragraph in text.split("\n\n"):
            assert re.match(r'"?[A-Z]', paragraph), paragraph
            assert re.search(r'[.!?]"?$', paragraph), paragraph
        # `Mr.` is followed by a name, and so by a capital too; `!"` may be followed by `he said`
        assert not re.search(r'[.!?] "?[a-z]', text), text
        assert not re.search(r'\." [a-z]', text), text


VOWEL_SOUND = re.compile(r"[aeio]|u(?!ni|se|su)|hour|honest")
CONSONANT_SOUND = re.compile(r"one\b|once\b|eu")


def test_a_and_an(stories: list[tuple[str, str]]) -> None:
    seen: Counter[str] = Counter()
    for _, text in stories:
        for article, word in re.findall(r"\b([Aa]n?) ([A-Za-z]+)", text):
            vowel = VOWEL_SOUND.match(word.lower()) and not CONSONANT_SOUND.match(word.lower())
            assert article.lower() == ("an" if vowel else "a"), f"{article} {word} in {text}"
            seen[article.lower()] += 1
    assert min(seen["a"], seen["an"]) > 500


def test_no_word_is_doubled(stories: list[tuple[str, str]]) -> None:
    """`very very` or `the the` is a mistake in a template; an intended repetition has a comma."""
    meant = {"that", "had"}
    for _, text in stories:
        doubled = set(re.findall(r"\b(\w+) \1\b", text)) - meant
        assert not doubled, f"{doubled} in {text}"


def test_a_result_clause_follows_so(stories: list[tuple[str, str]]) -> None:
    """`very angry that his face got red` should be `so angry that`."""
    for _, text in stories:
        assert not re.search(r"\b(very|too) \w+ that (he|she|it|his|her)\b", text), text


def test_number_agrees_after_there_was(stories: list[tuple[str, str]]) -> None:
    for _, text in stories:
        assert not re.search(r"\bthere (was|is) (two|three|many|some \w+s)\b", text), text


def test_the_narrator_is_nobody_in_the_story(stories: list[tuple[str, str]]) -> None:
    """`I` and `my` stand in speech and letters only: not `she said that it was my brother`."""
    for _, text in stories:
        told = re.sub(r'"[^"]*"', "", text)
        assert not re.search(r"\b(I|[Mm]e|[Mm]y|[Mm]ine)\b", told), text


def test_a_paragraph_of_its_own_has_a_new_speaker(stories: list[tuple[str, str]]) -> None:
    """After a paragraph that ends in speech, `she said` would be read as the other speaker.

    `polish` starts a paragraph between two quotations, which is wrong if both have one speaker.
    """
    for _, text in stories:
        assert not re.search(r'"\n\n"[^"]*" (he|she) \w+[.,]', text), text


INTRODUCED = re.compile(r"(named|called|name was|friend|teacher,|driver,|child,|met|I am|I'm) $")
INTRODUCES = re.compile(r", an? |, the | from next door| was an? ")


def test_people_are_introduced(stories: list[tuple[str, str]]) -> None:
    """The first time a name is told, the story says who that is."""
    lists = read_lists(FOLDER / "words.txt")
    groups = "CHILDREN", "CREATURES", "TEACHERS", "NEIGHBORS"
    names = {re.escape(row["name"]) for group in groups for row in lists[group]}
    named = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    for _, text in stories:
        known: set[str] = set()
        for match in named.finditer(text):
            if match[1] not in known:
                before, after = text[: match.start()], text[match.end() :]
                assert INTRODUCED.search(before) or INTRODUCES.match(after), (match[1], text)
                known.add(match[1])


def test_templates_have_long_forms() -> None:
    """Whether a story has short forms is drawn for the whole of it, by `contract`."""
    for path in (FOLDER / "phrases.txt", *(FOLDER / "plots").iterdir()):
        assert not re.search(r"\w(n't|'m|'re|'ll)\b", path.read_text(encoding="ascii")), path


def test_pronouns_agree_with_the_hero(stories: list[tuple[str, str]]) -> None:
    """If everyone in a story is a girl or a woman, no `he` occurs, and the other way round.

    In the plots below only the drawn cast appears, and the cast is known by name.
    """
    named = {"lost toy", "learning to ride", "cleaning up", "balloon"}
    male = {"he", "him", "his", "himself"}
    female = {"she", "her", "hers", "herself"}
    boys = {child["name"] for child in CHILDREN if child["he"] == "he"}
    girls = {child["name"] for child in CHILDREN if child["he"] == "she"}
    men = boys | {"Dad", "Daddy", "Grandpa", "Uncle"}
    women = girls | {"Mom", "Mommy", "Mama", "Grandma", "Granny", "Aunt"}
    checked = Counter()
    for name, text in stories:
        if name in named:
            words = re.findall(r"[A-Za-z]+", text)
            pronouns = {word.lower() for word in words} & (male | female)
            if not women & set(words):
                assert pronouns <= male, text
                checked["male"] += 1
            elif not men & set(words):
                assert pronouns <= female, text
                checked["female"] += 1
    assert min(checked["male"], checked["female"]) > 50


# --- the bits of a story ---


def ends(nodes: list[Node], cast: Cast, text: str, starts: dict[int, float]) -> dict[int, float]:
    """Return the probability that `nodes` end at each place of `text`, given where they start."""
    for node in nodes:
        if isinstance(node, Choice):
            found: defaultdict[int, float] = defaultdict(float)
            for option in node.options:
                for end, weight in ends(option, cast, text, starts).items():
                    found[end] += weight / len(node.options)
            starts = dict(found)
        else:
            part = node if isinstance(node, str) else render([node], cast, Draws(float))
            starts = {
                place + len(part): weight
                for place, weight in starts.items()
                if text.startswith(part, place)
            }
    return starts


def test_bits_are_of_the_text_however_it_was_drawn() -> None:
    """The probability of a text, summed over all ways to draw it, which may be several."""
    for plot in PLOTS:
        random = Random(plot.name).random
        for _ in range(10):
            draws, cast = Draws(random), Cast(plot.cast, random)
            text = render(plot.text, cast, draws)
            probability = ends(plot.text, cast, text, {0: 1.0})[len(text)]
            assert draws.bits == pytest.approx(-log2(probability)), plot.name


def test_floor_of_a_file(tmp_path: Path) -> None:
    """The bits of its stories over all of its bytes, those of the separators too."""
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    floor = write_corpus(train, valid, seed=4, train_bytes=1_000, valid_bytes=20_000)
    texts = documents(valid)
    told = [tell(4, index) for index in range(len(texts))]
    assert [story.text for story in told] == texts
    assert floor == pytest.approx(sum(story.bits for story in told) / valid.stat().st_size)
    assert 0.05 < floor < 0.08


# --- the files ---


def test_corpus_sizes_and_progress(corpus: tuple[Path, Path, list[int]]) -> None:
    train, valid, told = corpus
    # the last story may exceed the size
    assert 3_000_000 <= train.stat().st_size < 3_003_000
    assert 200_000 <= valid.stat().st_size < 203_000
    assert sum(told) == train.stat().st_size + valid.stat().st_size
    assert len(told) > 20


def test_no_story_is_written_twice(corpus: tuple[Path, Path, list[int]]) -> None:
    train, valid = documents(corpus[0]), documents(corpus[1])
    assert len(set(train)) == len(train)
    assert len(set(valid)) == len(valid)
    assert not set(train) & set(valid)


def test_repeated_stories_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the stream yields everything twice, each story is still written once."""
    twice = (Story("", f"Story {number // 2}.", 1.0) for number in range(10_000))
    monkeypatch.setattr("lmlib.toystories.generate._stories", lambda seed: twice)
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    write_corpus(train, valid, seed=0, train_bytes=2_000, valid_bytes=1_000)
    numbers = [int(re.sub(r"\D", "", text)) for text in documents(valid) + documents(train)]
    assert numbers == list(range(len(numbers)))


def test_valid_file_does_not_depend_on_the_size_of_train(tmp_path: Path) -> None:
    made = []
    for train_bytes in (1, 50_000):
        write_corpus(
            tmp_path / "train.txt",
            tmp_path / "valid.txt",
            seed=2,
            train_bytes=train_bytes,
            valid_bytes=20_000,
        )
        made.append(hashlib.sha256((tmp_path / "valid.txt").read_bytes()).digest())
    assert made[0] == made[1]


def test_vocabulary_and_length(corpus: tuple[Path, Path, list[int]]) -> None:
    """There are many words, yet a few hundred make up most of the text, as in TinyStories."""
    train = documents(corpus[0])
    counts = Counter(re.findall("[a-z]+", " ".join(train).lower()))
    assert len(counts) >= 1_500
    common = sum(count for _, count in counts.most_common(500))
    assert common > 0.85 * sum(counts.values())
    assert 600 < sum(map(len, train)) / len(train) < 1_100


@pytest.mark.parametrize(
    ("train_bytes", "valid_bytes", "message"),
    [
        (0, 5, "train_bytes is 0; give a positive number of bytes"),
        (5, -2, "valid_bytes is -2; give a positive number of bytes"),
    ],
)
def test_sizes_must_be_positive(
    tmp_path: Path, train_bytes: int, valid_bytes: int, message: str
) -> None:
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    with pytest.raises(ValueError, match=message):
        write_corpus(train, valid, seed=1, train_bytes=train_bytes, valid_bytes=valid_bytes)
    assert not list(tmp_path.iterdir())
