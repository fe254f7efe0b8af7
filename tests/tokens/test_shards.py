"""Shards of tokens: what their files must contain, and how they make one array."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.data import TokenDataset
from lmlib.tokens import TokenInfo, find_separators, open_tokens, shards
from lmlib.tokens.index import read_index as read_token_index
from lmlib.tokens.shards import ShardedTokens, check_shards
from tests.token_files import read_index, write_index, write_tokens

INFO = TokenInfo(tokens=50, vocab_size=100, tokenizer_sha256="ab", source_bytes=180, documents=3)


def write(
    folder: Path,
    tokens: np.ndarray | None = None,
    lengths: list[int] | None = None,
    info: TokenInfo = INFO,
    **changes: Any,
) -> Path:
    tokens = np.arange(50, dtype=np.uint16) if tokens is None else tokens
    return write_tokens(folder / "train", tokens, info, lengths, **changes)


# -- one file


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_opens_what_encode_writes(tmp_path: Path, dtype: Any) -> None:
    dataset = TokenDataset.open(write(tmp_path, np.arange(50, dtype=dtype)))
    assert isinstance(dataset.tokens, np.memmap)
    assert dataset.tokens.dtype == dtype
    assert dataset.info == INFO
    assert dataset.tokens.tolist() == list(range(50))
    assert not dataset.tokens.flags.writeable


def test_opens_an_empty_file(tmp_path: Path) -> None:
    folder = write(tmp_path, np.array([], dtype=np.uint16))
    assert len(TokenDataset.open(folder).tokens) == 0


def test_largest_id_of_the_vocabulary_is_accepted(tmp_path: Path) -> None:
    tokens = np.full(50, 99, dtype=np.uint16)
    assert TokenDataset.open(write(tmp_path, tokens)).tokens[0] == 99


def test_id_beyond_the_vocabulary(tmp_path: Path) -> None:
    tokens = np.arange(50, dtype=np.uint16)
    tokens[20] = 100
    with pytest.raises(ValueError, match=r"holds token id 100, but the vocabulary ends at 99$"):
        TokenDataset.open(write(tmp_path, tokens))


def test_missing_token_file(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "00000.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"train/00000\.npy: no such token file$"):
        TokenDataset.open(folder)


def cut_in_the_data(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


def text(path: Path) -> None:
    path.write_text("Once upon a time", encoding="utf-8")


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, tokens=np.arange(50, dtype=np.uint16))


@pytest.mark.parametrize(
    "damage", [cut_in_the_data, cut_in_the_header, cut_to_nothing, lengthened, text, archive]
)
def test_truncated_or_foreign_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = write(tmp_path)
    damage(folder / "00000.npy")
    message = r"train/00000\.npy: truncated, or not a token file \(.*\)$"
    with pytest.raises(ValueError, match=message):
        TokenDataset.open(folder)


@pytest.mark.parametrize(
    ("tokens", "held"),
    [
        (np.arange(50), r"<i8 of shape \(50,\)"),
        (np.arange(50, dtype=">u2"), r">u2 of shape \(50,\)"),
        (np.zeros((5, 10), dtype=np.uint16), r"<u2 of shape \(5, 10\)"),
        (np.zeros(50), r"<f8 of shape \(50,\)"),
        (np.array(["a", None], dtype=object), r"\|O of shape \(2,\)"),
        (np.array(5, dtype=np.uint16), r"<u2 of shape \(\)"),
    ],
)
def test_array_of_another_kind(tmp_path: Path, tokens: np.ndarray, held: str) -> None:
    message = rf"train/00000\.npy: holds {held}; a token file holds one row of uint16 or uint32$"
    folder = write(tmp_path)
    np.save(folder / "00000.npy", tokens)
    with pytest.raises(ValueError, match=message):
        TokenDataset.open(folder)


HOSTILE = [
    (descr, shape)
    for descr in ("<u2", "|S0", "<U0", "|V0", "|O", "<m8[s]", ">u2")
    for shape in ("(100,)", "(-1,)", "(True,)", f"({2**63},)", f"({10**15},)", "(0, -1)", "(1e2,)")
    if (descr, shape) != ("<u2", "(100,)")
]


@pytest.mark.parametrize(("descr", "shape"), HOSTILE)
def test_a_header_that_lies_is_refused_before_numpy_reads_it(
    tmp_path: Path, descr: str, shape: str
) -> None:
    """NumPy divides by the size of the dtype: 0 ends the process with SIGFPE."""
    fields = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    folder = write(tmp_path)
    header = fields.ljust(117).encode() + b"\n"
    (folder / "00000.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(200)
    )
    with pytest.raises(
        ValueError, match=r"train/00000\.npy: (holds .* of shape|truncated, or not)"
    ):
        TokenDataset.open(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': [('a', '|V0')], 'fortran_order': False, 'shape': (-1,), }\n",
        b"{'shape': (100,), 'fortran_order': False, 'descr': '<u2'}\n",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (" + b"(" * 50_000 + b"\n",
        b"",
    ],
    ids=range(4),
)
@pytest.mark.parametrize("version", [1, 2, 3, 200])
def test_a_header_of_another_form(tmp_path: Path, header: bytes, version: int) -> None:
    folder = write(tmp_path)
    start = b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2, "little")
    (folder / "00000.npy").write_bytes(start + header + bytes(200))
    with pytest.raises(ValueError, match=r"/00000\.npy: truncated, or not a token file \(no hea"):
        TokenDataset.open(folder)


def test_a_folder_in_place_of_a_token_file(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "00000.npy").unlink()
    (folder / "00000.npy").mkdir()
    with pytest.raises(ValueError, match=r"train/00000\.npy: not a token file, but a folder"):
        TokenDataset.open(folder)


def test_a_shard_of_another_length(tmp_path: Path) -> None:
    folder = write(tmp_path)
    np.save(folder / "00000.npy", np.arange(49, dtype=np.uint16))
    message = r"train/00000\.npy: holds 49 tokens of uint16, but index\.json says 50 of uint16$"
    with pytest.raises(ValueError, match=message):
        TokenDataset.open(folder)


def test_a_shard_whose_ids_have_changed(tmp_path: Path) -> None:
    folder = write(tmp_path)
    np.save(folder / "00000.npy", np.arange(50, dtype=np.uint16)[::-1])
    with pytest.raises(ValueError, match=r"train/00000\.npy: damaged, or changed since it was"):
        TokenDataset.open(folder)


def test_a_largest_id_that_is_another(tmp_path: Path) -> None:
    folder = write(tmp_path)
    index = read_index(folder)
    index["shards"][0]["largest_id"] = 48
    write_index(folder, index)
    message = r"train/00000\.npy: holds token id 49, but index\.json says that the largest is 48$"
    with pytest.raises(ValueError, match=message):
        TokenDataset.open(folder)


# -- the index


def test_missing_index(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"train/index\.json: no such file; it says which"):
        TokenDataset.open(folder)


def test_an_index_that_has_changed(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with (folder / "index.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"train/index\.json: damaged, or changed since it was"):
        TokenDataset.open(folder)


def test_the_format_of_before(tmp_path: Path) -> None:
    """Of one file, and with its name."""
    np.save(tmp_path / "train.npy", np.arange(50, dtype=np.uint16))
    with pytest.raises(FileNotFoundError, match=r"train/index\.json: no such file"):
        TokenDataset.open(tmp_path / "train")


def change(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda index: index | changes


def change_shard(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda index: index | {"shards": [index["shards"][0] | changes, *index["shards"][1:]]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index: "{", r"index\.json: not valid JSON: "),
        (lambda index: [], r"index\.json: holds a list; it should hold keys and values"),
        (lambda index: {}, r"index\.json: has the format None, and this version reads 1; encode"),
        (change(format=2), r"index\.json: has the format 2, and this version reads 1; encode the"),
        (lambda index: {"format": 1}, r"index\.json\.texts: should be a list"),
        (change(tokens=50.0), r"index\.json\.tokens is the value 50\.0; it should be a whole"),
        (change(tokens=True), r"index\.json\.tokens is the value True; it should be a whole"),
        (change(tokens=51), r"index\.json: the shards have 50 tokens, but `tokens` is 51$"),
        (change(vocab_size=10**30), r"index\.json: vocab_size is 10+; it must be from 1 to"),
        (change(vocab_size=40), r"00001\.npy: holds token id 49, but the vocabulary ends at 39$"),
        (change(documents=-1), r"index\.json: documents is -1; it must be from 0 to"),
        (change(source_bytes=0), r"index\.json: source_bytes is 0, but tokens is 50"),
        (change(dtype="int64"), r"index\.json\.dtype is 'int64'; choose one of uint16, uint32"),
        (change(shards={}), r"index\.json\.shards: should be a list"),
        (change(shards=[3]), r"shards\[0\]: holds 3; it should hold keys and values"),
        (change(texts=[]), r"index\.json: the texts have 0 shards, but `shards` has"),
        (change(extra=1), r"index\.json\.extra is unknown; the keys here are"),
        (change_shard(file="../a.npy"), r"shards\[0\]: file is '\.\./a\.npy'; a shard has a name"),
        (change_shard(file="00001.npy"), r"index\.json: a file is listed twice; each shard has"),
        (change_shard(tokens=0), r"shards\[0\]: tokens is 0 and documents is 0; a shard has at"),
        (change_shard(tokens=True), r"shards\[0\]\.tokens is the value True; it should be a whole"),
        (change_shard(documents=21), r"shards\[0\]: tokens is 20 and documents is 21; a shard"),
        (change_shard(largest_id=1 << 32), r"shards\[0\]: largest_id is 4294967296; ids have 32"),
        (change_shard(sha256="0" * 63), r"shards\[0\]: sha256 is '0+'; it has 64 hexadecimal"),
        (change_shard(other=1), r"shards\[0\]\.other is unknown"),
    ],
)
def test_damaged_index(tmp_path: Path, damage: Callable[[dict], Any], message: str) -> None:
    folder = write(tmp_path, lengths=[20, 30])
    write_index(folder, damage(read_index(folder)))
    with pytest.raises(ValueError, match=message):
        TokenDataset.open(folder)


# -- several files as one array


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=9).filter(any),
    start=st.integers(-70, 70),
    stop=st.integers(-70, 70),
)
@settings(deadline=None, max_examples=100)
def test_any_slice_is_that_of_one_array(
    lengths: list[int], start: int, stop: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = np.random.default_rng(0).integers(0, 100, size=sum(lengths)).astype(np.uint16)
    folder = write(tmp_path_factory.mktemp("shards"), whole, lengths)
    for max_files in (1, 100):
        tokens = ShardedTokens(folder, read_token_index(folder), max_files)
        assert len(tokens) == len(whole)
        assert tokens[start:stop].tolist() == whole[start:stop].tolist()
        assert tokens[start:].dtype == np.uint16
        assert np.array_equal(np.asarray(tokens), whole)
    if -len(whole) <= start < len(whole):
        assert tokens[start] == whole[start]


def test_a_window_over_three_shards(tmp_path: Path) -> None:
    dataset = TokenDataset.open(write(tmp_path, lengths=[10, 1, 39]))
    assert dataset.tokens[8:13].tolist() == [8, 9, 10, 11, 12]
    inputs, targets = dataset.batch(1, seed=1, batch_size=500, context_length=4)
    assert {8, 9, 10} < set(inputs[:, 0].tolist())
    assert (targets == inputs + 1).all()


def test_what_no_array_of_shards_gives(tmp_path: Path) -> None:
    tokens = TokenDataset.open(write(tmp_path, lengths=[20, 30])).tokens
    with pytest.raises(IndexError):
        tokens[50]
    with pytest.raises(ValueError, match="a slice of shards with the step 2; only 1 is possible"):
        tokens[::2]
    with pytest.raises(ValueError, match="read-only"):
        tokens[:5][0] = 1  # of a shard
    assert tokens[7:7].tolist() == tokens[60:].tolist() == []


@pytest.mark.parametrize("order", ["random", "epochs"])
@pytest.mark.parametrize("windows", ["any", "documents", "isolated"])
@pytest.mark.parametrize("lengths", [[500], [1] * 500, [499, 1], [3, 200, 1, 1, 295]])
def test_batches_do_not_depend_on_the_shards(
    tmp_path: Path, lengths: list[int], windows: Any, order: Any
) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, size=500).astype(np.uint16)
    info = replace(INFO, separator_id=0)
    dataset = TokenDataset.open(write(tmp_path, tokens, lengths, info))
    expected = TokenDataset(tokens, info)
    sizes: dict[str, Any] = {"batch_size": 5, "context_length": 20, "order": order}
    for step in (1, 7):
        pair = (d.batch(step, seed=1, windows=windows, **sizes) for d in (dataset, expected))
        assert all((ours == theirs).all() for ours, theirs in zip(*pair, strict=True))


def test_files_are_closed(tmp_path: Path) -> None:
    """And opened again in another process."""
    tokens = TokenDataset.open(write(tmp_path, lengths=[20, 30])).tokens
    assert isinstance(tokens, ShardedTokens)
    assert tokens[15:25].tolist() == list(range(15, 25))
    files = [descriptor for descriptor, _ in tokens._files.values()]
    again = pickle.loads(pickle.dumps(tokens))
    assert again[:].tolist() == list(range(50))
    del tokens
    for descriptor in files:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_shard_that_becomes_shorter_while_it_is_used(tmp_path: Path) -> None:
    """A memory map would end the process."""
    folder = write(tmp_path, lengths=[20, 30])
    tokens = TokenDataset.open(folder).tokens
    assert tokens[49] == 49
    cut_in_the_data(folder / "00001.npy")
    with pytest.raises(ValueError, match=r"train/00001\.npy: has become shorter while it was in"):
        tokens[40:]


def test_ids_of_32_bits(tmp_path: Path) -> None:
    tokens = np.array([70_000, 2**32 - 1, 5], dtype=np.uint32)
    dataset = TokenDataset.open(write(tmp_path, tokens, [2, 1], replace(INFO, vocab_size=2**32)))
    assert dataset.tokens[:].tolist() == tokens.tolist()
    assert dataset.batch(1, seed=1, batch_size=1, context_length=2)[1].tolist() == [[2**32 - 1, 5]]


def test_a_shard_of_another_tokenizer(tmp_path: Path) -> None:
    """Its ids need 32 bits, and those of the index 16."""
    folder = write(tmp_path, lengths=[20, 30])
    np.save(folder / "00001.npy", np.arange(30, dtype=np.uint32))
    message = r"00001\.npy: holds 30 tokens of uint32, but index\.json says 30 of uint16$"
    with pytest.raises(ValueError, match=message):
        TokenDataset.open(folder)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only headers and sizes are compared, at first use."""
    monkeypatch.setattr(shards, "CHECKED_BYTES", 0)


