"""Texts to shards: the ids, which shards are kept, and what an interruption leaves."""

import errno
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.encoding import EncodeParams, Text, encode_texts, encoder, workshop
from lmlib.files import sha256_file
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from lmlib.tokens import blocks, open_tokens
from lmlib.tokens import index as indexes
from lmlib.tokens.index import TokenIndex
from tests.token_files import TextFile, read_index, write_index

MERGES = [(b"a", b"b"), (b"ab", b"c"), (b" ", b"a"), (b"o", b"n"), (b"on", b"c")]
TOKENS = [*(bytes([byte]) for byte in range(256)), *(a + b for a, b in MERGES)]
TOKENIZER = Tokenizer(dict(enumerate(TOKENS)), MERGES, [SEPARATOR])
END = TOKENIZER.special_ids[SEPARATOR]
WORDS = ["abc", "once", "a", "  ", "\n", "x" * 30, "ü", SEPARATOR, "123", "don't", " ab"]


def prose(size: int, seed: int = 0) -> str:
    """Return a text of about `size` bytes that ends with a separator."""
    return " ".join(random.Random(seed).choices(WORDS, k=size // 6)) + SEPARATOR


@dataclass
class Counted:
    """A text file that notes when it is opened."""

    path: Path
    digest: str | None
    opened: list[str]
    num_bytes: int | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @contextmanager
    def open(self) -> Iterator[Path]:
        self.opened.append(self.name)
        yield self.path


@dataclass
class Folder:
    """A place for texts, shards and unfinished ones."""

    path: Path
    opened: list[str] = field(default_factory=list)

    def text(self, name: str, content: str | bytes, digest: str | None = None) -> Counted:
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Counted(path, digest, self.opened)

    def encode(
        self,
        texts: Sequence[Text],
        shard_tokens: int = 100,
        tokenizer: Tokenizer = TOKENIZER,
        digest: str = "t" * 64,
    ) -> TokenIndex:
        params = EncodeParams(shard_tokens)
        return encode_texts(tokenizer, digest, texts, self.tokens, self.workshop, params)

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def workshop(self) -> Path:
        return self.path / "resume" / "encode"

    def ids(self) -> list[int]:
        return open_tokens(self.tokens)[1][:].tolist()

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Return, for each shard, what tells a file that was made again from one that was kept."""
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in self.tokens.glob("*.npy")
        }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def joined(texts: Sequence[Counted]) -> list[int]:
    """Return the ids of texts that each end with a separator."""
    return TOKENIZER.encode("".join(text.path.read_text(encoding="utf-8") for text in texts))


# -- the ids


@given(
    text=st.lists(st.sampled_from(WORDS), max_size=60).map("".join),
    shard_tokens=st.integers(1, 40),
)
@settings(deadline=None, max_examples=60)
def test_the_ids_are_those_of_the_whole_text(
    text: str, shard_tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Folder(tmp_path_factory.mktemp("encode"))
    index = folder.encode([folder.text("a.txt", text)], shard_tokens)
    ids = folder.ids()
    assert ids == TOKENIZER.encode(text)
    assert index.info.tokens == len(ids)
    assert index.info.source_bytes == len(text.encode())
    assert all(0 < shard.tokens <= shard_tokens for shard in index.shards)
    assert sum(shard.documents for shard in index.shards) == ids.count(END)
    names = [f"{number:05d}.npy" for number in range(len(index.shards))]
    assert [shard.file for shard in index.shards] == names
    assert set(contents(folder.tokens)) == {*names, "index.json", "SHA256SUMS"}
    assert not folder.workshop.exists()


def test_a_shard_is_counted_block_by_block(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its greatest id is in the first block, and each block has a separator."""
    monkeypatch.setattr(encoder, "blocks", partial(blocks, size=4))
    text = f"abc{SEPARATOR}" + f"123{SEPARATOR}" * 3 + "12"
    (shard,) = folder.encode([folder.text("a.txt", text)]).shards
    assert (shard.documents, shard.largest_id) == (4, END)
    (shard,) = folder.encode([folder.text("a.txt", "onc" + "1" * 30)]).shards
    assert shard.largest_id == TOKENIZER.encode("onc")[0] > ord("1")


def test_one_shard_is_the_file_of_encode_file(folder: Folder) -> None:
    text = folder.text("a.txt", prose(5000))
    folder.encode([text], 10**6)
    TOKENIZER.encode_file(text.path, folder.path / "a.npy")
    assert (folder.tokens / "00000.npy").read_bytes() == (folder.path / "a.npy").read_bytes()


def test_large_texts_have_the_same_ids(folder: Folder) -> None:
    """The kernels encode them."""
    content = prose(1 << 20)
    folder.encode([folder.text("a.txt", content)], 50_000)
    assert folder.ids() == TOKENIZER.encode(content)


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        ([], ""),
        (["", ""], ""),
        (["a"], "a"),
        (["once", "once"], f"once{SEPARATOR}once"),  # not the word "onceonce"
        ([f"once{SEPARATOR}", "once"], f"once{SEPARATOR}once"),
        ([f"once{SEPARATOR}\n", "once\n"], f"once{SEPARATOR}\nonce\n"),
        (["once\n", "", "a"], f"once\n{SEPARATOR}a"),
        ([SEPARATOR, SEPARATOR], SEPARATOR * 2),
        (["<|endof", "text|>"], f"<|endof{SEPARATOR}text|>"),
        (["once", ""], f"once{SEPARATOR}"),
    ],
)
@pytest.mark.parametrize("shard_tokens", [1, 1000])
def test_texts_are_separated(
    folder: Folder, texts: list[str], whole: str, shard_tokens: int
) -> None:
    index = folder.encode(
        [folder.text(f"{i}.txt", text) for i, text in enumerate(texts)], shard_tokens
    )
    assert folder.ids() == TOKENIZER.encode(whole)
    assert index.info.source_bytes == len(whole)
    assert [text.bytes for text in index.texts] == [len(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("", 0),
        ("a", 1),
        (f"a{SEPARATOR}", 1),
        (f"a{SEPARATOR}b", 2),
        (f"a{SEPARATOR}\n\n", 1),  # a separator and newlines end the text
        ("\n", 0),
    ],
)
@pytest.mark.parametrize("shard_tokens", [1, 1000])
def test_documents_are_counted(
    folder: Folder, text: str, documents: int, shard_tokens: int
) -> None:
    index = folder.encode([folder.text("a.txt", text)], shard_tokens)
    assert index.info.documents == documents


