"""Learn the merges of a byte-level BPE from text files."""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from functools import partial

from lmlib.tokenizer import engine, learning
from lmlib.tokenizer.count_tasks import Counting, count_chunk, count_on, new_counter
from lmlib.tokenizer.counting import WordCounter, WordCounts
from lmlib.tokenizer.ids import whole_number
from lmlib.tokenizer.parts import Part, corpus_ranges
from lmlib.tokenizer.paths import CorpusPath, CorpusText, FileText, as_texts, check_is_file
from lmlib.tokenizer.patterns import find_pattern
from lmlib.tokenizer.reference import learn_merges
from lmlib.tokenizer.splitting import Splitter, check_special_tokens
from lmlib.tokenizer.workers import (
    CHUNK_BYTES,
    CLUSTER_CHUNK_BYTES,
    OnProgress,
    count_workers,
    map_in_order,
    open_executor,
)

POLL_S = 0.1  # how often progress is reported
UNKNOWN_BYTES = 1 << 40  # of texts whose size is not known: enough for kernels and all workers
PLAIN_DISTINCT_BYTES = 500_000  # distinct pre-tokens, in bytes, that plain Python merges quickly
PLAIN_LONGEST_WORD = 1000  # bytes; plain Python rewrites a whole word for every merge in it
PLAIN_MERGES = 3000


