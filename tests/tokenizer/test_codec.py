"""`Tokenizer` against tiktoken and Hugging Face tokenizers, and at its edges."""

import os
import pickle
import random
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlib.tokenizer import Tokenizer, engine, train_bpe
from lmlib.tokenizer.codec import STREAM_CHARS
from lmlib.tokenizer.patterns import PATTERNS
from lmlib.tokenizer.splitting import CUT_WINDOW
from tests.tokenizer.conftest import make_corpus
from tests.tokenizer.strategies import (
    BROKEN,
    END,
    FORMS,
    LONG,
    MANY_SCRIPTS,
    PASSAGES,
    SPECIAL,
    TRICKY,
    PlainEncoder,
    border_tokenizer,
    examples,
    file_ids,
    special_lists,
    telling_characters,
    texts,
    with_pattern,
)

# Adjacent and overlapping, but no prefix of another: for those tiktoken may take the shorter one
NO_PREFIXES = [END, "oftext|><|", "<<", " the ", "ab", "é\u0301", "中\n", "👩\u200d"]


def test_encode_by_hand() -> None:
    """The example of the CS336 handout."""
    vocab = [b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    tokenizer = Tokenizer(dict(enumerate(vocab)), merges)
    assert tokenizer.encode("the cat ate") == [9, 7, 1, 5, 10, 3]
    with pytest.raises(ValueError, match="no token for the byte 0x78"):
        tokenizer.encode("tax")


# -- against other libraries


def as_tiktoken(ours: Tokenizer) -> tiktoken.Encoding:
    """Return tiktoken's encoding of our vocabulary; its ranks are our ids."""
    mergeable = {bytes([byte]) for byte in range(256)} | {a + b for a, b in ours.merges}
    return tiktoken.Encoding(
        "ours",
        pat_str=PATTERNS[ours.pattern].split,
        mergeable_ranks={token: i for i, token in ours.vocab.items() if token in mergeable},
        special_tokens=ours.special_ids,
    )


def as_hugging_face(ours: Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer that `tokenizers` loads from our tokenizer.json."""
    ours.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_tiktoken(tokenizer: Tokenizer, corpus: str, way: str, pattern: str) -> None:
    ours = with_pattern(tokenizer, pattern, NO_PREFIXES)
    theirs = as_tiktoken(ours)

    @examples
    @given(texts)
    def check(text: str) -> None:
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")
        plain = theirs.encode(text, disallowed_special=())
        assert ours.encode(text, allowed_special="none") == plain

    check()
    for text in (corpus, *PASSAGES):
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_hugging_face(
    tokenizer: Tokenizer, corpus: str, way: str, pattern: str, tmp_path: Path
) -> None:
    """There too the longest special token wins, in any order of the list."""
    ours = with_pattern(tokenizer, pattern, SPECIAL)
    theirs = as_hugging_face(ours, tmp_path)
    assert set(theirs.get_vocab().values()) == set(ours.vocab)

    @examples
    @given(texts)
    def check(text: str) -> None:
        assert ours.encode(text) == theirs.encode(text).ids

    check()
    for text in (corpus, *PASSAGES):
        assert ours.encode(text) == theirs.encode(text).ids


def test_hugging_face_decodes_our_ids(tokenizer: Tokenizer, corpus: str, tmp_path: Path) -> None:
    """With ASCII special tokens: in others it takes the letters for names of bytes."""
    ascii_special = [token for token in SPECIAL if token.isascii()]
    ours = with_pattern(tokenizer, "gpt2", ascii_special)
    theirs = as_hugging_face(ours, tmp_path)
    for text in (corpus, *PASSAGES):
        assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("form", FORMS)
def test_characters_of_all_classes_are_split_as_by_both(
    way: str, pattern: str, form: str, tmp_path: Path
) -> None:
    """The ids show the borders of pre-tokens; test_characters.py tests every character's class."""
    ours = border_tokenizer(pattern)
    text = "".join(form.replace("{}", c) for c in telling_characters())
    ids = ours.encode(text)
    assert ids == as_tiktoken(ours).encode(text)
    assert ids == as_hugging_face(ours, tmp_path).encode(text).ids


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("name", list(LONG))
def test_long_pre_tokens_equal_both(
    tokenizer: Tokenizer, way: str, pattern: str, name: str, tmp_path: Path
) -> None:
    text = f"one {LONG[name].decode(errors='ignore')} two"
    ours = with_pattern(tokenizer, pattern, [END])
    ids = ours.encode(text)
    assert ids == as_tiktoken(ours).encode(text)
    assert ids == as_hugging_face(ours, tmp_path).encode(text).ids


TEXTS = os.environ.get("LMLIB_TEXTS", "")


@pytest.mark.slow
@pytest.mark.skipif(not TEXTS, reason="LMLIB_TEXTS names no text files (separated as in PATH)")
@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("path", list(filter(None, TEXTS.split(os.pathsep))))
def test_ids_of_whole_files_equal_both(path: str, pattern: str, tmp_path: Path) -> None:
    """Every id of the file is compared; `<|endoftext|>` is at both ends and about every 100 kB."""
    lines = Path(path).read_bytes().decode("utf-8").splitlines(keepends=True)
    parts = ["".join(lines[at : at + 2000]) for at in range(0, len(lines), 2000)]
    src, dst = tmp_path / "text.txt", tmp_path / "text.npy"
    src.write_bytes(END.join(["", *parts, ""]).encode())
    ours = Tokenizer(*train_bpe(src, 10_000, [END], pattern=pattern), [END], pattern=pattern)
    ours.encode_file(src, dst)
    found = np.load(dst, mmap_mode="r")
    assert ours.decode_bytes(found) == src.read_bytes()

    tik, hugging_face = as_tiktoken(ours), as_hugging_face(ours, tmp_path)
    at = 0
    for part in [*(END + part for part in parts), END]:
        expected = tik.encode(part, allowed_special="all")
        ids = found[at : at + len(expected)].tolist()
        assert ids == expected, f"tiktoken: token {at} on, {part[:80]!r}"
        assert ids == hugging_face.encode(part).ids, f"tokenizers: token {at} on, {part[:80]!r}"
        at += len(expected)
    assert at == len(found)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_text_comes_back(tokenizer: Tokenizer, way: str, pattern: str) -> None:
    """Decode from a list, and from arrays of each numeric type."""
    ours = with_pattern(tokenizer, pattern, SPECIAL)

    @examples
    @given(texts, st.sampled_from([np.uint16, np.uint32, np.int32, np.int64]))
    def check(text: str, dtype: type[np.integer]) -> None:
        ids = ours.encode(text)
        assert ours.decode(ids) == ours.decode(np.array(ids, dtype=dtype)) == text
        assert ours.decode(iter(ids)) == text

    check()


@examples
@given(st.lists(st.integers(0, 699), max_size=60))
def test_any_ids_decode_to_their_bytes(way: str, tokenizer: Tokenizer, ids: list[int]) -> None:
    """This includes ids that no encoder returns, with broken characters."""
    expected = b"".join(tokenizer.vocab[token_id] for token_id in ids)
    assert tokenizer.decode_bytes(ids) == expected
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.uint16)) == expected
    assert tokenizer.decode(ids) == expected.decode("utf-8", "replace")