def test_invalid_utf_8_and_a_tokenizer_without_a_separator(folder: Folder) -> None:
    tokenizer = Tokenizer(dict(enumerate(TOKENS)), MERGES)
    text = b"abc \xff\xfe" * 50
    index = folder.encode([folder.text("a.txt", text)], 30, tokenizer)
    assert tokenizer.decode_bytes(folder.ids()) == text
    assert (index.info.documents, index.info.separator_id) == (1, None)


def test_ids_of_32_bits(folder: Folder) -> None:
    """The vocabulary has a gap up to the separator."""
    vocab = dict(enumerate(TOKENS)) | {70_000: SEPARATOR.encode()}
    tokenizer = Tokenizer(vocab, [], [SEPARATOR])
    index = folder.encode([folder.text(n, "abc") for n in ("a.txt", "b.txt")], 4, tokenizer)
    assert folder.ids() == [*b"abc", 70_000, *b"abc"]
    assert index.dtype == "uint32"
    assert [shard.largest_id for shard in index.shards] == [70_000, ord("c")]


def test_a_piece_of_too_many_ids_is_divided_evenly(folder: Folder) -> None:
    """A piece has three bytes for each id that a shard may have, and here each byte is an id.

    The first one ends behind the separator, and has 298 ids.
    """
    index = folder.encode([folder.text("a.txt", "1" * 297 + SEPARATOR + "1" * 50)], 100)
    assert [shard.tokens for shard in index.shards] == [99, 99, 100, 50]
    assert [shard.source[64:] for shard in index.shards] == [" 1/3", " 2/3", " 3/3", ""]


# -- what is kept


def test_equal_texts_are_not_encoded_again(folder: Folder) -> None:
    text = folder.text("a.txt", prose(3000))
    folder.encode([text])
    before, stamps = contents(folder.tokens), folder.stamps()
    assert len(stamps) > 5
    folder.encode([text])
    assert (contents(folder.tokens), folder.stamps()) == (before, stamps)


