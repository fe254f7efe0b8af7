"""Other tokenizers as contenders, each by the fastest way it offers, in an environment of its own.

Those that read files themselves read them within the timed call. The others get the documents as
strings, read and split at <|endoftext|> beforehand: their times leave that work out. Ours and
theirs see the same pre-tokens, as the separator is never part of one.

The packages are imported by name: the project's own environment does not have most of them.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.job import DECODE_TOKENS, END, Job, Prepared, documents, short_strings, utf8

# the pattern of GPT-2; what it finds is the same with `++`, which only forbids looking back
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# that of cl100k, as tiktoken has it
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def prepare(name: str, job: Job) -> Prepared:
    """Return a peer's call for a job; raise KeyError for a task that there is none for."""
    return TASKS[name, job.task](job)


# -- learn merges: the merged tokens compare as hexadecimal text


def train_gigatoken(job: Job) -> Prepared:
    """File in, vocabulary out, split at the separator by gigatoken."""
    gigatoken = import_module("gigatoken")

    def run() -> Any:
        source = gigatoken.TextFileSource([job.corpus], separator=END)
        return gigatoken.train_bpe(source, job.vocab_size, [END])

    return Prepared(run, lambda result: np.array([(a + b).hex() for a, b in result[1]]))


def train_gigabpe(job: Job) -> Prepared:
    """File in, vocabulary and merges out; it learns what Hugging Face's trainer does."""
    gigabpe = import_module("gigabpe")

    def run() -> Any:
        return gigabpe.train_bpe(
            [job.corpus],
            job.vocab_size,
            special_tokens=[END],
            pretokenizer="bytelevel",
            threads=job.num_threads,
        )

    return Prepared(run, lambda result: hex_of_merges(result[1]))


def train_ffbpe(job: Job) -> Prepared:
    """Documents in, a model out."""
    ffbpe = import_module("ffbpe")
    texts = documents(job.corpus)

    def comparable(model: Any) -> Any:
        tokens = sorted(model.vocab, key=model.vocab.get)
        return np.array([t.hex() for t in tokens if len(t) > 1 and t != END.encode()])

    return Prepared(
        lambda: ffbpe.train_bpe(texts, vocab_size=job.vocab_size, special_tokens=[END]),
        comparable,
    )


def train_rustbpe(job: Job) -> Prepared:
    """Documents in; rustbpe has no special tokens."""
    rustbpe = import_module("rustbpe")
    texts = documents(job.corpus)

    def run() -> Any:
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(texts, job.vocab_size - 1, pattern=GPT2)
        return tokenizer

    def comparable(tokenizer: Any) -> Any:
        ranks = sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])
        return np.array([bytes(token).hex() for token, _ in ranks[256:]])

    return Prepared(run, comparable)


def train_tokenizers(job: Job) -> Prepared:
    """Documents in; byte-level BPE as in the GPT-2 tokenizer of Hugging Face."""
    tokenizers = import_module("tokenizers")
    byte_level = import_module("tokenizers.pre_tokenizers").ByteLevel
    trainers = import_module("tokenizers.trainers")
    texts = documents(job.corpus)

    def run() -> Any:
        tokenizer = tokenizers.Tokenizer(import_module("tokenizers.models").BPE())
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=job.vocab_size,
            special_tokens=[END],
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer

    def comparable(tokenizer: Any) -> Any:
        return hex_of_merges(json.loads(tokenizer.to_str())["model"]["merges"])

    return Prepared(run, comparable)


def hex_of_merges(merges: list[Any]) -> Any:
    """Return the merged tokens of merges written in the characters of `byte_values`."""
    values = byte_values()
    return np.array([bytes(values[char] for char in "".join(pair)).hex() for pair in merges])


# -- encode a file: ids compare without separators


def encode_gigatoken(job: Job) -> Prepared:
    """File in, one array of rows out."""
    gigatoken = import_module("gigatoken")
    tokenizer = gigatoken.Tokenizer(tokenizer_json(job))

    def run() -> Any:
        return tokenizer.encode_files(gigatoken.TextFileSource([job.corpus], separator=END))

    flatten = import_module("awkward").flatten
    return Prepared(run, lambda rows: np.asarray(flatten(rows)))


def encode_tokie(job: Job) -> Prepared:
    """File in, ids and offsets out."""
    tokenizer = import_module("tokie").Tokenizer.from_json(tokenizer_json(job))
    return Prepared(
        lambda: tokenizer.encode_files([job.corpus], END.encode()), lambda result: result[0]
    )


def encode_fastokens(job: Job) -> Prepared:
    """Documents in, ids and offsets out as bytes."""
    tokenizer = import_module("fastokens").Tokenizer.from_file(tokenizer_json(job))
    texts = documents(job.corpus)
    return Prepared(
        lambda: tokenizer.encode_batch_flat(texts),
        lambda result: np.frombuffer(result[0], np.uint32),
    )


def encode_tiktoken(job: Job) -> Prepared:
    """Documents in, lists out."""
    encoding = tiktoken_encoding(job)
    texts = documents(job.corpus)
    return Prepared(
        lambda: encoding.encode_ordinary_batch(texts, num_threads=job.num_threads), np.concatenate
    )


def encode_riptoken(job: Job) -> Prepared:
    """Documents in, lists out."""
    return riptoken_with(GPT2, job)


def encode_cl100k_riptoken(job: Job) -> Prepared:
    """The same with the pre-tokens of cl100k."""
    return riptoken_with(CL100K, job)


def riptoken_with(pattern: str, job: Job) -> Prepared:
    """Return riptoken's call with a pattern."""
    core = import_module("riptoken").CoreBPE(*ranks_of(job), pattern)
    texts = documents(job.corpus)
    return Prepared(lambda: core.encode_ordinary_batch(texts), np.concatenate)