# -- special tokens


def test_special_tokens_get_the_next_ids(tokenizer: Tokenizer) -> None:
    vocab = {byte: bytes([byte]) for byte in range(256)} | {300: b"gap"}
    before = dict(vocab)
    ours = Tokenizer(vocab, [], ["<b>", "<a>", "gap"])
    assert vocab == before
    assert ours.special_ids == {"<b>": 301, "<a>": 302, "gap": 300}
    assert ours.vocab_size == 303
    assert ours.encode("x<a><b>gap") == [120, 302, 301, 300]


def test_without_special_tokens_they_are_text(tokenizer: Tokenizer) -> None:
    ours = Tokenizer(tokenizer.vocab, tokenizer.merges)
    assert len(ours.encode(END)) > 1
    assert ours.decode(ours.encode(END)) == END


def test_special_tokens_by_hand(way: str) -> None:
    """The leftmost one wins, then the longest; spaces and letters around them are unchanged."""
    vocab = {byte: bytes([byte]) for byte in range(256)}
    ours = Tokenizer(vocab, [], ["<|a|>", "<|a|><|a|>", "|><", " x ", "é中"])
    assert ours.encode("<|a|><|a|><|a|>") == [257, 256]
    assert ours.encode("<|a|<|a|><b|><") == [*b"<|a|", 256, *b"<b", 258]
    assert ours.encode(" x  x b x") == [259, 259, *b"b x"]
    assert ours.encode("  x |é中é") == [*b" ", 259, *b"|", 260, *"é".encode()]


