"""`Tokenizer` against tiktoken and Hugging Face tokenizers, and at its edges."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokenizer.codec import STREAM_CHARS
from lmlib.tokenizer.patterns import PATTERNS
from tests.tokenizer.conftest import END, make_corpus
from tests.tokenizer.strategies import SPECIAL, TRICKY, assigned_texts, texts


def with_specials(tokenizer: Tokenizer, pattern: str) -> Tokenizer:
    """Return the same merges with overlapping special tokens (ASCII) and another pattern."""
    return Tokenizer(
        tokenizer.vocab, tokenizer.merges, [END, "<|end", "oftext|><|", "<<|"], pattern=pattern
    )


def test_encode_by_hand() -> None:
    """The example of the CS336 handout."""
    vocab = [b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    tokenizer = Tokenizer(dict(enumerate(vocab)), merges)
    assert tokenizer.encode("the cat ate") == [9, 7, 1, 5, 10, 3]
    with pytest.raises(ValueError, match="no token for the byte 0x78"):
        tokenizer.encode("tax")


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_tiktoken(tokenizer: Tokenizer, corpus: str, pattern: str) -> None:
    """With one special token: of two that overlap tiktoken may take the shorter."""
    ours = Tokenizer(tokenizer.vocab, tokenizer.merges, [END], pattern=pattern)
    special = set(ours.special_ids.values())
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=PATTERNS[pattern].split,
        mergeable_ranks={token: i for i, token in ours.vocab.items() if i not in special},
        special_tokens=ours.special_ids,
    )

    @settings(deadline=None, max_examples=300)
    @given(assigned_texts)
    def check(text: str) -> None:
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")
        plain = theirs.encode(text, disallowed_special=())
        assert ours.encode(text, allowed_special="none") == plain

    check()
    assert ours.encode(corpus) == theirs.encode(corpus, allowed_special="all")


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_hugging_face(
    tokenizer: Tokenizer, corpus: str, pattern: str, tmp_path: Path
) -> None:
    ours = with_specials(tokenizer, pattern)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size

    @settings(deadline=None, max_examples=300)
    @given(assigned_texts)
    def check(text: str) -> None:
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text

    check()
    assert ours.encode(corpus) == theirs.encode(corpus).ids


@settings(deadline=None, max_examples=300)
@given(text=texts)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(np.array(tokenizer.encode(text), dtype=np.uint16)) == text


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


def test_allowed_special(tokenizer: Tokenizer) -> None:
    ours = with_specials(tokenizer, "gpt2")
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


@settings(deadline=None, max_examples=300)
@given(
    tokenizer_pattern=st.sampled_from([*PATTERNS, r"\w+|\s+"]),
    chunks=st.lists(st.one_of(st.sampled_from(TRICKY), st.text(max_size=3)), max_size=60),
    stream_chars=st.integers(1, 12),
)
def test_encode_iterable_equals_encode(
    tokenizer: Tokenizer, tokenizer_pattern: str, chunks: list[str], stream_chars: int
) -> None:
    ours = Tokenizer(tokenizer.vocab, tokenizer.merges, SPECIAL, pattern=tokenizer_pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlib.tokenizer.codec.STREAM_CHARS", stream_chars)
        assert list(ours.encode_iterable(chunks)) == ours.encode("".join(chunks))


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
@pytest.mark.parametrize("chunk_bytes", [997, 50_000])
def test_encode_file(
    tokenizer: Tokenizer,
    corpus_file: Path,
    tmp_path: Path,
    num_workers: int,
    chunk_bytes: int,
    always_engine: None,
) -> None:
    """The kernels in threads give what plain Python gives, byte for byte."""
    dst = tmp_path / "tokens.npy"
    written = tokenizer.encode_file(
        corpus_file, dst, num_workers=num_workers, chunk_bytes=chunk_bytes
    )
    ids = np.load(dst, mmap_mode="r")
    data = corpus_file.read_bytes()
    assert (ids.dtype, len(ids)) == (np.uint16, written)
    assert np.array_equal(ids, tokenizer.encode_bytes(data, use_engine=False))
    assert tokenizer.decode_bytes(ids) == data


def test_encode_file_in_processes(tokenizer: Tokenizer, corpus_file: Path, tmp_path: Path) -> None:
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
    ids = np.load(tmp_path / "a.npy")
    assert np.array_equal(ids, tokenizer.encode_bytes(corpus_file.read_bytes(), use_engine=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy"]


def test_encode_file_needs_uint32_beyond_65536(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A uint16 would wrap 65,536 to 0 without a word."""
    src, dst = tmp_path / "a.txt", tmp_path / "a.npy"
    src.write_text("x" + END)
    for last_id, dtype in ((65_535, np.uint16), (65_536, np.uint32)):
        vocab = {byte: bytes([byte]) for byte in range(256)} | {last_id: END.encode()}
        Tokenizer(vocab, [], [END]).encode_file(src, dst)
        assert np.load(dst).dtype == dtype
        assert np.load(dst).tolist() == [120, last_id]


