"""The tokenizer of this project as a contender; the kernels are loaded before anything is timed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlib.tokenizer import Tokenizer, engine, train_bpe
from tests.benchmarks.job import DECODE_TOKENS, END, Job, Prepared, short_strings, utf8


def prepare(name: str, job: Job) -> Prepared:
    """Return the call for a job; raise KeyError for a task that there is none for."""
    assert name == "ours"
    engine.load()
    return TASKS[job.task](job)


def learn(job: Job) -> Prepared:
    """`train_bpe`: file in, vocabulary out; tokens compare as hexadecimal text.

    To compare the vocabulary is to save it, too: the other tasks use it.
    """

    def save(result: tuple[dict[int, bytes], list[tuple[bytes, bytes]]]) -> NDArray[np.str_]:
        vocab, merges = result
        Tokenizer(vocab, merges, [END]).save(job.tokenizer)
        return np.array([(left + right).hex() for left, right in merges])

    return Prepared(lambda: train_bpe(job.corpus, job.vocab_size, [END]), save)


def encode_cl100k(job: Job) -> Prepared:
    """`encode_file` with the same merges, and the pre-tokens of cl100k."""
    ours = Tokenizer.load(job.tokenizer)
    return encoding_of_file(Tokenizer(ours.vocab, ours.merges, [END], pattern="cl100k"), job)


def encode_file(job: Job) -> Prepared:
    """`encode_file`: file in, .npy on the disk out; compared without the separators."""
    return encoding_of_file(Tokenizer.load(job.tokenizer), job)


def encoding_of_file(tokenizer: Tokenizer, job: Job) -> Prepared:
    """Return the call that encodes the corpus."""
    (separator,) = tokenizer.encode(END)

    def without_separators(_: int) -> NDArray[np.unsignedinteger]:
        ids = np.load(job.tokens)
        return ids[ids != separator]

    # To replace a file takes ext4 as long as to write it: it writes the new one out first.
    return Prepared(
        lambda: tokenizer.encode_file(job.corpus, job.tokens),
        without_separators,
        before=lambda: Path(job.tokens).unlink(missing_ok=True),
    )


def encode_different(job: Job) -> Prepared:
    """`encode` of 10,000 strings, one by one."""
    encode = Tokenizer.load(job.tokenizer).encode
    rounds = short_strings(job.corpus)
    return Prepared(lambda: [encode(text) for text in next(rounds)], np.concatenate)


def encode_same(job: Job) -> Prepared:
    """`encode` of one string, 10,000 times."""
    encode = Tokenizer.load(job.tokenizer).encode
    texts = [next(short_strings(job.corpus))[0]] * len(next(short_strings(job.corpus)))
    return Prepared(lambda: [encode(text) for text in texts], np.concatenate)


def encode_batch(convert: Callable[[Any], Any]) -> Callable[[Job], Prepared]:
    """`encode_batch` of 10,000 strings, each result then converted."""

    def prepare_batch(job: Job) -> Prepared:
        tokenizer = Tokenizer.load(job.tokenizer)
        rounds = short_strings(job.corpus)
        return Prepared(lambda: convert(tokenizer.encode_batch(next(rounds))), np.concatenate)

    return prepare_batch


def decode(convert: Callable[[NDArray[np.unsignedinteger]], Any]) -> Callable[[Job], Prepared]:
    """`decode` of a million tokens in the given form."""

    def prepare_decode(job: Job) -> Prepared:
        tokenizer = Tokenizer.load(job.tokenizer)
        ids = convert(np.load(job.tokens)[:DECODE_TOKENS])
        return Prepared(lambda: tokenizer.decode(ids), utf8)

    return prepare_decode


TASKS = {
    "train": learn,
    "encode_file": encode_file,
    "encode_cl100k": encode_cl100k,
    "encode_different": encode_different,
    "encode_same": encode_same,
    "encode_batch": encode_batch(lambda rows: rows),
    "encode_batch_lists": encode_batch(lambda rows: [np.asarray(row).tolist() for row in rows]),
    "encode_batch_arrays": encode_batch(lambda rows: [np.asarray(row) for row in rows]),
    "decode_list": decode(lambda ids: ids.tolist()),
    "decode_array": decode(lambda ids: ids),
}
