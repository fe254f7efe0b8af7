"""All texts to shards and their index: in this process, or by the workers of an executor."""

import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmlib.digests import SUMS
from lmlib.encoding.encoder import Encoded, Encoder, Job, Text, last_inked
from lmlib.encoding.params import EncodeParams
from lmlib.encoding.tasks import encode_with
from lmlib.encoding.workshop import each_its_own, locked, put_in_place, remove_others
from lmlib.separator import SEPARATOR, separator_id
from lmlib.threads import ThreadPool
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.workers import OnProgress
from lmlib.tokens.ids import TokenInfo
from lmlib.tokens.index import INDEX, Shard, TokenIndex, shard_name, write_index


def encode_texts(
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    texts: Sequence[Text],
    folder: Path,
    workshop: Path,
    params: EncodeParams,
    *,
    executor: Executor | None = None,
    store: str = "",
    on_progress: OnProgress | None = None,
) -> TokenIndex:
    """Write the ids of texts, one after the other, as shards with an index; return the index.

    Each text is encoded on its own, and gets a separator at its end if another text follows and it
    does not end with one. White space may come after that: texts that end with the separator alone
    have the ids of the joined text. A shard has ids of one text: of a piece of it, whose ends are
    safe cuts, or of a part of such a piece, if that has too many ids. So the shards depend only on
    texts, tokenizer and `shard_tokens`. What is appended to a text changes its last shards, and
    another text changes only its own.

    Shards in `folder` whose text, tokenizer and `shard_tokens` are the same are kept, if their
    digests are still right. New ones are made in the folder `workshop`, where they stay if the work
    is interrupted, and are found the next time. At the end they replace the old ones: the folder
    then holds the shards, the index and its digest, and nothing else. If that is interrupted the
    folder is refused, and the next time puts it right.

        executor     its workers encode texts, and pieces of large ones. They see `folder`,
                     `workshop`, and each text whose `num_bytes` is known, under the same paths; the
                     worker that encodes another text opens it. Default: threads of this process
        store        address to which the shards go, as in s3://bucket/folder; `folder` then gets
                     the index alone, and nothing is ever removed from the store. "": to `folder`
        on_progress  called with ("encode", bytes done, total)

    Executor and store change no bit of a shard. Raises OSError, which names the file, if one cannot
    be read or written, ConnectionError if the store cannot be used, and what the executor raises.
    """
    job = Job(tokenizer, tokenizer_sha256, params, folder, workshop, store)
    with locked(workshop):
        if executor is not None:
            places = {"folder": folder.absolute(), "workshop": workshop.absolute()}
            job = replace(job, **places, num_workers=1)
            encoded = encode_with(executor, job, texts, on_progress)
        elif store:
            with ThreadPool(1) as pool:
                encoded = encode_with(pool, job, texts, on_progress)
        else:
            encoded = _encode_here(job, texts, on_progress)
        index = _finish(job, encoded)
        shutil.rmtree(workshop, ignore_errors=True)  # a doubled task may still write there
    return index


def _encode_here(job: Job, texts: Sequence[Text], on_progress: OnProgress | None) -> Encoded:
    encoder = Encoder(job, on_progress)
    total = sum(text.num_bytes or 0 for text in texts)
    records, made = [], []
    for number, text in enumerate(texts):
        record, shards = encoder.encode(text, number == len(texts) - 1, total)
        records.append(record)
        made += shards
    return Encoded(records, made, last_inked(job.tokenizer, [each.path for each in made]))


def _finish(job: Job, encoded: Encoded) -> TokenIndex:
    """Write the index, and put the shards into their places beside it, or leave them in a store."""
    if job.store:
        index = _index(job, encoded, [each.shard for each in encoded.made])
        job.folder.mkdir(parents=True, exist_ok=True)
        write_index(job.folder, index)
        remove_others(job.folder, {INDEX, SUMS})
        return index
    made = each_its_own(encoded.made, job.workshop)
    shards = [replace(each.shard, file=shard_name(number)) for number, each in enumerate(made)]
    index = _index(job, encoded, shards)
    put_in_place(index, made, job.folder, job.workshop)
    return index


def _index(job: Job, encoded: Encoded, shards: Sequence[Shard]) -> TokenIndex:
    """Return the index of the shards, which have their names by now."""
    separator = separator_id(job.tokenizer.special_ids)
    tokens = sum(shard.tokens for shard in shards)
    documents = sum(shard.documents for shard in shards)
    documents += int(encoded.last not in (None, separator))
    info = TokenInfo(
        tokens=tokens,
        vocab_size=job.tokenizer.vocab_size,
        tokenizer_sha256=job.tokenizer_sha256,
        source_bytes=sum(
            text.bytes + len(SEPARATOR) * (text.separator == "added") for text in encoded.texts
        ),
        documents=min(tokens, 1) if separator is None else documents,
        separator_id=separator,
    )
    dtype = "uint16" if job.tokenizer.dtype is np.uint16 else "uint32"
    return TokenIndex(
        info, dtype, job.params.shard_tokens, tuple(encoded.texts), tuple(shards), job.store
    )
