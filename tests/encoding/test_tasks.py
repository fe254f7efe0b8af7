"""Encoding on a real Dask cluster: the same bits as in one process, whatever dies."""

import gzip
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmlib.cluster import connected
from lmlib.corpus import Text, read_texts
from lmlib.corpus.sources import Source
from lmlib.corpus.split import Reading
from lmlib.corpus.texts import write_manifest
from lmlib.encoding import EncodeParams, encode_texts
from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokenizer.workers import ProcessExecutor
from lmlib.tokens import open_tokens
from tests.clusters import Cluster, DeadlyText, dask_cluster
from tests.token_files import TextFile, read_index
from tests.tokenizer.bucket import serve_bucket

END = "<|endoftext|>"
SHA = "0" * 64
PARAMS = EncodeParams(shard_tokens=2000)  # 6,000 bytes of text in a piece

Made = dict[str, bytes]


def files_in(folder: Path) -> Made:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[TextFile]:
    """Return texts with and without a last separator, two of them equal, one empty."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 8))) for _ in range(300)]

    def text(num_words: int) -> str:
        return "".join(
            rng.choice(words) + (END if rng.random() < 0.01 else " ") for _ in range(num_words)
        )

    contents = [text(5000), text(300) + END, text(900), "", text(4000) + END + "\n", text(200)]
    paths = []
    for number, content in enumerate([*contents, contents[2]]):
        paths.append(folder / f"{number}.txt")
        paths[-1].write_text(content, encoding="utf-8")
    return [TextFile(path) for path in paths]


@pytest.fixture(scope="module")
def tokenizer(texts: list[TextFile]) -> Tokenizer:
    return Tokenizer(*train_bpe([text.path for text in texts], 400, [END]), [END])


@pytest.fixture
def expected(tokenizer: Tokenizer, texts: list[TextFile], tmp_path: Path) -> Made:
    encode_texts(tokenizer, SHA, texts, tmp_path / "expected", tmp_path / "shop", PARAMS)
    return files_in(tmp_path / "expected")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with dask_cluster(tmp_path_factory.mktemp("cluster"), 3) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster: Cluster) -> Iterator[Executor]:
    with connected(cluster.address) as executor:
        assert executor is not None
        yield executor


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessExecutor(2) as executor:
        yield executor


def test_a_cluster_writes_the_same_files(
    executor: Executor, tokenizer: Tokenizer, texts: list[TextFile], tmp_path: Path, expected: Made
) -> None:
    """The second time it makes none of them: those of the last time are right."""
    tokens, workshop = tmp_path / "tokens", tmp_path / "workshop"
    seen: list[int] = []
    times: set[int] = set()
    for _ in range(2):
        encode_texts(
            *(tokenizer, SHA, texts, tokens, workshop, PARAMS),
            executor=executor,
            on_progress=lambda _kind, done, total: seen.append(total - done),
        )
        assert files_in(tokens) == expected
        assert not workshop.exists()
    times = {path.stat().st_mtime_ns for path in tokens.glob("*.npy")}
    assert seen[-1] == 0
    assert len(expected) > 12
    encode_texts(tokenizer, SHA, texts, tokens, workshop, PARAMS)  # nor does one process
    assert files_in(tokens) == expected
    assert {path.stat().st_mtime_ns for path in tokens.glob("*.npy")} == times


def test_only_what_has_changed_is_made_again(
    executor: Executor, tokenizer: Tokenizer, texts: list[TextFile], tmp_path: Path
) -> None:
    tokens, workshop = tmp_path / "tokens", tmp_path / "workshop"
    changed = tmp_path / "changed.txt"
    changed.write_text("one more text", encoding="utf-8")
    encode_texts(tokenizer, SHA, texts, tokens, workshop, PARAMS, executor=executor)
    before = {path.stat().st_ino for path in tokens.glob("*.npy")}
    (tokens / "00001.npy").write_bytes(b"damaged")
    more = [*texts[:1], TextFile(changed), *texts[1:]]
    encode_texts(tokenizer, SHA, more, tokens, workshop, PARAMS, executor=executor)
    after = {path.stat().st_ino for path in tokens.glob("*.npy")}
    assert len(after - before) <= 3  # the new text, the damaged shard, and the last text's end
    encode_texts(tokenizer, SHA, more, tmp_path / "expected", workshop, PARAMS)
    assert files_in(tokens) == files_in(tmp_path / "expected")


def test_a_worker_that_dies(
    executor: Executor, tokenizer: Tokenizer, texts: list[TextFile], tmp_path: Path, expected: Made
) -> None:
    """It has written shards, and its task runs again elsewhere, which finds them."""
    note = tmp_path / "note"
    deadly = [
        text if number != 4 else DeadlyText(text.path, note) for number, text in enumerate(texts)
    ]
    encode_texts(
        *(tokenizer, SHA, deadly, tmp_path / "tokens", tmp_path / "workshop", PARAMS),
        executor=executor,
    )
    assert note.exists()
    assert files_in(tmp_path / "tokens") == expected

    note.unlink()
    paths = [text.path for text in texts]
    deadly = [DeadlyText(path, note) for path in paths]
    learnt = train_bpe(deadly, 400, [END], executor=executor)
    assert note.exists()
    assert learnt == train_bpe(paths, 400, [END])


class Doubling(Executor):
    """Runs each task twice at the same time, and gives the result of the second."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.first: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.first.append(self._executor.submit(fn, *args, **kwargs))
        return self._executor.submit(fn, *args, **kwargs)


