"""A corpus, a tokenizer learnt from it, and a switch that sends small inputs to the engine."""

import random
from pathlib import Path

import pytest

from lmlib.tokenizer import Tokenizer, engine, train_bpe
from tests.tokenizer.strategies import END, MANY_SCRIPTS, TRICKY

Learnt = tuple[dict[int, bytes], list[tuple[bytes, bytes]]]


def make_corpus(num_words: int, seed: int) -> str:
    """Return words of a small language, mixed with every tricky case."""
    rng = random.Random(seed)
    syllables = ["ka", "lo", "mi", "the", "ing", "ver", "ß", "été", "中", "ana", "'s", "12", "Ka"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    parts = []
    for _ in range(num_words):
        parts.append(rng.choice(words))
        parts.append(rng.choice([" ", " ", " ", " ", ", ", "\n", rng.choice(TRICKY)]))
        if rng.random() < 0.01:
            parts.append(END)
    return "".join(parts)


@pytest.fixture(scope="session")
def corpus() -> str:
    """Return about 60 kB of text."""
    return make_corpus(10_000, seed=0) + MANY_SCRIPTS


@pytest.fixture(scope="session")
def corpus_file(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the corpus, some bytes of invalid UTF-8 and a truncated character."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    middle = len(corpus) // 2
    data = corpus[:middle].encode() + b"\xff\xfe \xe2\x82 \x80" + corpus[middle:].encode()
    path.write_bytes(END.encode() + data + b"\xf0\x9f")
    return path


@pytest.fixture(scope="session")
def learnt(corpus_file: Path) -> Learnt:
    """Return a vocabulary of 700 tokens for the corpus, and its merges."""
    return train_bpe(corpus_file, 700, [END])


@pytest.fixture
def tokenizer(learnt: Learnt) -> Tokenizer:
    """Return a tokenizer for the corpus that has not encoded anything yet."""
    return Tokenizer(*learnt, [END])


@pytest.fixture
def always_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send inputs of any size through the kernels."""
    engine.load()
    monkeypatch.setattr(engine, "ENGINE_MIN_BYTES", 0)
    monkeypatch.setattr("lmlib.tokenizer.codec.ENGINE_HABIT_BYTES", 0)
    monkeypatch.setattr("lmlib.tokenizer.train.PLAIN_MERGES", -1)


@pytest.fixture(params=["plain", "engine"])
def way(request: pytest.FixtureRequest) -> str:
    """Go through plain Python and through the kernels in turn."""
    if request.param == "engine":
        request.getfixturevalue("always_engine")
    else:  # even if an earlier test has loaded the kernels
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setattr(engine, "is_loaded", lambda: False)
    return request.param