@examples
@given(
    text=texts,
    special_tokens=special_lists,
    num_allowed=st.integers(0, 4),
    pattern=st.sampled_from(list(PATTERNS)),
)
def test_allowed_special_tokens_only(
    way: str,
    tokenizer: Tokenizer,
    text: str,
    special_tokens: list[str],
    num_allowed: int,
    pattern: str,
) -> None:
    """The allowed ones are found as if there were no others; the others are text."""
    allowed = special_tokens[:num_allowed]
    ours = with_pattern(tokenizer, pattern, special_tokens)
    plain = PlainEncoder(ours)
    plain.special_tokens = allowed
    expected = plain.ids(text.encode())
    assert ours.encode(text, allowed_special=set(allowed)) == expected
    assert list(ours.encode_iterable(text, allowed_special=set(allowed))) == expected
    (batch,) = ours.encode_batch([text], allowed_special=set(allowed))
    assert batch.tolist() == expected


# Of one prefix; of so many that a place is tested for all at once; each the prefix of the next
MANY = {
    "numbered": [f"<|special_{number}|>" for number in range(10_000)],
    "words": ["".join(letters) for letters in product("abcdefghij", repeat=4)],
    "all characters": [*map(chr, range(0x21, 0x250)), *map("ab{}\u0301".format, range(1000))],
    "nested": ["ab" * number + ending for number in range(1, 60) for ending in ("", "a", "!")],
}


@pytest.mark.parametrize(
    "pattern",
    [pytest.param(name, marks=[] if name == "gpt2" else pytest.mark.slow) for name in PATTERNS],
)
@pytest.mark.parametrize("tokens", list(MANY))
def test_many_special_tokens(
    tokenizer: Tokenizer, way: str, tokens: str, pattern: str, tmp_path: Path
) -> None:
    """Whole, in part, one into the other, and in a file that is cut at many places."""
    ours = with_pattern(tokenizer, pattern, MANY[tokens])
    rng = random.Random(1)
    parts = []
    for token in rng.choices(MANY[tokens], k=60):
        parts += [token, token[:-1], token[1:], " ", rng.choice(["a", "<|special_", "abc ab", "é"])]
    text = "".join(parts)
    expected = PlainEncoder(ours).ids(text.encode())
    assert ours.encode(text) == expected
    assert list(ours.encode_iterable(iter(text))) == expected
    assert file_ids(ours, text.encode(), tmp_path, chunk_bytes=100) == expected
    few = set(MANY[tokens][:3])
    ours = with_pattern(tokenizer, pattern, [*few])
    assert ours.encode(text) == PlainEncoder(ours).ids(text.encode())


def test_allowed_special(tokenizer: Tokenizer, way: str) -> None:
    ours = with_pattern(tokenizer, "gpt2", [END, "<|end", "oftext|><|"])
    end = ours.special_ids[END]
    assert ours.encode(END) == ours.encode(END, allowed_special={END, "<|end"}) == [end]
    plain = ours.encode(END, allowed_special="none")
    assert not set(plain) & set(ours.special_ids.values())
    assert ours.encode(END, allowed_special={"<|end"}) == [
        ours.special_ids["<|end"],
        *ours.encode("oftext|>", allowed_special="none"),
    ]
    with pytest.raises(ValueError, match="allowed_special names '<x>'"):
        ours.encode("", allowed_special={"<x>"})
    with pytest.raises(ValueError, match="pass 'all', 'none' or a set"):
        ours.encode("", allowed_special="some")  # type: ignore[arg-type]


# -- streams


@examples
@given(
    pattern=st.sampled_from([*PATTERNS, r"\w+|\s+"]),
    chunks=st.lists(st.one_of(st.sampled_from(TRICKY), st.text(max_size=3)), max_size=60),
    special_tokens=special_lists,
    stream_chars=st.integers(1, 12),
)
def test_encode_iterable_equals_encode(
    way: str,
    tokenizer: Tokenizer,
    pattern: str,
    chunks: list[str],
    special_tokens: list[str],
    stream_chars: int,
) -> None:
    """The stream may be cut anywhere, even in special tokens, with and without loaded kernels."""
    ours = with_pattern(tokenizer, pattern, special_tokens)
    ours.encode("the one before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlib.tokenizer.codec.STREAM_CHARS", stream_chars)
        found = list(ours.encode_iterable(chunks))
    assert found == PlainEncoder(ours).ids("".join(chunks).encode())


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_encode_iterable_of_a_corpus(tokenizer: Tokenizer, size: int) -> None:
    text = make_corpus(20_000, seed=3).replace(END, " ").replace("\n", " ")
    chunks = (text[at : at + size] for at in range(0, len(text), size))
    assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text)


