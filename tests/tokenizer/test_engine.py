"""The kernels against the reference, through `train_bpe` and `Tokenizer` alone."""

import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlib import native
from lmlib.tokenizer import Tokenizer, codec, encoder, engine, train_bpe
from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.reference import learn_merges
from tests.tokenizer.strategies import (
    END,
    FORMS,
    LONG,
    PlainEncoder,
    border_tokenizer,
    examples,
    file_ids,
    plain_counts,
    plain_tokens,
    raw_bytes,
    special_lists,
    telling_characters,
    texts,
    with_pattern,
)

pytestmark = pytest.mark.usefixtures("always_engine")
any_bytes = st.one_of(texts.map(str.encode), raw_bytes)


def test_every_named_pattern_has_kernels() -> None:
    """Otherwise the tests below would compare plain Python with plain Python."""
    assert set(engine.ENGINE_PATTERNS) == set(PATTERNS)


@pytest.mark.parametrize(
    ("num_bytes", "state", "expected"),
    [
        (1, "loaded", True),
        (1, "compiled", False),
        (1 << 20, "compiled", True),
        (1 << 20, "", False),  # plain Python is faster than compiling them
        (1 << 23, "", True),
    ],
)
def test_kernels_are_loaded_where_that_pays(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int, state: str, expected: bool
) -> None:
    monkeypatch.undo()  # of `always_engine`
    monkeypatch.setattr(engine, "is_loaded", lambda: state == "loaded")
    monkeypatch.setattr(engine, "load", lambda: None)
    monkeypatch.setattr(native, "is_compiled", lambda _: state == "compiled")
    assert engine.pays(num_bytes) == expected


