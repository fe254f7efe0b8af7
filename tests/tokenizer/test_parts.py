"""The parts of a corpus that workers take."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lmlib.tokenizer import train_bpe
from lmlib.tokenizer.parts import corpus_ranges, spread
from lmlib.tokenizer.paths import FileText
from lmlib.tokenizer.splitting import Splitter

SPECIAL = "<|endoftext|>"
SPLITTER = Splitter("gpt2", [SPECIAL])


LETTERS = str.maketrans("0123456789", "abcdefghij")
DIGITS = str.maketrans("abcdefghij", "0123456789")


def words(first: int, count: int) -> str:
    """Return numbers as words of 11 bytes, which no cut divides."""
    return "".join(
        " word" + f"{number:06}".translate(LETTERS) for number in range(first, first + count)
    )


def numbers_in(found: list[bytes]) -> list[int]:
    """Return the numbers of the words; fail for half a word in any piece."""
    return [int(word[4:].translate(DIGITS)) for piece in found for word in piece.decode().split()]


def write(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def sample(paths: list[Path], num_bytes: int, is_in_place: bool = True) -> list[bytes]:
    texts = [FileText(path, is_in_place) for path in paths]
    cut = SPLITTER.find_cut
    return [part.read() for part in corpus_ranges(list(texts), SPLITTER, 1000, cut, num_bytes)]


def test_every_beginning_is_spread_evenly() -> None:
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert spread(5) == [0, 4, 2, 1, 3]
    assert spread(1) == [0]
    assert spread(0) == []
    for count in range(2, 70):
        assert sorted(spread(count)) == list(range(count))


@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_sample_of_one_file_is_spread_over_it(tmp_path: Path, is_in_place: bool) -> None:
    """Whole words from each sixteenth of the file, in order."""
    paths = write(tmp_path, words(0, 100_000))
    found = sample(paths, 100_000, is_in_place)
    assert 95_000 < sum(map(len, found)) < 105_000
    numbers = numbers_in(found)
    assert numbers == sorted(set(numbers))
    assert {number // 6250 for number in numbers} == set(range(16))


def test_a_sample_of_large_texts_has_some_of_each(tmp_path: Path) -> None:
    paths = write(tmp_path, *(words(10_000 * n, 5000) for n in range(4)))
    found = numbers_in(sample(paths, 40_000))
    counts = [sum(number // 10_000 == n for number in found) for n in range(4)]
    assert all(800 < count < 1000 for count in counts)  # 40,000 bytes are 3,636 words


def test_a_sample_of_many_texts_has_whole_ones(tmp_path: Path) -> None:
    """From all over the list, and no more are opened than it takes."""
    paths = write(tmp_path, *(words(n, 1) for n in range(300)))
    numbers = sorted(numbers_in(sample(paths, 11 * 50)))
    assert len(numbers) == 50
    assert max(b - a for a, b in pairwise(numbers)) <= 16


def test_texts_that_are_short_leave_their_share_to_the_others(tmp_path: Path) -> None:
    paths = write(tmp_path, words(0, 1), words(1, 5000), words(6000, 5000))
    assert 20_000 < sum(map(len, sample(paths, 22_000))) < 24_000


def test_a_sample_as_large_as_the_corpus_is_all_of_it(tmp_path: Path) -> None:
    paths = write(tmp_path, words(0, 5000), words(3, 900))
    options: dict[str, Any] = {"vocab_size": 300, "special_tokens": [SPECIAL]}
    for num_bytes in (5900 * 11, 10**9):
        assert train_bpe(paths, **options, sample_bytes=num_bytes) == train_bpe(paths, **options)


@pytest.mark.parametrize("pattern", ["gpt2", r"\w+|\W"])
def test_a_sample_does_not_depend_on_workers_or_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    paths = write(tmp_path, *(words(3**n, 20_000) + SPECIAL for n in range(9)))

    def learn(**options: Any) -> list[tuple[bytes, bytes]]:
        return train_bpe(paths, 320, [SPECIAL], pattern=pattern, sample_bytes=300_000, **options)[1]

    expected = learn(num_workers=1)
    assert learn(num_workers=3) == learn(num_workers=2, chunk_bytes=5000) == expected
    monkeypatch.setattr("lmlib.tokenizer.engine.pays", lambda num_bytes: False)
    assert learn(num_workers=1) == expected
    assert expected != train_bpe(paths, 320, [SPECIAL], pattern=pattern)[1]


def test_words_do_not_cross_files(tmp_path: Path) -> None:
    paths = write(tmp_path, "ab", "ab", "ab")
    assert train_bpe(paths, 300, [])[1] == [(b"a", b"b")]


def test_an_empty_corpus(tmp_path: Path) -> None:
    paths = write(tmp_path, "", "")
    with pytest.raises(ValueError, match=r"the corpus is empty: .*0\.txt, .*1\.txt; give at least"):
        train_bpe(paths, 300, [])
    with pytest.raises(ValueError, match="the corpus is empty: no file is named"):
        train_bpe([], 300, [])