def encode_cl100k_quicktok(job: Job) -> Prepared:
    """Documents in, one array of ids and one of offsets out; our vocabulary in its format."""
    folder = Path(job.tokenizer) / "quicktok"
    folder.mkdir(exist_ok=True)
    quicktok, core = import_module("quicktok"), import_module("quicktok._import_core")
    core.write_files(str(folder), "ours", *ranks_of(job), "cl100k", nfc=False)
    tables = str(Path(str(quicktok.__file__)).parent / "data")
    core.ensure_tables(str(folder), tables, "cl100k", nfc=False)
    encoding = quicktok.get_encoding("ours", str(folder))
    texts = documents(job.corpus)
    return Prepared(lambda: encoding.encode_batch(texts, job.num_threads), lambda result: result[0])


def encode_tokenizers(job: Job) -> Prepared:
    """Documents in, `Encoding` objects out; without offsets, which only encode_batch computes."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(tokenizer_json(job))
    texts = documents(job.corpus)
    return Prepared(
        lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
        lambda rows: np.concatenate([row.ids for row in rows]),
    )


# -- short strings, and ids back to text: tiktoken


def encode_same_tiktoken(job: Job) -> Prepared:
    """One string, 10,000 times."""
    encode = tiktoken_encoding(job).encode_ordinary
    texts = [next(short_strings(job.corpus))[0]] * len(next(short_strings(job.corpus)))
    return Prepared(lambda: [encode(text) for text in texts], np.concatenate)


def encode_batch_tiktoken(job: Job) -> Prepared:
    """10,000 strings in one call, lists out."""
    encoding = tiktoken_encoding(job)
    rounds = short_strings(job.corpus)
    return Prepared(
        lambda: encoding.encode_ordinary_batch(next(rounds), num_threads=job.num_threads),
        np.concatenate,
    )


def encode_each_tiktoken(job: Job) -> Prepared:
    """10,000 strings, one by one: faster than its threads, which cost more than the encoding."""
    encode = tiktoken_encoding(job).encode_ordinary
    rounds = short_strings(job.corpus)
    return Prepared(lambda: [encode(text) for text in next(rounds)], np.concatenate)


def encode_batch_arrays_tiktoken(job: Job) -> Prepared:
    """10,000 strings, one by one, an array for each; no search for forbidden special tokens."""
    encode = tiktoken_encoding(job).encode_to_numpy
    rounds = short_strings(job.corpus)
    return Prepared(
        lambda: [encode(text, disallowed_special=()) for text in next(rounds)], np.concatenate
    )


def decode_list_tiktoken(job: Job) -> Prepared:
    """A list of a million tokens."""
    encoding = tiktoken_encoding(job)
    ids = np.load(job.tokens)[:DECODE_TOKENS].tolist()
    return Prepared(lambda: encoding.decode(ids), utf8)


def decode_array_tiktoken(job: Job) -> Prepared:
    """An array of a million tokens, made a list first: faster than handing over the array."""
    encoding = tiktoken_encoding(job)
    ids = np.load(job.tokens)[:DECODE_TOKENS]
    return Prepared(lambda: encoding.decode(ids.tolist()), utf8)


# -- our vocabulary in their formats


def tokenizer_json(job: Job) -> str:
    """Return the path of our vocabulary in the format of Hugging Face."""
    return str(Path(job.tokenizer) / "tokenizer.json")


def tiktoken_encoding(job: Job) -> Any:
    """Return tiktoken's encoding with our vocabulary; our ids are its ranks."""
    ranks, special = ranks_of(job)
    return import_module("tiktoken").Encoding(
        "ours", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=special
    )


def ranks_of(job: Job) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return the id of each token of our vocabulary, and of each special token."""
    document = json.loads(Path(tokenizer_json(job)).read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in document["added_tokens"]}
    values = byte_values()
    ranks = {
        bytes(values[char] for char in token): token_id
        for token, token_id in document["model"]["vocab"].items()
        if token not in special
    }
    return ranks, special


def byte_values() -> dict[str, int]:
    """Return the byte that each character stands for in vocabulary files.

    Printable bytes stand for themselves, the others, in order, for the characters from U+0100 on:
    Radford et al. 2019, bytes_to_unicode of GPT-2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


TASKS = {
    ("gigatoken", "train"): train_gigatoken,
    ("gigabpe", "train"): train_gigabpe,
    ("ffbpe", "train"): train_ffbpe,
    ("rustbpe", "train"): train_rustbpe,
    ("tokenizers", "train"): train_tokenizers,
    ("gigatoken", "encode_file"): encode_gigatoken,
    ("tokie", "encode_file"): encode_tokie,
    ("fastokens", "encode_file"): encode_fastokens,
    ("riptoken", "encode_file"): encode_riptoken,
    ("riptoken", "encode_cl100k"): encode_cl100k_riptoken,
    ("quicktok-v1", "encode_cl100k"): encode_cl100k_quicktok,
    ("tiktoken", "encode_file"): encode_tiktoken,
    ("tokenizers", "encode_file"): encode_tokenizers,
    ("tiktoken", "encode_different"): encode_each_tiktoken,
    ("tiktoken", "encode_same"): encode_same_tiktoken,
    ("tiktoken", "encode_batch"): encode_batch_tiktoken,
    ("tiktoken", "encode_batch_lists"): encode_each_tiktoken,
    ("tiktoken", "encode_batch_arrays"): encode_batch_arrays_tiktoken,
    ("tiktoken", "decode_list"): decode_list_tiktoken,
    ("tiktoken", "decode_array"): decode_array_tiktoken,
}