@pytest.mark.parametrize("is_stored", [False, True])
def test_tasks_that_run_twice(
    executor: Executor,
    tokenizer: Tokenizer,
    texts: list[TextFile],
    tmp_path: Path,
    expected: Made,
    is_stored: bool,
) -> None:
    tokens, store = tmp_path / "tokens", (tmp_path / "store").as_uri() if is_stored else ""
    doubling = Doubling(executor)
    encode_texts(
        *(tokenizer, SHA, texts, tokens, tmp_path / "workshop", PARAMS),
        executor=doubling,
        store=store,
    )
    for future in doubling.first:
        future.exception()  # a late one may find that the workshop is gone
    if is_stored:
        assert same_ids(tokens, tmp_path / "expected", tmp_path / "cache")
    else:
        assert files_in(tokens) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("expected")
def test_a_scheduler_that_dies(tokenizer: Tokenizer, texts: list[TextFile], tmp_path: Path) -> None:
    """One sentence says so, and the next run continues with what is finished."""
    tokens, workshop = tmp_path / "tokens", tmp_path / "workshop"
    (tmp_path / "cluster").mkdir()
    with dask_cluster(tmp_path / "cluster", 2) as cluster:
        note = tmp_path / "note"
        deadly = [*texts[:5], DeadlyText(texts[5].path, note, cluster.scheduler.pid), *texts[6:]]
        with (
            pytest.raises(ConnectionError, match="is gone; start it and its workers, and run"),
            connected(cluster.address) as executor,
        ):
            encode_texts(tokenizer, SHA, deadly, tokens, workshop, PARAMS, executor=executor)
    assert not tokens.exists()
    finished = {path.stat().st_ino for path in workshop.glob("*.npy")}
    assert finished
    encode_texts(tokenizer, SHA, texts, tokens, workshop, PARAMS)
    assert files_in(tokens) == files_in(tmp_path / "expected")
    assert len(finished & {path.stat().st_ino for path in tokens.glob("*.npy")}) > 5


def same_ids(folder: Path, expected: Path, cache: Path) -> bool:
    """Return whether two folders have the same ids and say the same of them."""
    (stored, ids), (plain, expected_ids) = open_tokens(folder, cache), open_tokens(expected)
    assert (stored.info, stored.texts) == (plain.info, plain.texts)
    assert [shard.sha256 for shard in stored.shards] == [shard.sha256 for shard in plain.shards]
    return np.array_equal(ids[:], expected_ids[:])


@pytest.mark.slow
@pytest.mark.usefixtures("expected")
def test_workers_write_to_an_object_store(
    tokenizer: Tokenizer, texts: list[TextFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is lost costs nothing: the store still knows what is finished."""
    tokens, workshop = tmp_path / "tokens", tmp_path / "workshop"
    with serve_bucket(b"") as options:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
        monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
        store = "s3://texts/shards"
        with connected("local:2", tmp_path) as executor:
            start = 0.0
            for _ in range(2):
                start = time.time()
                encode_texts(
                    *(tokenizer, SHA, texts, tokens, workshop, PARAMS),
                    executor=executor,
                    store=store,
                )
                assert sorted(path.name for path in tokens.iterdir()) == [
                    "SHA256SUMS",
                    "index.json",
                ]
                assert same_ids(tokens, tmp_path / "expected", tmp_path / "cache")
                shutil.rmtree(tmp_path / "cache")
                shutil.rmtree(tokens)
        encode_texts(tokenizer, SHA, texts, tokens, workshop, PARAMS, store=store)
        assert read_index(tokens)["store"] == store
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()
        written = S3FileSystem(**options).ls("texts/shards", detail=True, refresh=True)
        shards = [each for each in written if each["name"].endswith(".npy")]
        assert len({each["name"] for each in shards}) == len(shards) > 10
        assert max(each["LastModified"].timestamp() for each in shards) < start


def manifest_texts(folder: Path, texts: list[TextFile]) -> list[Text]:
    """Return texts of which every second one is compressed, so that it must be opened first."""
    sources = []
    for number, text in enumerate(texts):
        path = folder / text.name
        path.write_bytes(text.path.read_bytes())
        if number % 2:
            packed = path.with_suffix(".txt.gz")
            packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path = packed
        sources.append(Source(str(path), path.stat().st_size))
    write_manifest(folder / "train.json", sources, Reading(), folder)
    return read_texts(folder, "train", folder)


@pytest.mark.slow
@pytest.mark.parametrize("sample_bytes", [0, 700, 20_000, 60_000])
@pytest.mark.parametrize("of", ["cluster", "this machine"])
def test_workers_open_texts(
    executor: Executor,
    processes: Executor,
    tokenizer: Tokenizer,
    texts: list[TextFile],
    tmp_path: Path,
    sample_bytes: int,
    of: str,
) -> None:
    """Merges and ids are those without workers, of a sample as well."""
    if of == "this machine":
        executor = processes
    (tmp_path / "raw").mkdir()
    opened = manifest_texts(tmp_path / "raw", [text for text in texts if text.num_bytes])
    for pattern in ("gpt2", r"\w+|\W"):  # the second has few cuts
        how_much: Any = {"pattern": pattern, "sample_bytes": sample_bytes}
        learnt = train_bpe(opened, 400, [END], executor=executor, **how_much)
        assert learnt == train_bpe(opened, 400, [END], **how_much)
    for name, by in (("a", None), ("b", executor)):
        encode_texts(
            *(tokenizer, SHA, opened, tmp_path / name, tmp_path / "workshop", PARAMS), executor=by
        )
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