@pytest.mark.usefixtures("unchecked")
def test_beyond_the_bound_a_shard_is_checked_when_it_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path, lengths=[20, 30])
    (folder / "00001.npy").unlink()
    tokens = TokenDataset.open(folder).tokens
    assert tokens[10:20].tolist() == list(range(10, 20))
    with pytest.raises(FileNotFoundError, match=r"train/00001\.npy: no such token file$"):
        tokens[19:21]
    np.save(folder / "00001.npy", np.arange(31, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"train/00001\.npy: holds 31 tokens"):
        tokens[30]
    cut_in_the_data(folder / "00001.npy")
    with pytest.raises(ValueError, match=r"train/00001\.npy: truncated, or not a token file"):
        tokens[30]


@pytest.mark.usefixtures("unchecked")
def test_beyond_the_bound_digests_are_checked_on_demand(tmp_path: Path) -> None:
    folder = write(tmp_path, lengths=[20, 30])
    np.save(folder / "00001.npy", np.arange(30, dtype=np.uint16))
    index, _ = open_tokens(folder)
    with pytest.raises(ValueError, match=r"train/00001\.npy: damaged, or changed since it was"):
        check_shards(folder, index)


@pytest.mark.usefixtures("unchecked")
def test_an_id_beyond_the_vocabulary_in_an_unchecked_shard(tmp_path: Path) -> None:
    """It is refused in the batch: on a GPU it would end the process."""
    folder = write(tmp_path, lengths=[20, 30])
    np.save(folder / "00001.npy", np.full(30, 100, dtype=np.uint16))
    dataset = TokenDataset.open(folder)
    with pytest.raises(ValueError, match=r"train: holds token id 100, but the vocabulary ends at"):
        dataset.batch(1, seed=1, batch_size=20, context_length=8)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_shards_kept_on_a_device(tmp_path: Path, dtype: Any) -> None:
    """They are signed there, with the same bits."""
    tokens = (np.iinfo(dtype).max - np.arange(50)).astype(dtype)
    info = replace(INFO, vocab_size=2**32)
    dataset = TokenDataset.open(write(tmp_path, tokens, [20, 30], info))
    kept = dataset._copy_on(torch.device("cpu"))
    assert kept.dtype == {np.uint16: torch.int16, np.uint32: torch.int32}[dtype]
    assert np.array_equal(kept.numpy().view(dtype), tokens)


def test_tokens_of_several_blocks(tmp_path: Path) -> None:
    """Blocks of 2**22 tokens, which cross the borders of shards."""
    tokens = np.ones((1 << 22) + 2, dtype=np.uint16)
    tokens[[0, 1 << 21, -1]] = 0
    info = replace(INFO, separator_id=0)
    sharded = TokenDataset.open(write(tmp_path, tokens, [1 << 21, (1 << 21) + 2], info)).tokens
    assert find_separators(sharded, 0).tolist() == [0, 1 << 21, len(tokens) - 1]


THOUSANDS = """
import os, resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import numpy as np
from lmlib.data import TokenDataset
begin = time.monotonic()
data = TokenDataset.open(sys.argv[1])
took = time.monotonic() - begin

def files():
    paths = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(path).endswith(".npy") for path in paths)

assert files() == 0, "a shard is opened before it is used"
for step in range(1, 101):
    inputs, targets = data.batch(step, seed=1, batch_size=64, context_length=16)
    assert (targets == inputs + 1).all()
    assert 0 < files() <= 16, files()
print(took)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_thousands_of_shards_with_few_open_files(tmp_path: Path) -> None:
    """64 files may be open, and 16 shards are. A batch of windows uses more."""
    tokens = np.arange(30_000, dtype=np.uint16)
    folder = write(tmp_path, tokens, [3] * 10_000, replace(INFO, vocab_size=30_000))
    done = subprocess.run(
        [sys.executable, "-c", THOUSANDS, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20  # 0.2 s on a quiet machine
