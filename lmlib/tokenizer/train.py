"""Learn the merges of a byte-level BPE from text files."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path

from lmlib.tokenizer import engine
from lmlib.tokenizer.engine import WordCounts
from lmlib.tokenizer.patterns import find_pattern
from lmlib.tokenizer.reference import count_pre_tokens, learn_merges
from lmlib.tokenizer.splitting import Splitter, check_special_tokens
from lmlib.tokenizer.workers import map_in_order, open_executor

PathLike = str | os.PathLike[str]
OnProgress = Callable[[str, int, int], None]  # (stage, done, in all)

CHUNK_BYTES = 1 << 24  # bytes of a file that one worker holds at a time
ADD_UP_WORDS = 1 << 20  # words that wait in memory at least
PLAIN_DISTINCT_BYTES = 500_000  # distinct pre-tokens, in bytes, that plain Python merges quickly
PLAIN_LONGEST_WORD = 1000  # bytes; plain Python rewrites a whole word for every merge in it
PLAIN_MERGES = 3000


def train_bpe(
    input_path: PathLike | Iterable[PathLike],
    vocab_size: int,
    special_tokens: Iterable[str] | None,
    *,
    pattern: str = "gpt2",
    num_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Learn a vocabulary of `vocab_size` tokens from one file or several.

    Returns (vocab, merges). Ids are contiguous, as in GPT-2: the 256 bytes in order of value,
    then the merged tokens in the order learnt (merge k makes id 256 + k), then the special
    tokens in the order given. A special token of one byte is that byte's token.

    The most frequent pair is merged first, ties go to the greater pair of bytes. The corpus is
    cut at every special token, longest match first; they are not counted. Fewer tokens come back
    when no pair is left. Workers and chunks change the speed, never the result.

        pattern        "gpt2", "cl100k", or a regular expression that finds pre-tokens
        num_workers    default: one for each core this process may use
        executor       any concurrent.futures.Executor to count with, whose workers see the files
        on_progress    called with ("count", bytes done, bytes in all), ("merge", merges, of)
        chunk_bytes    how much of a file a worker holds at a time

    Raises ValueError for a vocabulary too small for bytes and special tokens or an empty corpus,
    FileNotFoundError for a missing file.
    """
    special = check_special_tokens(special_tokens)
    find_pattern(pattern)
    extra = [token for token in special if len(token.encode()) > 1]
    num_merges = vocab_size - 256 - len(extra)
    if num_merges < 0:
        raise ValueError(
            f"vocab_size is {vocab_size}, but 256 bytes and {len(extra)} special tokens need "
            f"{256 + len(extra)}; raise vocab_size to at least that."
        )
    paths = [input_path] if isinstance(input_path, str | os.PathLike) else input_path
    counts = count_files(
        [Path(path) for path in paths],
        Splitter(pattern, special),
        num_workers=num_workers,
        executor=executor,
        on_progress=on_progress,
        chunk_bytes=chunk_bytes,
    )

    def report(done: int) -> None:
        if on_progress:
            on_progress("merge", done, num_merges)

    merges = merge_words(counts, num_merges, report)
    vocab = {byte: bytes([byte]) for byte in range(256)}
    for token in [*(left + right for left, right in merges), *(t.encode() for t in extra)]:
        vocab[len(vocab)] = token
    return vocab, merges


def count_files(
    paths: list[Path],
    splitter: Splitter,
    *,
    num_workers: int | None,
    executor: Executor | None,
    on_progress: OnProgress | None,
    chunk_bytes: int,
) -> WordCounts:
    """Return the distinct pre-tokens of the files and how often each occurs."""
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file to train on; check the path.")
    size = sum(path.stat().st_size for path in paths)
    if not size:
        raise ValueError(
            f"the corpus is empty: {', '.join(map(str, paths)) or 'no file is named'}; "
            "give at least one file with text."
        )
    in_threads = splitter.pattern in engine.ENGINE_PATTERNS and size >= engine.ENGINE_MIN_BYTES
    if in_threads:
        engine.load()
    tasks = (
        (splitter, in_threads, path, start, end)
        for path in paths
        for start, end in splitter.chunks(path, chunk_bytes)
    )
    waiting: list[WordCounts] = []
    done = 0
    with open_executor(executor, num_workers, in_threads, size, chunk_bytes) as pool:
        for num_bytes, counts in map_in_order(pool, count_chunk, tasks):
            waiting.append(counts)
            # Adding up costs as much as all parts hold: wait until they are twice the sum.
            if sum(map(len, waiting)) > 2 * len(waiting[0]) + ADD_UP_WORDS:
                waiting = [engine.add_up(waiting, in_threads)]
            done += num_bytes
            if on_progress:
                on_progress("count", done, size)
    return engine.add_up(waiting, in_threads)


def count_chunk(
    splitter: Splitter, use_engine: bool, path: Path, start: int, end: int
) -> tuple[int, WordCounts]:
    """Return the number of bytes and the pre-tokens of one byte range of a file."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    if use_engine:
        return end - start, engine.count_words(data, splitter)
    return end - start, WordCounts.from_dict(count_pre_tokens(data, splitter))


def merge_words(
    counts: WordCounts, num_merges: int, report: Callable[[int], None]
) -> list[tuple[bytes, bytes]]:
    """Return the merges; by plain Python when there is little to do, else by the engine."""
    if (
        counts.num_bytes <= PLAIN_DISTINCT_BYTES
        and counts.longest <= PLAIN_LONGEST_WORD
        and num_merges <= PLAIN_MERGES
    ):
        return learn_merges(counts.to_dict(), num_merges, report)
    return engine.learn_merges(counts, num_merges, report)