def test_encode_file_leaves_nothing_half_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    src, dst = tmp_path / "a.txt", tmp_path / "a.npy"
    src.write_text("some text")
    dst.write_text("old")

    def fail(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_file(src, dst, on_progress=fail)
    assert dst.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.txt"]
    with pytest.raises(FileNotFoundError, match=r"missing\.txt: no such file to encode"):
        tokenizer.encode_file(tmp_path / "missing.txt", dst)


def test_encode_file_of_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert tokenizer.encode_file(tmp_path / "a.txt", tmp_path / "a.npy") == 0
    assert np.load(tmp_path / "a.npy").shape == (0,)


# -- the rest of the interface


def test_encode_batch(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode_batch(["the one", "", END])
    assert [ids.tolist() for ids in batch] == [
        tokenizer.encode("the one"),
        [],
        [tokenizer.special_ids[END]],
    ]
    assert {ids.dtype for ids in batch} == {np.dtype(np.uint16)}


def test_large_text_goes_through_the_engine(
    tokenizer: Tokenizer, corpus: str, always_engine: None
) -> None:
    data = corpus.encode()
    assert tokenizer.encode(corpus) == tokenizer.encode_bytes(data, use_engine=False).tolist()


def test_several_threads_may_encode(tokenizer: Tokenizer, corpus: str) -> None:
    """Each gets what one alone gets, though they share one tokenizer."""
    expected = tokenizer.encode(corpus)
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


def test_decode_replaces_what_is_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0xE2, 0x82]) == "\ufffd"
    assert tokenizer.decode_bytes([0xE2, 0x82]) == b"\xe2\x82"


def test_errors_say_what_to_do(tokenizer: Tokenizer) -> None:
    for token_id in (700, -1):
        with pytest.raises(ValueError, match=f"decode: {token_id} is not a token id"):
            tokenizer.decode([0, token_id])
    with pytest.raises(ValueError, match=r"character 1 is the lone surrogate U\+D800"):
        tokenizer.encode("a\ud800")
    with pytest.raises(ValueError, match=r"merge 0 joins b'a' and b'b', but b'ab' is not"):
        Tokenizer({0: b"a", 1: b"b"}, [(b"a", b"b")])
    with pytest.raises(ValueError, match="id -1 is negative"):
        Tokenizer({-1: b"a"}, [])


def test_small_inputs_never_import_numba(corpus_file: Path, tmp_path: Path) -> None:
    """A fresh process trains and encodes without waiting for a compiler, or for torch."""
    script = (
        "import sys\n"
        "from lmlib.tokenizer import Tokenizer, train_bpe\n"
        "vocab, merges = train_bpe(sys.argv[1], 400, ['<|endoftext|>'])\n"
        "tokenizer = Tokenizer(vocab, merges)\n"
        "tokenizer.encode_file(sys.argv[1], sys.argv[2])\n"
        "print(sorted({'numba', 'torch', 'mlflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(corpus_file), str(tmp_path / "a.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_train_then_encode_is_shorter_than_bytes(corpus_file: Path, tmp_path: Path) -> None:
    vocab, merges = train_bpe(corpus_file, 2000, [END])
    tokenizer = Tokenizer(vocab, merges, [END])
    num_tokens = tokenizer.encode_file(corpus_file, tmp_path / "a.npy")
    assert num_tokens < corpus_file.stat().st_size / 3