@pytest.mark.parametrize("broken", ["is_compiled", "load_kernels"])
def test_without_llvmlite_plain_python_does_the_work(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def missing(_: str) -> None:
        raise ImportError("no llvmlite")

    monkeypatch.undo()
    monkeypatch.setattr(engine, "_cannot_load", False)
    monkeypatch.setattr(engine, "is_loaded", lambda: False)
    monkeypatch.setattr(native, broken, missing)
    text = "one two " * 50_000
    assert tokenizer.encode(text)[:40] == PlainEncoder(tokenizer).ids(b"one two " * 20)[:40]
    assert engine._cannot_load


def test_the_tables_of_an_encoder_do_not_grow_with_the_calls(tokenizer: Tokenizer) -> None:
    for number in range(100):
        tokenizer.encode("one two", allowed_special={END} if number % 2 else set())
        codec._splitter.cache_clear()
    assert tokenizer._encoder is not None
    assert len(tokenizer._encoder._tables) == 2


# -- splitting


def words_as_tokens(parts: list[bytes], pattern: str) -> Tokenizer:
    """Return a tokenizer whose ids show how the parts were split.

    Each pre-token is one token; and two neighbours would become one, were they not kept apart.
    """
    words = [[word for word, _ in plain_tokens(part, [], pattern)] for part in parts]
    merges = learn_merges(Counter(itertools.chain(*words)), 1 << 30)
    merges += dict.fromkeys(pair for tokens in words for pair in itertools.pairwise(tokens))
    vocab = dict(enumerate(dict.fromkeys(left + right for left, right in merges), start=256))
    return Tokenizer({byte: bytes([byte]) for byte in range(256)} | vocab, merges, pattern=pattern)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_pre_tokens_equal_the_reference(tmp_path: Path, pattern: str) -> None:
    """Any bytes: each byte of invalid UTF-8 is encoded on its own."""

    @examples
    @given(any_bytes)
    def check(data: bytes) -> None:
        ours = words_as_tokens([data], pattern)
        found = [ours.vocab[token_id] for token_id in file_ids(ours, data, tmp_path)]
        assert found == [token for token, _ in plain_tokens(data, [], pattern)]

    check()


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("form", FORMS)
def test_characters_of_all_classes_are_told_apart(tmp_path: Path, pattern: str, form: str) -> None:
    """Each is placed between characters that bind to one class and not to another."""
    ours = border_tokenizer(pattern)
    data = "".join(form.replace("{}", c) for c in telling_characters()).encode()
    assert file_ids(ours, data, tmp_path) == PlainEncoder(ours).ids(data)


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("run", ["a", "A", " ", "1", "!", "é", "\n", "😀", "a b"])
def test_borders_at_every_place_of_a_block(pattern: str, run: str) -> None:
    """The kernels read 64 bytes at once: the tricky parts begin in a block and end after it."""
    tricky = [
        "'ll b'LL",
        " \u3000a",
        "é\u0301e",
        "1²34",
        "!\r\n/",
        "\n \n b",
        "中文a",
        "A'\u017fb",
        "",
    ]
    pieces = [(run * 67)[:shift] + ending for shift in range(58, 68) for ending in tricky]
    parts = [*(piece.encode() for piece in pieces), "|".join(pieces).encode()]
    ours = words_as_tokens(parts, pattern)
    for part in parts:
        found = [ours.vocab[token_id] for token_id in ours.encode(part.decode())]
        assert found == [token for token, _ in plain_tokens(part, [], pattern)]


# -- encoding


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_the_reference(tokenizer: Tokenizer, tmp_path: Path, pattern: str) -> None:
    """A text, and a file in chunks of a few bytes; decoding returns the bytes."""

    @examples
    @given(any_bytes, special_lists, st.integers(1, 40))
    def check(data: bytes, special_tokens: list[str], chunk_bytes: int) -> None:
        ours = with_pattern(tokenizer, pattern, special_tokens)
        expected = PlainEncoder(ours).ids(data)
        found = file_ids(ours, data, tmp_path, chunk_bytes=chunk_bytes)
        assert found == expected
        assert ours.decode_bytes(found) == data
        text = data.decode("utf-8", "ignore")
        assert ours.encode(text) == PlainEncoder(ours).ids(text.encode())

    check()


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("name", list(LONG))
def test_ids_of_long_pre_tokens_equal_the_reference(
    tokenizer: Tokenizer, tmp_path: Path, name: str, pattern: str
) -> None:
    """With merges learnt from the text itself, many levels deep, and with other merges."""
    data = b"one " + LONG[name] + b" two"
    merges = learn_merges(plain_counts(data, [], pattern), 20)
    tokens = [left + right for left, right in merges]
    vocab = dict(enumerate([*(bytes([byte]) for byte in range(256)), *tokens]))
    for ours in (
        Tokenizer(vocab, merges, pattern=pattern),
        with_pattern(tokenizer, pattern, [END]),
    ):
        expected = PlainEncoder(ours).ids(data)
        assert file_ids(ours, data, tmp_path) == expected
        assert file_ids(ours, data, tmp_path, num_workers=2, chunk_bytes=100) == expected


def test_ids_of_a_pre_token_of_any_length(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The lengths are those where the kernels may switch algorithms, and one far above."""
    rng = random.Random(1)
    plain = PlainEncoder(tokenizer)
    for length in (*range(1, 140), 255, 256, 257, 4095, 4096, 4097, 100_000):
        data = "".join(rng.choices("kalomitheing", k=length)).encode()
        assert file_ids(tokenizer, data, tmp_path) == plain.ids(data)


def test_ids_of_long_pre_tokens_with_merges_in_any_order(tmp_path: Path) -> None:
    """A token that several merges make can have merges of lower rank than theirs."""
    rng = random.Random(1)
    for _ in range(20):
        tokens, merges = [b"a", b"b", b"c"], set()
        while len(merges) < 30:
            left, right = rng.choices(tokens, k=2)
            merges.add((left, right))
            if left + right not in tokens:
                tokens.append(left + right)
        vocab = dict(enumerate([*(bytes([byte]) for byte in range(256)), *tokens[3:]]))
        ours = Tokenizer(vocab, rng.sample(sorted(merges), 30))
        plain = PlainEncoder(ours)
        for letters in ("a", "ab", "abc"):
            data = "".join(rng.choices(letters, k=300)).encode()
            assert file_ids(ours, data, tmp_path) == plain.ids(data)


def different_words(number: int) -> list[bytes]:
    """Return words of six letters, so that no pattern splits them."""
    letters = itertools.product(b"abcdefgh", repeat=6)
    return [bytes(word) for word in itertools.islice(letters, number)]


def test_more_pre_tokens_than_a_cache_holds(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Short and long ones, each twice: evicted pre-tokens are seen again."""
    words = different_words(80_000)
    words += [word + b"the" * 10 for word in words[:10_000]]
    data = b" ".join(words * 2)
    assert file_ids(tokenizer, data, tmp_path) == PlainEncoder(tokenizer).ids(data)


@pytest.mark.parametrize(("num_rows", "max_lost"), [(8, 1 << 30), (8, 3), (512, 3), (512, 100)])
def test_a_cache_of_a_few_rows(
    tokenizer: Tokenizer,
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_rows: int,
    max_lost: int,
) -> None:
    """Almost no pre-token finds a row; threads share a cache that is replaced repeatedly."""
    monkeypatch.setattr(encoder, "CACHE_ROWS", num_rows)
    monkeypatch.setattr(encoder, "MAX_LOST", max_lost)
    data = corpus_file.read_bytes() + b" ".join(different_words(9999) * 2)
    expected = PlainEncoder(tokenizer).ids(data)
    assert file_ids(tokenizer, data, tmp_path) == expected
    for _ in range(5):
        assert file_ids(tokenizer, data, tmp_path, num_workers=4, chunk_bytes=3000) == expected


def test_words_that_differ_in_one_byte_are_told_apart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A cache that compares hashes, or only the first bytes, would confuse them."""
    words = [b"the" * n for n in range(1, 30)]
    changed = [word[:i] + b"m" + word[i + 1 :] for word in words for i in range(len(word))]
    data = b" ".join([*words, *changed]) + b" " + b" ".join([*changed, *words])
    assert file_ids(tokenizer, data, tmp_path) == PlainEncoder(tokenizer).ids(data)


def test_words_that_differ_in_nulls_are_told_apart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A key padded with zero bytes would equal that of a longer word."""
    words = [b"\x00" * n for n in range(1, 20)] + [b"!" + b"\x00" * n for n in range(20)]
    data = b"".join(word + b"a" for word in words * 2)
    assert file_ids(tokenizer, data, tmp_path) == PlainEncoder(tokenizer).ids(data)
    path = tmp_path / "train.txt"
    path.write_bytes(data)
    assert train_bpe(path, 300, [])[1] == learn_merges(plain_counts(data, [], "gpt2"), 44)


@pytest.mark.parametrize("seed", range(5))
def test_merges_in_any_order(tokenizer: Tokenizer, tmp_path: Path, seed: int) -> None:
    """A file of merges may have this order: a merge may make a pair that is listed before it."""
    rng = random.Random(seed)
    merges = rng.sample(tokenizer.merges, len(tokenizer.merges))
    ours = Tokenizer(tokenizer.vocab, merges)
    plain = PlainEncoder(ours)
    for length in (*range(1, 100, 3), 3000):
        data = "".join(
            rng.choices(["ka", "lo", "mi", "the", "ing", "ver", "ana"], k=length)
        ).encode()
        assert file_ids(ours, data, tmp_path) == plain.ids(data)


@pytest.mark.parametrize("greatest", [70_000, (1 << 20) - 1, 1 << 20, (1 << 31) - 1])
def test_ids_as_great_as_they_come(tmp_path: Path, greatest: int) -> None:
    """In words of one or many ids, and special tokens; greater ids are left to plain Python."""
    vocab = {byte: bytes([byte]) for byte in range(256)}
    vocab |= {greatest - 1: b"ab", greatest: b"<>"}
    ours = Tokenizer(vocab, [(b"a", b"b")], ["<>"])
    for text in ("ab", "ab<>", "abcababcabab" * 2, "xab" * 100 + "<>"):
        ids = PlainEncoder(ours).ids(text.encode())
        assert file_ids(ours, text.encode(), tmp_path) == ids
        assert ours.encode_batch([text])[0].tolist() == ours.encode(text) == ids
        assert ours.decode(ids) == ours.decode(np.array(ids, dtype=np.uint32)) == text


# -- learning


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_merges_equal_the_reference(tmp_path: Path, pattern: str) -> None:
    """From any bytes, until no pair is left, so that each distinct pre-token becomes a token."""

    @examples
    @given(any_bytes.filter(bool), special_lists, st.integers(1, 40))
    def check(data: bytes, special_tokens: list[str], chunk_bytes: int) -> None:
        path = tmp_path / "train.txt"
        path.write_bytes(data)
        _, merges = train_bpe(
            path, 10_000, special_tokens, pattern=pattern, num_workers=1, chunk_bytes=chunk_bytes
        )
        assert merges == learn_merges(plain_counts(data, special_tokens, pattern), 10_000)

    check()


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_merges_of_a_corpus_equal_the_reference(
    corpus: str, corpus_file: Path, pattern: str
) -> None:
    words = plain_counts(corpus_file.read_bytes(), [END], pattern)
    _, merges = train_bpe(corpus_file, 256 + 1 + 5000, [END], pattern=pattern)
    assert merges == learn_merges(words, 5000)


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("name", list(LONG))
def test_merges_of_long_pre_tokens_equal_the_reference(
    tmp_path: Path, name: str, pattern: str
) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"one " + LONG[name] + b" two")
    words = plain_counts(path.read_bytes(), [], pattern)
    _, merges = train_bpe(path, 256 + 40, [], pattern=pattern, chunk_bytes=1000)
    assert merges == learn_merges(words, 40)


def test_more_words_than_the_first_tables_hold(tmp_path: Path) -> None:
    """The tables of words, of their bytes and of the pairs all grow several times."""
    path = tmp_path / "train.txt"
    words = different_words(30_000)
    path.write_bytes(b" ".join(words + words[::3]) + b" " + b"xyz" * 30_000)
    expected = learn_merges(plain_counts(path.read_bytes(), [], "gpt2"), 300)
    for chunk_bytes in (10_000, 1 << 24):
        _, merges = train_bpe(path, 556, [], num_workers=2, chunk_bytes=chunk_bytes)
        assert merges == expected


def test_one_word_of_a_megabyte(tmp_path: Path) -> None:
    """Nothing quadratic: 2**20 times "a" is 20 merges, and random letters are thousands."""
    path = tmp_path / "train.txt"
    path.write_bytes(b"a" * (1 << 20))
    _, merges = train_bpe(path, 1000, [])
    assert merges == [(b"a" * (1 << k), b"a" * (1 << k)) for k in range(20)]
    path.write_bytes(bytes(random.Random(0).choices(b"abcdefgh", k=1 << 20)))
    assert len(train_bpe(path, 2256, [])[1]) == 2000