@pytest.mark.parametrize("chunk", ["word ", "这是一个句子。", "x" * 30 + "1"])
def test_encode_iterable_reads_little_ahead(tokenizer: Tokenizer, chunk: str) -> None:
    """Neither a line end nor a special token is needed, nor even a space."""
    num_read = 0

    def endless() -> Iterator[str]:
        nonlocal num_read
        while True:
            num_read += len(chunk)
            yield chunk

    num_bytes = 0
    for token_id in tokenizer.encode_iterable(endless()):
        num_bytes += len(tokenizer.vocab[token_id])
        assert num_read - num_bytes // len(chunk.encode()) * len(chunk) < 2 * STREAM_CHARS
        if num_bytes > 500_000:
            break


# -- files


@pytest.mark.parametrize("num_workers", [1, 2, 7])
@pytest.mark.parametrize("chunk_bytes", [997, 50_000, 1 << 22])
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_encode_file(
    tokenizer: Tokenizer,
    corpus_file: Path,
    tmp_path: Path,
    num_workers: int,
    chunk_bytes: int,
    pattern: str,
    always_engine: None,
) -> None:
    """The kernels in threads give what plain Python gives, byte for byte."""
    ours = with_pattern(tokenizer, pattern, [END])
    dst = tmp_path / "tokens.npy"
    written = ours.encode_file(corpus_file, dst, num_workers=num_workers, chunk_bytes=chunk_bytes)
    ids = np.load(dst, mmap_mode="r")
    data = corpus_file.read_bytes()
    assert (ids.dtype, len(ids)) == (np.uint16, written)
    assert ids.tolist() == PlainEncoder(ours).ids(data)
    assert ours.decode_bytes(ids) == data


EDGES = "<|end<|endoftext|><|<|endoftext|><<<| the  the ab é\u0301中\n\n👩\u200d\u200dß|".encode()


@pytest.mark.parametrize("num_workers", [1, 2, 7])
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_encode_file_whose_chunks_end_anywhere(
    tokenizer: Tokenizer, tmp_path: Path, num_workers: int, pattern: str, always_engine: None
) -> None:
    """Cuts may fall in special tokens that overlap or touch, at both ends, in broken characters."""
    ours = with_pattern(tokenizer, pattern, SPECIAL)
    data = EDGES + b" ".join(BROKEN) + b"".join(BROKEN) + MANY_SCRIPTS[:99].encode() + EDGES
    expected = PlainEncoder(ours).ids(data)
    for chunk_bytes in (*range(1, 40), 64, 99, 128, len(data)):
        found = file_ids(ours, data, tmp_path, num_workers=num_workers, chunk_bytes=chunk_bytes)
        assert found == expected


# Longer than a block of the kernels, and than the window first searched for a cut
LONG_SPECIAL = ["<" + "a" * 70 + ">", "<" + "ab" * CUT_WINDOW + ">", "b" * CUT_WINDOW + "><"]


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\s+"])
def test_encode_file_with_long_special_tokens(
    tokenizer: Tokenizer, tmp_path: Path, way: str, pattern: str
) -> None:
    """Special tokens are complete, truncated at both ends, overlapping, and with text between."""
    ours = with_pattern(tokenizer, pattern, LONG_SPECIAL)
    pieces = [part for token in LONG_SPECIAL for part in (token, token[:-1], " the ", token[1:])]
    data = "".join([*pieces, *LONG_SPECIAL, *pieces[::-1]]).encode()
    expected = PlainEncoder(ours).ids(data)
    assert {ours.special_ids[token] for token in LONG_SPECIAL} <= set(expected)
    for chunk_bytes in (60, 64, 71, 72, 73, 997, 2 * CUT_WINDOW, 5000):
        assert file_ids(ours, data, tmp_path, chunk_bytes=chunk_bytes) == expected