def test_what_is_appended_changes_the_last_shards(folder: Folder) -> None:
    content = prose(3000)
    folder.encode([folder.text("a.txt", content)])
    stamps = folder.stamps()
    folder.encode([folder.text("a.txt", content + prose(300, seed=1))])
    assert folder.ids() == TOKENIZER.encode(content + prose(300, seed=1))
    kept = [name for name, stamp in folder.stamps().items() if stamps.get(name) == stamp]
    assert len(kept) >= len(stamps) - 3  # the last piece may have several


def test_one_text_of_many_changes_only_its_shards(folder: Folder) -> None:
    """Also where it has more shards than before: those behind it get other numbers."""
    texts = [folder.text(f"{n}.txt", prose(1000, n)) for n in range(5)]
    old = folder.encode(texts)
    stamps = set(folder.stamps().values())
    texts[2] = folder.text("2.txt", prose(3000, 99))
    new = folder.encode(texts)
    assert folder.ids() == joined(texts)
    kept = stamps & set(folder.stamps().values())
    assert len(kept) == len(old.shards) - old.texts[2].shards
    assert len(new.shards) > len(old.shards)
    folder.encode(texts[3:])  # the others are removed, and these come to the front
    assert folder.ids() == joined(texts[3:])
    assert set(folder.stamps().values()) < kept


def test_the_same_text_several_times(folder: Folder) -> None:
    texts = [folder.text(f"{n}.txt", prose(500)) for n in range(3)]
    folder.encode(texts)
    stamps = folder.stamps()
    assert folder.ids() == TOKENIZER.encode(prose(500) * 3)
    folder.encode(texts)
    assert folder.stamps() == stamps
    folder.encode(texts[:2])
    assert folder.ids() == TOKENIZER.encode(prose(500) * 2)


@pytest.mark.parametrize("change", ["tokenizer", "shard_tokens"])
def test_other_settings_make_all_shards_again(folder: Folder, change: str) -> None:
    text = folder.text("a.txt", prose(3000))
    folder.encode([text])
    stamps = set(folder.stamps().values())
    if change == "tokenizer":
        tokenizer = Tokenizer(dict(enumerate(TOKENS)), MERGES[:1], [SEPARATOR])
        folder.encode([text], tokenizer=tokenizer, digest="u" * 64)
        assert folder.ids() == tokenizer.encode(prose(3000))
    else:
        folder.encode([text], 101)
        assert folder.ids() == TOKENIZER.encode(prose(3000))
    assert not stamps & set(folder.stamps().values())


def test_a_text_gets_a_separator_when_another_follows(folder: Folder) -> None:
    """The digests of the texts stay; what is made of them does not."""
    a, b = folder.text("a.txt", "once", "A"), folder.text("b.txt", "abc", "B")
    folder.encode([a])
    assert folder.ids() == TOKENIZER.encode("once")
    folder.encode([a, b])
    assert folder.ids() == TOKENIZER.encode(f"once{SEPARATOR}abc")
    folder.encode([b, a])
    assert folder.ids() == TOKENIZER.encode(f"abc{SEPARATOR}once")


def test_a_text_of_many_pieces_gets_one_separator_at_its_end(folder: Folder) -> None:
    first, second = prose(3000).removesuffix(SEPARATOR) + "z", prose(2000, 1)
    texts = [folder.text("a.txt", first), folder.text("b.txt", second)]
    index = folder.encode(texts, shard_tokens=50)
    assert len(index.shards) > 10
    assert [text.separator for text in index.texts] == ["added", "own"]
    assert folder.ids() == TOKENIZER.encode(first + SEPARATOR + second)


def test_a_text_with_a_known_digest_is_not_opened(folder: Folder) -> None:
    texts = [folder.text(f"{n}.txt", prose(1000, n), f"digest {n}") for n in range(3)]
    folder.encode(texts)
    expected = contents(folder.tokens)
    folder.opened.clear()
    folder.encode(texts)
    assert folder.opened == []
    assert contents(folder.tokens) == expected
    texts[1] = folder.text("1.txt", prose(1000, 9), "digest 9")
    folder.encode(texts)
    assert folder.opened == ["1.txt"]
    stamps = folder.stamps()
    (folder.tokens / "00000.npy").unlink()
    folder.opened.clear()
    folder.encode(texts)
    assert folder.opened == ["0.txt"]
    assert folder.ids() == joined(texts)
    changed = {name for name, stamp in folder.stamps().items() if stamp != stamps[name]}
    assert len(changed) <= 3  # those of one piece