def train_bpe(
    input_path: CorpusPath | CorpusText | Iterable[CorpusPath | CorpusText],
    vocab_size: int,
    special_tokens: Iterable[str] | None,
    *,
    pattern: str = "gpt2",
    num_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
    chunk_bytes: int | None = None,
    sample_bytes: int = 0,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Learn a vocabulary of `vocab_size` tokens from one or more files or texts.

    Returns (vocab, merges). Ids are contiguous, as in GPT-2: the 256 bytes in order of value,
    then the merged tokens in the order learnt (merge k makes id 256 + k), then the special
    tokens in the order given. A special token of one byte is that byte's token.

    The most frequent pair is merged first; ties go to the greater pair of bytes. The corpus is
    split at every special token, longest match first; they are not counted. No pre-token crosses
    from one file to the next. The vocabulary is smaller if no pair is left to merge. Workers and
    chunks change the speed, never the result.

        pattern        "gpt2", "cl100k", "o200k", or a regular expression that finds pre-tokens
        num_workers    default: one for each core this process may use
        executor       any concurrent.futures.Executor whose workers can read the files; it counts
        on_progress    called with ("count", bytes done, total) and ("merge", merges done, total)
        chunk_bytes    how much of a file a worker holds at a time; default: 1 MiB, 16 MiB with an
                       executor
        sample_bytes   count about this much of the corpus, spread evenly over it; 0: all

    Raises ValueError for a vocabulary too small for bytes and special tokens, an empty corpus, or a
    folder in place of a file; FileNotFoundError for a missing file.
    """
    special = check_special_tokens(special_tokens)
    find_pattern(pattern)
    extra = [token for token in special if len(token.encode()) > 1]
    num_merges = whole_number(vocab_size, "vocab_size") - 256 - len(extra)
    if num_merges < 0:
        raise ValueError(
            f"vocab_size is {vocab_size}, but 256 bytes and {len(extra)} special tokens need "
            f"{256 + len(extra)}; raise vocab_size to at least that"
        )
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES if executor is None else CLUSTER_CHUNK_BYTES
    counts = count_files(
        as_texts(input_path),
        Splitter(pattern, special),
        num_workers=num_workers,
        executor=executor,
        on_progress=on_progress,
        chunk_bytes=chunk_bytes,
        sample_bytes=whole_number(sample_bytes, "sample_bytes"),
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
    texts: list[CorpusText],
    splitter: Splitter,
    *,
    num_workers: int | None,
    executor: Executor | None,
    on_progress: OnProgress | None,
    chunk_bytes: int,
    sample_bytes: int,
) -> WordCounts:
    """Return the distinct pre-tokens of the texts, or of a sample, and how often each occurs."""
    for text in texts:
        if isinstance(text, FileText):
            check_is_file(text.file, "to train on")
    sizes = [text.num_bytes for text in texts]
    size = sum(num_bytes or 0 for num_bytes in sizes)
    is_known = None not in sizes
    if sample_bytes and not (is_known and size <= sample_bytes):
        size, is_known = sample_bytes, True
    else:
        sample_bytes = 0
    work = size if is_known else UNKNOWN_BYTES
    use_engine = splitter.pattern in engine.ENGINE_PATTERNS and engine.pays(work)
    find_cut = partial(engine.find_cut, splitter) if use_engine else splitter.find_cut
    ranges = corpus_ranges(texts, splitter, chunk_bytes, find_cut, sample_bytes)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done = count
        if on_progress:
            on_progress("count", done, max(size, done) if is_known else 0)

    if use_engine and executor is None:
        with open_executor(None, num_workers, True, work, chunk_bytes) as pool:
            total = _count_in_threads(pool, ranges, splitter, report)
    elif executor is not None and not all(text.is_in_place for text in texts):
        total = new_counter(use_engine)
        counting = Counting(splitter, use_engine, chunk_bytes)
        ahead = num_workers or count_workers(executor)
        for num_bytes, counts in count_on(executor, counting, texts, sample_bytes, ahead):
            total.add_words(counts)
            report(done + num_bytes)
    else:
        total = new_counter(use_engine)
        tasks = ((splitter, use_engine, part) for part in ranges)
        with open_executor(executor, num_workers, use_engine, work, chunk_bytes) as pool:
            for num_bytes, counts in map_in_order(pool, count_chunk, tasks, num_workers):
                total.add_words(counts)
                report(done + num_bytes)
    if not done:
        named = ", ".join(str(getattr(text, "file", text)) for text in texts[:3])
        raise ValueError(
            f"the corpus is empty: {named or 'no file is named'}; give at least one file with text"
        )
    return total.words()


def _count_in_threads(
    pool: Executor,
    ranges: Generator[Part],
    splitter: Splitter,
    report: Callable[[int], None],
) -> WordCounter:
    """Count with one table per thread; each thread takes the next part when it is ready."""
    counters = [WordCounter() for _ in range(count_workers(pool))]
    lock = threading.Lock()
    done = 0

    def work(counter: WordCounter) -> None:
        nonlocal done
        while True:
            with lock:
                part = next(ranges, None)
            if part is None:
                return
            data = part.read()
            counter.add_text(data, splitter)
            with lock:
                done += len(data)

    futures = [pool.submit(work, counter) for counter in counters]
    try:
        while wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION).not_done:
            if any(future.done() and future.exception() for future in futures):
                break
            report(done)
    finally:
        with lock:
            ranges.close()  # after an error, no thread takes another range
    for future in futures:
        future.result()
    report(done)
    total = max(counters, key=len)
    for counter in counters:
        if counter is not total:
            total.add_words(counter.words())
    return total


def merge_words(
    counts: WordCounts, num_merges: int, report: Callable[[int], None]
) -> list[tuple[bytes, bytes]]:
    """Return the merges, learnt in plain Python if they are few and no kernel is loaded.

    There are fewer than `num_merges` if no pair is left: each merge shortens a word by a token.
    """
    num_merges = min(num_merges, counts.num_bytes - len(counts))
    is_little = (
        counts.num_bytes <= PLAIN_DISTINCT_BYTES
        and counts.longest <= PLAIN_LONGEST_WORD
        and num_merges <= PLAIN_MERGES
    )
    if (is_little and not engine.is_loaded()) or not engine.try_load():
        return learn_merges(counts.to_dict(), num_merges, report)
    return learning.learn_merges(counts, num_merges, report)
