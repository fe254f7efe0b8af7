"""Shards in a store, and the part of them that is kept on this machine."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from lmlib.data import TokenDataset
from lmlib.store import ShardCache, Store
from lmlib.tokens import TokenInfo, open_tokens
from tests.token_files import read_index, write_index, write_tokens

INFO = TokenInfo(tokens=40, vocab_size=100, tokenizer_sha256="0" * 64, source_bytes=99, documents=1)


def store_shards(folder: Path, address: str) -> None:
    """Move the shards of a folder to a store."""
    index, store = read_index(folder), Store(address)
    for shard in index["shards"]:
        store.put(folder / shard["file"], f"{shard['sha256']}.npy")
        shard["file"] = f"{shard['sha256']}.npy"
    write_index(folder, index | {"store": address})


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with an index of four shards of ten tokens, and the folder of the store."""
    folder = write_tokens(tmp_path / "train", np.arange(40, dtype=np.uint16), INFO, [10] * 4)
    (tmp_path / "store").mkdir()
    store_shards(folder, (tmp_path / "store").as_uri())
    return folder, tmp_path / "store"


def test_tokens_are_fetched_when_they_are_used(stored: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = stored
    dataset = TokenDataset.open(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert dataset.tokens[12:18].tolist() == list(range(12, 18))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert dataset.tokens[:].tolist() == list(range(40))
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_folder_for_them_must_be_named(stored: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"its shards are in file://.*; name a folder"):
        open_tokens(stored[0])


def test_the_cache_keeps_what_was_used_last(stored: tuple[Path, Path], tmp_path: Path) -> None:
    """Three shards of 148 bytes fit into 500."""
    folder, store = stored
    shards = read_index(folder)["shards"]
    cache = ShardCache(store.as_uri(), tmp_path / "cache", max_bytes=500)
    for number, when in ((0, 1), (1, 2), (2, 3), (0, 4), (3, 5)):
        path = cache.path(shards[number]["file"], shards[number]["sha256"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shards[number]["sha256"]
        os.utime(path, (when, when))
    kept = {path.stem for path in (tmp_path / "cache").iterdir()}
    assert kept == {shards[number]["sha256"] for number in (0, 2, 3)}


def test_a_shard_that_is_damaged_or_missing_in_the_store(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, store = stored
    first, second = (read_index(folder)["shards"][number]["file"] for number in (0, 1))
    (store / first).write_bytes(b"x" * 148)
    (store / second).unlink()
    _, tokens = open_tokens(folder, tmp_path / "cache")
    with pytest.raises(ValueError, match=f"{first}: damaged: the index has another digest"):
        tokens[0]
    with pytest.raises(FileNotFoundError, match=f"{second}: no such shard; encode the texts again"):
        tokens[10]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_store_that_cannot_be_used() -> None:
    with pytest.raises(ConnectionError, match=r"^cluster.store: nonsense://x cannot be used"):
        Store("nonsense://x").size("a")


def test_a_store_with_plain_files_gets_whole_ones(tmp_path: Path) -> None:
    """Under a name of its own first, since other machines may look at any time."""
    store = Store((tmp_path / "new" / "store").as_uri())
    (tmp_path / "a").write_bytes(b"abc")
    store.put(tmp_path / "a", "pieces/a.json")
    assert store.read("pieces/a.json") == b"abc"
    assert (store.size("pieces/a.json"), store.size("b"), store.read("b")) == (3, None, None)
    names = [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert names == ["a.json"]