@pytest.mark.parametrize("damage", ["flipped", "missing", "folder", "another"])
def test_a_damaged_shard_is_made_again(folder: Folder, damage: str) -> None:
    text = folder.text("a.txt", prose(3000))
    folder.encode([text])
    expected, stamps = contents(folder.tokens), folder.stamps()
    path = folder.tokens / "00001.npy"
    content = path.read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "folder":
        path.mkdir()
    elif damage == "another":
        path.write_bytes((folder.tokens / "00002.npy").read_bytes())
    folder.encode([text])
    assert contents(folder.tokens) == expected
    kept = [name for name, stamp in folder.stamps().items() if stamps[name] == stamp]
    assert len(kept) >= len(stamps) - 3  # those of its piece


@pytest.mark.parametrize("damage", ["missing", "empty", "format", "changed"])
def test_with_a_damaged_index_all_is_encoded_again(
    folder: Folder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = folder.text("a.txt", prose(3000))
    folder.encode([text])
    expected = contents(folder.tokens)
    index = folder.tokens / "index.json"
    if damage == "missing":
        index.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "format":
        write_index(folder.tokens, read_index(folder.tokens) | {"format": 2})
    else:
        index.write_bytes(index.read_bytes() + b" ")
    folder.encode([text])
    assert contents(folder.tokens) == expected
    assert ("all texts are encoded again" in caplog.text) == (damage != "missing")


def test_what_does_not_belong_in_the_folder_is_removed(folder: Folder) -> None:
    """Links too, without what they lead to."""
    text = folder.text("a.txt", prose(300))
    folder.encode([text])
    expected = contents(folder.tokens)
    (folder.path / "other").mkdir()
    (folder.path / "other" / "file").touch()
    (folder.tokens / "old").mkdir()
    (folder.tokens / "old" / "train.npy").touch()
    (folder.tokens / "99999.npy").write_bytes(b"old")
    (folder.tokens / "link").symlink_to(folder.path / "other")
    (folder.tokens / "nothing").symlink_to("nothing")
    folder.encode([text])
    assert contents(folder.tokens) == expected
    assert (folder.path / "other" / "file").exists()


def test_links_into_a_cache_are_not_written_through(folder: Folder) -> None:
    """Read-only ones, as DVC makes them with cache.type symlink or hardlink."""
    content = prose(3000)
    folder.encode([folder.text("a.txt", content)])
    cache = folder.path / "cache"
    shutil.copytree(folder.tokens, cache)
    for number, path in enumerate(sorted(folder.tokens.iterdir())):
        (cache / path.name).chmod(0o444)
        path.unlink()
        if number % 2:
            path.symlink_to(cache / path.name)
        else:
            path.hardlink_to(cache / path.name)
    cached = contents(cache)
    changed = content[:2000] + prose(100, seed=3)
    folder.encode([folder.text("a.txt", changed)])
    assert folder.ids() == TOKENIZER.encode(changed)
    folder.encode([folder.text("0.txt", prose(100)), folder.text("a.txt", content)])
    assert folder.ids() == TOKENIZER.encode(prose(100) + content)
    assert contents(cache) == cached


# -- interruptions


class Killed(BaseException):
    """As SIGKILL: nothing is done afterwards."""


def interrupt(
    folder: Folder, texts: Sequence[Text], monkeypatch: pytest.MonkeyPatch, where: str, at: int
) -> None:
    """Encode until a function of the workshop is called once more than `at` times."""
    function, calls = getattr(workshop, where), iter(range(at))

    def dying(*args: object) -> object:
        if next(calls, None) is None:
            raise Killed
        return function(*args)

    with monkeypatch.context() as patched:
        patched.setattr(workshop, where, dying)
        if where == "note":
            patched.setattr(encoder, where, dying)
        with pytest.raises(Killed):
            folder.encode(texts)


@pytest.mark.parametrize("at", [0, 1, 7])
def test_an_interrupted_run_keeps_its_shards(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    text = folder.text("a.txt", prose(3000))
    interrupt(folder, [text], monkeypatch, "note", at)
    assert not folder.tokens.exists()
    made = {path.stat().st_ino for path in folder.workshop.glob("*-*.npy")}
    with (folder.workshop / "finished.jsonl").open("a") as file:
        file.write('{"at": "half')  # it died while it wrote
    folder.encode([text])
    assert folder.ids() == TOKENIZER.encode(prose(3000))
    kept = made & {inode for inode, _ in folder.stamps().values()}
    assert len(kept) >= at - 2  # but those of a piece that was not finished
    assert not folder.workshop.exists()


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ("_move", 0),
        ("_move", 1),
        ("_move", 9),
        ("sync", 2),
        ("write_index", 0),
        ("remove_others", 0),
    ],
)
def test_an_interrupted_end_is_put_right(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, where: str, at: int
) -> None:
    """Shards move to other numbers; none is made again, and no mixture is taken for tokens."""
    texts = [folder.text(f"{n}.txt", prose(1000, n)) for n in range(3)]
    folder.encode(texts)
    stamps = set(folder.stamps().values())
    old = joined(texts)
    texts.insert(0, folder.text("new.txt", prose(700, 9)))
    interrupt(folder, texts, monkeypatch, where, at)
    assert ids_or_refused(folder) in (None, old, joined(texts))
    folder.encode(texts)
    assert folder.ids() == joined(texts)
    assert stamps < set(folder.stamps().values())
    assert not folder.workshop.exists()


