"""Training and encoding over a real Dask cluster: a scheduler and two workers on loopback."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from distributed import Client

from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokenizer.paths import CorpusPath, StoredFile
from lmlib.tokenizer.workers import count_workers, map_in_order
from tests.tokenizer.bucket import ADDRESS, serve_bucket
from tests.tokenizer.conftest import END
from tests.tokenizer.dying import DyingWorkers

CHUNK_BYTES = 5000  # of the 60 kB corpus
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a client of a cluster that was started as lmlib/tokenizer/CLUSTER.md says."""
    folder = tmp_path_factory.mktemp("cluster")
    scheduler_file = folder / "scheduler.json"
    common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(scheduler_file)]
    # the limit ends the cluster if this process is killed
    scheduler = ["scheduler", "--port", "0", "--idle-timeout", "300"]
    workers = ["worker", "--nworkers", "2", "--nthreads", "1", "--local-directory", str(folder)]
    with ExitStack() as stack:
        for command in (scheduler, workers):
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, *common],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,  # a log
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        client = stack.enter_context(Client(scheduler_file=str(scheduler_file), timeout=60))
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture
def executor(client: Client) -> Executor:
    return client.get_executor(pure=False)


def process_ids(client: Client) -> set[int]:
    """Return the ids of the worker processes, once both have started."""
    client.wait_for_workers(2, timeout=60)
    by_address: Any = client.run(os.getpid)
    return set(by_address.values())


def encode(tokenizer: Tokenizer, src: CorpusPath, executor: Executor | None, dst: Path) -> bytes:
    """Return the bytes of the file of ids."""
    tokenizer.encode_file(src, dst, executor=executor, chunk_bytes=CHUNK_BYTES)
    return dst.read_bytes()


def test_a_cluster_learns_the_same_merges(
    executor: Executor, corpus_file: Path, tokenizer: Tokenizer
) -> None:
    vocab, merges = train_bpe(corpus_file, 700, [END], executor=executor, chunk_bytes=CHUNK_BYTES)
    assert (vocab, merges) == (tokenizer.vocab, tokenizer.merges)


def test_a_cluster_encodes_the_same_ids(
    executor: Executor, corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    ids = encode(tokenizer, corpus_file, executor, tmp_path / "a.npy")
    assert ids == encode(tokenizer, corpus_file, None, tmp_path / "b.npy")


@pytest.mark.usefixtures("always_engine")
def test_kernels_run_on_the_workers(
    executor: Executor, corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    vocab, merges = train_bpe(corpus_file, 700, [END], executor=executor, chunk_bytes=CHUNK_BYTES)
    assert (vocab, merges) == (tokenizer.vocab, tokenizer.merges)
    ids = encode(tokenizer, corpus_file, executor, tmp_path / "a.npy")
    assert ids == encode(tokenizer, corpus_file, None, tmp_path / "b.npy")


def test_a_chunk_is_tried_again_when_its_worker_dies(
    client: Client, executor: Executor, corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The nanny of the killed worker starts another; nothing is lost or counted twice."""
    note = tmp_path / "note"
    expected = encode(tokenizer, corpus_file, None, tmp_path / "expected.npy")
    before = process_ids(client)

    vocab, merges = train_bpe(
        corpus_file,
        700,
        [END],
        executor=DyingWorkers(executor, note),
        chunk_bytes=CHUNK_BYTES,
    )
    assert (vocab, merges) == (tokenizer.vocab, tokenizer.merges)
    after = process_ids(client)
    assert before - after == {int(note.read_text())}

    note.unlink()
    ids = encode(tokenizer, corpus_file, DyingWorkers(executor, note), tmp_path / "ids.npy")
    assert ids == expected
    assert after - process_ids(client) == {int(note.read_text())}


@pytest.mark.slow
def test_workers_read_an_object_store(
    executor: Executor, corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with serve_bucket(corpus_file.read_bytes()) as options:
        stored = StoredFile(fsspec.filesystem("s3", **options), ADDRESS)
        vocab, merges = train_bpe(stored, 700, [END], executor=executor, chunk_bytes=CHUNK_BYTES)
        assert (vocab, merges) == (tokenizer.vocab, tokenizer.merges)
        ids = encode(tokenizer, stored, executor, tmp_path / "a.npy")
    assert ids == encode(tokenizer, corpus_file, None, tmp_path / "b.npy")


def test_as_many_chunks_are_under_way_as_keep_the_cluster_busy(
    client: Client, executor: Executor
) -> None:
    assert count_workers(executor) == len(process_ids(client)) == 2
    assert list(map_in_order(executor, pow, [(2, n) for n in range(30)])) == [
        2**n for n in range(30)
    ]


def test_an_error_on_a_worker_comes_back(
    executor: Executor, tmp_path: Path, tokenizer: Tokenizer, corpus_file: Path
) -> None:
    """Vocabularies may lack bytes; a chunk that needs a missing one fails on the worker."""
    lacking = Tokenizer({0: b"k"}, [])
    with pytest.raises(ValueError, match="the vocabulary has no token for the byte"):
        encode(lacking, corpus_file, executor, tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())


def test_the_examples_of_the_page_run(
    client: Client, corpus_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    page = (ROOT / "lmlib/tokenizer/CLUSTER.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with serve_bucket(corpus_file.read_bytes()) as options:
        here = {
            "tcp://SCHEDULER:8786": client.scheduler_info()["address"],
            "/shared/corpus.txt": str(corpus_file),
            '"corpus.npy"': repr(str(tmp_path / "corpus.npy")),
            "32_000": "700",
            "http://minio:9000": options["endpoint_url"],
        }
        for there, replacement in here.items():
            assert there in page
            first, second = (text.replace(there, replacement) for text in (first, second))
        names: dict[str, Any] = {}
        for text in (first, second):
            exec(text, names)
            assert names["merges"] == tokenizer.merges
            names["executor"] = client.get_executor(pure=False)  # the example has closed its own
    ids = np.load(tmp_path / "corpus.npy")
    assert tokenizer.decode_bytes(ids) == corpus_file.read_bytes()