@pytest.mark.parametrize("chunk_bytes", [10_000, 1 << 22])
def test_encode_file_in_processes(
    tokenizer: Tokenizer, corpus_file: Path, tmp_path: Path, chunk_bytes: int
) -> None:
    """A custom pattern is encoded by processes in plain Python."""
    ours = with_pattern(tokenizer, r"\w+|\s+|[^\w\s]+", [END])
    data = corpus_file.read_bytes()
    found = file_ids(ours, data, tmp_path, num_workers=2, chunk_bytes=chunk_bytes)
    assert found == PlainEncoder(ours).ids(data)


def test_encode_file_reports_progress(
    tokenizer: Tokenizer, corpus_file: Path, tmp_path: Path
) -> None:
    calls: list[tuple[str, int, int]] = []
    tokenizer.encode_file(
        corpus_file,
        tmp_path / "a.npy",
        num_workers=2,
        chunk_bytes=20_000,
        on_progress=lambda *call: calls.append(call),
    )
    size = corpus_file.stat().st_size
    assert calls[-1] == ("encode", size, size)
    done = [done for _, done, _ in calls]
    assert done == sorted(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy"]


def test_encode_file_needs_uint32_beyond_65536(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A uint16 would silently wrap 65,536 to 0."""
    src, dst = tmp_path / "a.txt", tmp_path / "a.npy"
    src.write_text("x" + END)
    for last_id, dtype in ((65_535, np.uint16), (65_536, np.uint32)):
        vocab = {byte: bytes([byte]) for byte in range(256)} | {last_id: END.encode()}
        Tokenizer(vocab, [], [END]).encode_file(src, dst)
        assert np.load(dst).dtype == dtype
        assert np.load(dst).tolist() == [120, last_id]


def test_encode_file_uses_an_encoder_that_is_there(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for small files too, once the kernels are loaded and the tables built."""
    engine.load()
    text = "the one " * 10_000
    ids = tokenizer.encode(text)
    monkeypatch.setattr(tokenizer, "_encode_plainly", None)
    assert file_ids(tokenizer, text.encode(), tmp_path) == ids
    few = PlainEncoder(tokenizer).ids(b"the one")
    assert file_ids(tokenizer, b"the one", tmp_path) == few


def test_encode_file_leaves_nothing_half_written(
    tokenizer: Tokenizer, tmp_path: Path, way: str
) -> None:
    src, dst = tmp_path / "a.txt", tmp_path / "a.npy"
    src.write_text("some text " * 500)
    dst.write_text("old")
    num_threads = threading.active_count()

    def fail(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for pattern in ("gpt2", "."):  # in threads, and in processes that threads wait for
        ours = with_pattern(tokenizer, pattern, [END])
        with pytest.raises(KeyboardInterrupt):
            ours.encode_file(src, dst, num_workers=2, chunk_bytes=1000, on_progress=fail)
        assert threading.active_count() == num_threads
    assert dst.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.txt"]


def test_encode_file_looks_before_it_works(tokenizer: Tokenizer, tmp_path: Path) -> None:
    src, dst = tmp_path / "a.txt", tmp_path / "a.npy"
    src.write_text("some text")
    (tmp_path / "link").hardlink_to(src)
    for same in (src, tmp_path / "link"):
        with pytest.raises(ValueError, match="is the file to encode; write the ids to another"):
            tokenizer.encode_file(src, same)
    with pytest.raises(ValueError, match="is a folder; name a file in it for the ids"):
        tokenizer.encode_file(src, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.npy: its folder is missing; create it first"):
        tokenizer.encode_file(src, tmp_path / "missing" / "a.npy")
    with pytest.raises(ValueError, match="chunk_bytes is 0; give at least 1"):
        tokenizer.encode_file(src, dst, chunk_bytes=0)
    assert src.read_text() == "some text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "link"]
    with pytest.raises(FileNotFoundError, match=r"missing\.txt: no such file to encode"):
        tokenizer.encode_file(tmp_path / "missing.txt", dst)


def test_encode_file_of_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert tokenizer.encode_file(tmp_path / "a.txt", tmp_path / "a.npy") == 0
    assert np.load(tmp_path / "a.npy").shape == (0,)


# -- the rest of the interface


def test_encode_batch(tokenizer: Tokenizer, way: str) -> None:
    batch = tokenizer.encode_batch(["the one", "", END])
    assert [ids.tolist() for ids in batch] == [
        tokenizer.encode("the one"),
        [],
        [tokenizer.special_ids[END]],
    ]
    assert {ids.dtype for ids in batch} == {np.dtype(np.uint16)}
    assert tokenizer.encode_batch([]) == []
    (one,) = tokenizer.encode_batch(iter(["the one"]))
    assert one.tolist() == batch[0].tolist()


@examples
@given(
    batch=st.lists(st.one_of(texts, st.sampled_from(TRICKY)), max_size=8),
    special_tokens=special_lists,
    pattern=st.sampled_from([*PATTERNS, r"\w+|\s+"]),
)
def test_texts_of_a_batch_are_apart(
    way: str, tokenizer: Tokenizer, batch: list[str], special_tokens: list[str], pattern: str
) -> None:
    """No pre-token, character or special token continues from one text into the next."""
    ours = with_pattern(tokenizer, pattern, special_tokens)
    plain = PlainEncoder(ours)
    found = [ids.tolist() for ids in ours.encode_batch(batch)]
    assert found == [plain.ids(text.encode()) for text in batch]


def test_encode_batch_of_many(tokenizer: Tokenizer, corpus: str, way: str) -> None:
    """There are more texts than one worker takes; some are empty, one is long."""
    rng = random.Random(0)
    starts = sorted(rng.choices(range(len(corpus)), k=3000))
    batch = [corpus[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    batch[100:100] = ["", "", corpus * 10, ""]
    plain = PlainEncoder(tokenizer)
    found = tokenizer.encode_batch(batch)
    for text, ids in zip(batch, found, strict=True):
        assert ids.tolist() == plain.ids(text.encode())


def test_the_corpus_and_its_first_line_are_encoded_alike(
    tokenizer: Tokenizer, corpus: str, way: str
) -> None:
    """The same tokenizer encodes a long text, a short one, and a long one again."""
    plain = PlainEncoder(tokenizer)
    ours = pickle.loads(pickle.dumps(tokenizer))
    for text in (corpus[:100], corpus, corpus[:100], corpus):
        assert ours.encode(text) == plain.ids(text.encode())


def test_several_threads_may_encode(tokenizer: Tokenizer, corpus: str, way: str) -> None:
    """Threads that share one tokenizer get the same ids as a single one."""
    expected = PlainEncoder(tokenizer).ids(corpus.encode())
    fresh = pickle.loads(pickle.dumps(tokenizer))
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(fresh.encode(corpus))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_decode_replaces_what_is_no_text(tokenizer: Tokenizer, way: str) -> None:
    assert tokenizer.decode([0xE2, 0x82]) == "\ufffd"
    assert tokenizer.decode_bytes([0xE2, 0x82]) == b"\xe2\x82"


FORMS_OF_IDS: dict[str, Any] = {
    "tuple": (104, 105),
    "iterator": [104, 105],
    "dictionary": {104: None, 105: None},
    "bytes": b"hi",
    "array": array("H", [104, 105]),
    "int64": np.array([104, 105]),
    "uint64": np.array([104, 105], np.uint64),
    "int8": np.array([104, 105], np.int8),
    "byte-swapped": np.array([104, 105], ">i4"),
    "byte-swapped uint16": np.array([104, 105], ">u2"),
    "every second": np.array([104, 0, 105, 0], np.uint16)[::2],
    "backwards": np.array([105, 104], np.uint32)[::-1],
    "a column": np.array([[104, 0], [105, 0]])[:, 0],
    "objects": np.array([104, 105], object),
    "with a mask": np.ma.array([104, 105], mask=[False, False]),
    "records": np.rec.array(np.array([104, 105])),
    "tensor": torch.tensor([104, 105]),
    "tensor of int16": torch.tensor([104, 105], dtype=torch.int16),
    "tensor backwards": torch.tensor([105, 104]).flip(0),
    "list of tensors": [torch.tensor(104), torch.tensor([105])],
    "list of NumPy's": [np.int64(104), np.uint8(105)],
}


@pytest.mark.parametrize("form", list(FORMS_OF_IDS))
def test_ids_in_any_form(tokenizer: Tokenizer, way: str, form: str) -> None:
    ids = FORMS_OF_IDS[form]
    assert tokenizer.decode(iter(ids) if form == "iterator" else ids) == "hi"


@pytest.mark.parametrize("no_ids", [[], (), np.array([]), np.zeros(0, bool), torch.tensor([]), {}])
def test_no_ids_in_any_form(tokenizer: Tokenizer, way: str, no_ids: Iterable[int]) -> None:
    assert tokenizer.decode(no_ids) == ""


def test_truth_values_are_the_ids_0_and_1(tokenizer: Tokenizer, way: str) -> None:
    forms: list[Any] = [[True, False], np.array([True, False]), torch.tensor([True, False])]
    for ids in forms:
        assert tokenizer.decode_bytes(ids) == b"\x01\x00"


WRONG_IDS: dict[str, tuple[Any, str]] = {
    "float": ([104.0], "104.0"),
    "float array": (np.array([104.0]), "104.0"),
    "float tensor": (torch.tensor([104.0]), "104.0"),
    "list of float tensors": ([torch.tensor(104.0)], r"tensor\(104.\)"),
    "masked": (np.ma.array([104, 105], mask=[False, True]), "None"),
    "fraction": ([Fraction(104)], r"Fraction\(104, 1\)"),
    "complex": (np.array([104 + 0j]), r"\(104\+0j\)"),
    "text": ("hi", "'h'"),
    "nested": ([[104]], r"\[104\]"),
    "array of one": ([np.array([104])], r"array\(\[104\]\)"),
    "tensor of two": ([torch.tensor([104, 105])], r"tensor\(\[104, 105\]\)"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), r"datetime.date\(2020, 1, 1\)"),
    "negative tensor": (torch.tensor([-1]), "-1"),
    "huge": (np.array([1 << 63], np.uint64), "9223372036854775808"),
    "huge object": (np.array([1 << 70], object), "1180591620717411303424"),
}


@pytest.mark.parametrize("form", list(WRONG_IDS))
def test_what_is_no_id_is_refused(tokenizer: Tokenizer, way: str, form: str) -> None:
    ids, shown = WRONG_IDS[form]
    with pytest.raises(ValueError, match=f"^decode: {shown} is not a token id"):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match=r"^decode: ids has shape \(1, 2\); pass one row"):
        tokenizer.decode(torch.tensor([[104, 105]]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [(None, "NoneType"), (1, "int"), (["a"], "list"), (np.array("a"), "ndarray")],
)
def test_what_is_no_text_is_refused(tokenizer: Tokenizer, way: str, text: Any, kind: str) -> None:
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["", text])):
        with pytest.raises(TypeError, match=f"is {kind}, not str; decode bytes first"):
            encode(text)


def test_only_texts_have_an_encoding(tokenizer: Tokenizer, way: str) -> None:
    """A tokenizer has a method `encode` too; NumPy's texts are texts."""
    with pytest.raises(TypeError, match="is Tokenizer, not str"):
        tokenizer.encode(tokenizer)  # type: ignore[arg-type]
    assert tokenizer.encode(np.str_("hi")) == tokenizer.encode("hi")
    assert [ids.tolist() for ids in tokenizer.encode_batch(np.array(["hi", ""]))] == [
        tokenizer.encode("hi"),
        [],
    ]
    assert tokenizer.encode_batch([]) == []


def test_ids_of_a_vocabulary_are_whole_numbers_of_32_bits() -> None:
    ours = Tokenizer({np.int64(0): b"a", np.uint8(1): b"b"}, [])  # type: ignore[dict-item]
    assert [type(token_id) for token_id in ours.encode("ab")] == [int, int]
    with pytest.raises(ValueError, match=r"^vocab: 97.0 is not a token id; ids are whole numbers"):
        Tokenizer({97.0: b"a"}, [])  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"^vocab: id 4294967296 is above 4294967295, the great"):
        Tokenizer({(1 << 32) - 1: b"a"}, [], ["<x>"])


@pytest.mark.parametrize("wrong", [300.0, np.float32(300), "300", torch.tensor(300.0)])
def test_sizes_are_whole_numbers(
    tokenizer: Tokenizer, corpus_file: Path, tmp_path: Path, way: str, wrong: Any
) -> None:
    for name in ("chunk_bytes", "num_workers"):
        for work in (
            lambda **size: tokenizer.encode_file(corpus_file, tmp_path / "a.npy", **size),
            lambda **size: train_bpe(corpus_file, 300, [END], **size),
        ):
            with pytest.raises(ValueError, match=f"^{name} is .*; it should be a whole number"):
                work(**{name: wrong})
    with pytest.raises(ValueError, match=r"^vocab_size is .*; it should be a whole number"):
        train_bpe(corpus_file, wrong, [END])


@pytest.mark.parametrize("whole", [np.uint16, torch.tensor])
def test_sizes_in_any_form(
    tokenizer: Tokenizer, corpus_file: Path, tmp_path: Path, way: str, whole: Any
) -> None:
    assert train_bpe(corpus_file, whole(300), [END]) == train_bpe(corpus_file, 300, [END])
    sizes = {"chunk_bytes": whole(20_000), "num_workers": whole(1)}
    found = [
        tokenizer.encode_file(corpus_file, tmp_path / "a.npy", **options) for options in (sizes, {})
    ]
    assert found[0] == found[1]


def test_errors_say_what_to_do(tokenizer: Tokenizer, way: str) -> None:
    for token_id in (700, -1, 1 << 32, 1 << 70, 97.9, None, "a"):
        with pytest.raises(ValueError, match=f"decode: {token_id!r} is not a token id"):
            tokenizer.decode([0, token_id])  # type: ignore[list-item]
    for wrong in (np.array([0, 700]), np.array([0, -1]), np.array([0, 97.9], object)):
        with pytest.raises(ValueError, match=f"decode: {wrong[1]} is not a token id"):
            tokenizer.decode(wrong)
    for wrong in (np.array(["a"]), np.array([97, None]), np.array([97.5 + 1j])):
        with pytest.raises(ValueError, match="is not a token id"):
            tokenizer.decode(wrong)
    for wrong in (np.zeros((2, 2), np.int64), np.zeros((), np.int64)):
        with pytest.raises(ValueError, match=r"decode: ids has shape \(.*\); pass one row"):
            tokenizer.decode(wrong)
    with pytest.raises(ValueError, match="3 is not a token id; this vocabulary has 2 ids, the gr"):
        Tokenizer({0: b"a", 9: b"b"}, []).decode([3])
    with pytest.raises(TypeError, match="encode: b'ab' is bytes, not str; decode bytes first"):
        tokenizer.encode(b"ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encode_batch: texts is a single string; pass a list"):
        tokenizer.encode_batch("ab")
    for encode in (
        tokenizer.encode,
        lambda text: tokenizer.encode_batch(["", text]),
        lambda text: list(tokenizer.encode_iterable([text])),
    ):
        with pytest.raises(ValueError, match=r"character 1 is the lone surrogate U\+D800"):
            encode("a\ud800")
    with pytest.raises(ValueError, match=r"merge 0 joins b'a' and b'b', but b'ab' is not"):
        Tokenizer({0: b"a", 1: b"b"}, [(b"a", b"b")])
    with pytest.raises(ValueError, match="id -1 is negative"):
        Tokenizer({-1: b"a"}, [])


@pytest.mark.parametrize("copies", [1, 100])
def test_a_fresh_process_imports_no_compiler(
    corpus_file: Path, tmp_path: Path, copies: int
) -> None:
    """Compiled kernels are read from a file, but not for a small text."""
    engine.load()
    (tmp_path / "text").write_bytes(corpus_file.read_bytes() * copies)
    script = (
        "import sys\n"
        "from lmlib.tokenizer import Tokenizer, engine, train_bpe\n"
        "vocab, merges = train_bpe(sys.argv[1], 400, ['<|endoftext|>'])\n"
        "tokenizer = Tokenizer(vocab, merges)\n"
        "tokenizer.encode_file(sys.argv[1], sys.argv[2])\n"
        "print(sorted({'numba', 'scipy', 'torch', 'mlflow'} & set(sys.modules)))\n"
        "print(engine.is_loaded())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "text"), str(tmp_path / "a.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"[]\n{copies > 1}\n"


def test_train_then_encode_is_shorter_than_bytes(corpus_file: Path, tmp_path: Path) -> None:
    vocab, merges = train_bpe(corpus_file, 2000, [END])
    tokenizer = Tokenizer(vocab, merges, [END])
    num_tokens = tokenizer.encode_file(corpus_file, tmp_path / "a.npy")
    assert num_tokens < corpus_file.stat().st_size / 3