def test_shards_made_on_another_disk(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with data/ and models/ on two: files are copied, whole or not at all."""
    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.parent != target.parent and not path.parent.name.endswith(".part"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    texts = [folder.text(f"{n}.txt", prose(1000, n)) for n in range(2)]
    for some in (texts[:1], texts, texts[1:]):
        folder.encode(some)
        assert folder.ids() == joined(some)
    assert not folder.workshop.exists()


@pytest.mark.parametrize("known", [None, "digest"])
def test_shards_of_an_earlier_format_are_made_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    text = folder.text("a.txt", prose(3000), known)
    folder.encode([text])
    stamps = set(folder.stamps().values())
    monkeypatch.setattr(indexes, "FORMAT", 2)
    monkeypatch.setattr(encoder, "FORMAT", 2)
    folder.encode([text])
    assert not stamps & set(folder.stamps().values())
    assert folder.ids() == joined([text])


def ids_or_refused(folder: Folder) -> list[int] | None:
    """Return the ids, or None if the folder is refused."""
    try:
        return folder.ids()
    except (ValueError, FileNotFoundError):
        return None


def test_damaged_shards_of_an_interrupted_run_are_made_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = folder.text("a.txt", prose(3000))
    interrupt(folder, [text], monkeypatch, "note", 7)
    for path in folder.workshop.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-2])
    with (folder.workshop / "finished.jsonl").open("a") as file:
        file.write('3\n{"at": 3, "shard": {}}\n')
    folder.encode([text])
    assert folder.ids() == TOKENIZER.encode(prose(3000))


def test_progress_ends_with_all_bytes(folder: Folder) -> None:
    """Of shards that are kept as well; it never goes back."""
    seen: list[tuple[int, int]] = []
    texts = [TextFile(folder.text(f"{n}.txt", prose(2000, n)).path) for n in range(3)]
    size = sum(text.num_bytes for text in texts)
    for _ in range(2):
        seen.clear()
        encode_texts(
            TOKENIZER,
            "t" * 64,
            texts,
            folder.tokens,
            folder.workshop,
            EncodeParams(100),
            on_progress=lambda _, done, total: seen.append((done, total)),
        )
        assert seen[-1] == (size, size)
        assert seen == sorted(seen)


def test_the_record_of_a_shard(folder: Folder) -> None:
    index = folder.encode([folder.text("a.txt", prose(1000))])
    for shard in index.shards:
        path = folder.tokens / shard.file
        ids = np.load(path)
        assert shard.sha256 == sha256_file(path)
        assert (shard.tokens, shard.largest_id) == (len(ids), ids.max())
        assert shard.documents == (ids == END).sum()
