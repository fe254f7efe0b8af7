"""`Tokenizer`: text to token ids and back, in memory, as a stream, and from file to file."""

import os
import pickle
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import lru_cache, partial
from itertools import count, pairwise
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lmlib.digests import check_digests, write_digests
from lmlib.files import replacing
from lmlib.threads import num_cores
from lmlib.tokenizer import engine, files
from lmlib.tokenizer.encoder import Encoder, TokenTable
from lmlib.tokenizer.ids import whole_ids
from lmlib.tokenizer.paths import CorpusFile, CorpusPath, as_file, check_is_file, read_range
from lmlib.tokenizer.reference import apply_merges, apply_merges_long, pre_tokens
from lmlib.tokenizer.splitting import (
    Splitter,
    check_special_tokens,
    encode_strictly,
    file_chunks,
)
from lmlib.tokenizer.workers import (
    CHUNK_BYTES,
    CLUSTER_CHUNK_BYTES,
    OnProgress,
    map_in_order,
    open_executor,
)

PathLike = str | os.PathLike[str]
AllowedSpecial = Literal["all", "none"] | set[str] | frozenset[str]

LONG_PRE_TOKEN = 100  # bytes; from this length on, a heap is faster than trying every pair again
CACHE_SIZE = 1 << 16  # pre-tokens
STREAM_CHARS = 1 << 15  # characters read ahead by encode_iterable, at most 4 bytes each
ENGINE_HABIT_BYTES = 1 << 16  # encoded in plain Python before loaded kernels are used
BYTES_PER_ID = 4  # of text, roughly
MAX_VOCAB_SIZE = 1 << 32  # ids are stored as uint32


class Tokenizer:
    """Byte-level BPE with a fixed vocabulary.

        vocab            id -> bytes; ids may have gaps
        merges           pairs of tokens, the highest priority first
        special_tokens   never split and never merged; where two overlap the longest match wins;
                         those missing from the vocabulary get the next ids, in the order given
        pattern          "gpt2", "cl100k", "o200k", or a regular expression that finds pre-tokens

    Raises ValueError when a merge uses or makes a token that is not in the vocabulary.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Iterable[str] | None = None,
        *,
        pattern: str = "gpt2",
    ) -> None:
        self.vocab = dict(zip(whole_ids(vocab, "vocab"), vocab.values(), strict=True))
        self.merges = [(left, right) for left, right in merges]
        self.pattern = pattern
        self.special_tokens = check_special_tokens(special_tokens)
        # where two ids have the same bytes, the lower one is used
        by_bytes = {token: token_id for token_id, token in sorted(self.vocab.items(), reverse=True)}
        if self.vocab and min(self.vocab) < 0:
            raise ValueError(f"vocab: id {min(self.vocab)} is negative; ids start at 0")
        next_ids = count(self.vocab_size)
        for token in map(str.encode, self.special_tokens):
            if token not in by_bytes:
                by_bytes[token] = next(next_ids)
                self.vocab[by_bytes[token]] = token
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise ValueError(
                f"vocab: id {self.vocab_size - 1} is above {MAX_VOCAB_SIZE - 1}, the greatest that "
                "fits into 32 bits; number the tokens from 0"
            )
        self.special_ids = {token: by_bytes[token.encode()] for token in self.special_tokens}
        self._byte_ids = [by_bytes.get(bytes([byte]), -1) for byte in range(256)]
        self._merge_table = _merge_table(self.merges, by_bytes)
        self._splitter = Splitter(pattern, self.special_tokens)
        self._cache: dict[str, list[int]] = {}
        self._can_use_engine = (
            pattern in engine.ENGINE_PATTERNS
            and min(self._byte_ids) >= 0
            and self.vocab_size - 1 <= engine.ENGINE_MAX_ID
        )
        self._done_plainly = 0  # bytes of text since the kernels were loaded
        self._encoder: Encoder | None = None
        self._token_table: TokenTable | None = None
        self._pickled: bytes | None = None

    def __reduce__(self) -> tuple:
        if self._pickled is None:
            contents = (self.vocab, self.merges, self.special_tokens, self.pattern)
            self._pickled = pickle.dumps(contents, pickle.HIGHEST_PROTOCOL)
        return (_rebuild, (self._pickled,))

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id: the number of rows an embedding needs."""
        return max(self.vocab, default=-1) + 1

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    # -- text to ids

    def encode(self, text: str, *, allowed_special: AllowedSpecial = "all") -> list[int]:
        """Return the ids of a text.

        `allowed_special` names the special tokens to recognise; the others are ordinary text, so
        that untrusted text cannot smuggle one in. Raises ValueError for an unknown name and for
        a lone surrogate, TypeError for bytes.
        """
        data = encode_strictly(text, "encode")
        splitter = self._splitter_for(allowed_special)
        if self._wants_engine(len(data)):
            return self._get_encoder().encode(data, splitter)
        return self._encode_plainly(text, splitter)

    def encode_batch(
        self, texts: Iterable[str], *, allowed_special: AllowedSpecial = "all"
    ) -> list[NDArray[np.unsignedinteger]]:
        """Return the ids of each text as an array of `dtype`.

        The arrays may be views of one that holds the ids of many texts, which stays in memory as
        long as any of them does: copy those that you keep for long.
        """
        if isinstance(texts, str):
            raise ValueError("encode_batch: texts is a single string; pass a list: [text]")
        texts = list(texts)
        splitter = self._splitter_for(allowed_special)
        data = [encode_strictly(text, "encode_batch") for text in texts]
        starts = np.cumsum([0, *map(len, data)], dtype=np.int64)
        size = int(starts[-1])
        if not self._wants_engine(size):
            return [np.array(self._encode_plainly(t, splitter), dtype=self.dtype) for t in texts]
        encoder = self._get_encoder()

        def encode_share(first: int, stop: int) -> list[NDArray[np.unsignedinteger]]:
            ids, id_starts = encoder.encode_many(data[first:stop], splitter, self.dtype)
            return [ids[start:end] for start, end in pairwise(id_starts.tolist())]

        share = max(CHUNK_BYTES // 4, size // (4 * num_cores()))
        firsts = np.searchsorted(starts[:-1], range(share, size, share)).tolist()
        cuts = sorted({0, *firsts, len(texts)})
        with open_executor(None, None, True, len(cuts), 1) as pool:
            shares = map_in_order(pool, encode_share, pairwise(cuts))
            return [ids for share in shares for ids in share]

    def encode_iterable(
        self, iterable: Iterable[str], *, allowed_special: AllowedSpecial = "all"
    ) -> Iterator[int]:
        """Yield the ids of the joined text, however it is chunked, in constant memory.

        Reads ahead at most 128 kB of text, except where no cut is provably safe for longer: inside
        a giant pre-token and, with a custom pattern, between two special tokens.
        """
        splitter = self._splitter_for(allowed_special)
        pending: list[str] = []
        size = 0
        goal = STREAM_CHARS
        for chunk in iterable:
            for at in range(0, len(chunk), STREAM_CHARS):
                pending.append(chunk[at : at + STREAM_CHARS])
                size += len(pending[-1])
                if size < goal:
                    continue
                text = "".join(pending)
                cut = splitter.last_cut(text)
                yield from self._encode_piece(text[:cut], splitter)
                pending, size = [text[cut:]], len(text) - cut
                # If there is no cut, look again when the text has doubled: linear in total.
                goal = max(STREAM_CHARS, 2 * size)
        yield from self._encode_piece("".join(pending), splitter)

    def encode_file(
        self,
        src: CorpusPath,
        dst: PathLike,
        *,
        num_workers: int | None = None,
        executor: Executor | None = None,
        on_progress: OnProgress | None = None,
        chunk_bytes: int | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> int:
        """Encode the file `src` into the one-dimensional array file `dst`; return its length.

        `dst` is a .npy of `dtype` for `np.load(dst, mmap_mode="r")`, written atomically. The file
        is read as bytes, about `chunk_bytes` per worker at a time; invalid UTF-8 is encoded byte
        by byte. `executor` may be any concurrent.futures.Executor whose workers can read `src`.
        Only the bytes from `start` to `end` are encoded, which should be ends of the file or cuts
        of `file_pieces`.

        Raises FileNotFoundError if `src` or the folder of `dst` is missing, and ValueError if
        either is a folder or both are the same file.
        """
        file, dst = as_file(src), Path(dst)
        check_is_file(file, "to encode")
        _check_destination(dst, file)
        stop = file.stat().st_size if end is None else end
        size = stop - start
        use_engine = self._wants_engine(size)
        if use_engine:
            self._get_encoder()  # before any thread needs it
        if chunk_bytes is None:
            chunk_bytes = CHUNK_BYTES if executor is None else CLUSTER_CHUNK_BYTES
        splitter = self._splitter
        find_cut = partial(engine.find_cut, splitter) if use_engine else splitter.find_cut
        tasks = (
            (self, use_engine, file, *chunk)
            for chunk in file_chunks(file, splitter, chunk_bytes, find_cut, start, stop)
        )
        done = num_tokens = 0
        # fsync would take longer than encoding
        with replacing(dst, durable=False) as (part,), part.open("wb") as output:
            output.write(npy_header(self.dtype, 0))
            with open_executor(executor, num_workers, use_engine, size, chunk_bytes) as pool:
                for num_bytes, ids in map_in_order(pool, encode_chunk, tasks, num_workers):
                    output.write(ids.data)
                    num_tokens += len(ids)
                    done += num_bytes
                    if on_progress:
                        on_progress("encode", done, size)
            output.seek(0)
            output.write(npy_header(self.dtype, num_tokens))
        return num_tokens

    def file_pieces(self, src: CorpusPath, piece_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) byte ranges of a file, each of `piece_bytes` or a little more.

        The ids of the pieces, one after the other, are those of the file. The cuts depend on the
        text alone, and not on what follows a piece, unless that is within a few bytes of it.
        """
        file = as_file(src)
        return file_chunks(file, self._splitter, piece_bytes, self._splitter.find_cut)

    def encode_range(
        self, file: CorpusFile, start: int, end: int, *, use_engine: bool
    ) -> NDArray[np.unsignedinteger]:
        """Return the ids of a byte range of a file as `dtype`; it need not be valid UTF-8."""
        if use_engine:
            encoder = self._get_encoder()
            return encoder.encode_range(file, start, end, self._splitter, self.dtype)
        text = read_range(file, start, end).decode("utf-8", "surrogateescape")
        return np.array(self._encode_plainly(text, self._splitter), dtype=self.dtype)

    # -- ids to text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the tokens, whose ids are one row of whole numbers in any form.

        Raises ValueError for an id not in the vocabulary, and for a value that is not an id, such
        as 97.0.
        """
        return bytes(self._decode(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the tokens, with U+FFFD in place of invalid UTF-8."""
        return str(self._decode(ids), "utf-8", errors="replace")

    def _decode(self, ids: Iterable[int]) -> bytes | memoryview:
        if not isinstance(ids, list) and not _is_integer_array(ids):
            ids = whole_ids(ids, "decode")
        if self._wants_engine(BYTES_PER_ID * len(ids)):
            numbers = _as_uint32(ids)
            if numbers is not None:
                if self._token_table is None:
                    self._token_table = TokenTable(self.vocab)
                decoded = self._token_table.decode(numbers)
                if decoded is not None:
                    return decoded.data
        try:
            return b"".join(map(self.vocab.__getitem__, whole_ids(ids, "decode")))
        except KeyError as error:
            raise ValueError(
                f"decode: {error.args[0]!r} is not a token id; this vocabulary has "
                f"{len(self.vocab)} ids, the greatest is {self.vocab_size - 1}; decode with the "
                "tokenizer that made the ids"
            ) from None

    # -- files

    def save(self, folder: PathLike) -> None:
        """Write vocab.json, merges.txt, tokenizer.json (Hugging Face), bpe.json and SHA256SUMS."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        document = files.huggingface_json(self.vocab, self.merges, self.special_ids, self.pattern)
        files.write_vocab_and_merges(folder, self.vocab, self.merges)
        files.write_text(folder / "tokenizer.json", document)
        files.write_config(folder, self.pattern, self.special_ids)
        write_digests(folder, *files.NAMES, "tokenizer.json")

    @classmethod
    def load(cls, folder: PathLike) -> "Tokenizer":
        """Return the tokenizer that `save` wrote; raise ValueError if a file has changed since."""
        folder = Path(folder)
        check_digests(folder, *files.NAMES, "tokenizer.json")
        pattern, special_ids = files.read_config(folder)
        vocab = files.read_vocab(folder / "vocab.json")
        for token, token_id in special_ids.items():
            if vocab.get(token_id) != token.encode():
                raise ValueError(
                    f"{folder}: bpe.json gives {token!r} the id {token_id}, vocab.json does not; "
                    "the files belong to different tokenizers; save one of them again"
                )
        merges = files.read_merges(folder / "merges.txt")
        try:
            return cls(vocab, merges, list(special_ids), pattern=pattern)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    @classmethod
    def from_files(
        cls,
        vocab_path: PathLike,
        merges_path: PathLike,
        special_tokens: Iterable[str] | None = None,
        *,
        pattern: str = "gpt2",
    ) -> "Tokenizer":
        """Return a tokenizer from files in GPT-2's format."""
        vocab = files.read_vocab(Path(vocab_path))
        merges = files.read_merges(Path(merges_path))
        try:
            return cls(vocab, merges, special_tokens, pattern=pattern)
        except ValueError as error:
            raise ValueError(f"{vocab_path}, {merges_path}: {error}") from error

    # -- the two ways to encode

    def _splitter_for(self, allowed_special: AllowedSpecial) -> Splitter:
        if isinstance(allowed_special, set | frozenset):
            unknown = sorted(set(allowed_special).difference(self.special_ids))
            if unknown:
                raise ValueError(
                    f"allowed_special names {', '.join(map(repr, unknown)):.200}, but the special "
                    f"tokens are {self.special_tokens!r:.200}; name one of these or pass 'all' or "
                    "'none'"
                )
            return _splitter(self.pattern, frozenset(allowed_special))
        if allowed_special == "all":
            return self._splitter
        if allowed_special == "none":
            return _splitter(self.pattern, frozenset())
        raise ValueError(f"allowed_special is {allowed_special!r}; pass 'all', 'none' or a set")

    def _wants_engine(self, num_bytes: int) -> bool:
        """Return whether the kernels support this tokenizer, and the text repays loading them.

        Once they are loaded, this tokenizer still needs tables, which take as long to build as
        plain Python takes for ENGINE_HABIT_BYTES. They are built after that much text, since more
        is then likely to follow. Short texts encoded one by one never load the kernels, however
        many there are; `encode_batch` does, for all of them together.
        """
        if not self._can_use_engine:
            return False
        if self._encoder is not None:
            return True
        if not engine.pays(num_bytes):
            return False
        self._done_plainly += num_bytes
        return self._done_plainly >= ENGINE_HABIT_BYTES and engine.fits(engine.TABLES_BYTES)

    def _get_encoder(self) -> Encoder:
        if self._encoder is None:
            self._encoder = Encoder(self._byte_ids, self._merge_table, self.special_ids)
        return self._encoder

    def _encode_piece(self, text: str, splitter: Splitter) -> list[int]:
        data = encode_strictly(text, "encode_iterable")
        if self._encoder is not None:  # never load the kernels: a stream promises little memory
            return self._encoder.encode(data, splitter)
        return self._encode_plainly(text, splitter)

    def _encode_plainly(self, text: str, splitter: Splitter) -> list[int]:
        """Return the ids of a text whose lone surrogates represent bytes of invalid UTF-8."""
        ids: list[int] = []
        cache = self._cache
        for piece, is_special in splitter.parts(text):
            if is_special:
                ids.append(self.special_ids[piece])
                continue
            for pre_token in pre_tokens(piece, self.pattern):
                known = cache.get(pre_token)
                if known is None:
                    known = self._merge(pre_token.encode("utf-8", "surrogateescape"))
                    if len(cache) >= CACHE_SIZE:
                        cache.clear()
                    if len(pre_token) < LONG_PRE_TOKEN:
                        cache[pre_token] = known
                ids.extend(known)
        return ids

    def _merge(self, pre_token: bytes) -> list[int]:
        """Return the ids of one pre-token."""
        ids = [self._byte_ids[byte] for byte in pre_token]
        if min(ids) < 0:
            byte = pre_token[ids.index(-1)]
            raise ValueError(
                f"the vocabulary has no token for the byte 0x{byte:02X} of {pre_token[:50]!r}; "
                "add the 256 single bytes to it"
            )
        merge = apply_merges if len(ids) < LONG_PRE_TOKEN else apply_merges_long
        return merge(ids, self._merge_table)


def encode_chunk(
    tokenizer: Tokenizer, use_engine: bool, file: CorpusFile, start: int, end: int
) -> tuple[int, NDArray[np.unsignedinteger]]:
    """Return the number of bytes and the ids of one byte range of a file."""
    return end - start, tokenizer.encode_range(file, start, end, use_engine=use_engine)


def _check_destination(dst: Path, src: CorpusFile) -> None:
    """Raise an error if `dst` cannot be written or is the file that is read."""
    if dst.is_dir():
        raise ValueError(f"{dst}: is a folder; name a file in it for the ids")
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"{dst}: its folder is missing; create it first")
    if isinstance(src, Path) and dst.exists() and dst.samefile(src):
        raise ValueError(f"{dst}: is the file to encode; write the ids to another file")


def _is_integer_array(ids: object) -> TypeGuard[NDArray[np.integer]]:
    """Return whether ids are one row in plain memory, with nothing masked."""
    if not isinstance(ids, np.ndarray) or type(ids) not in (np.ndarray, np.memmap):
        return False
    return ids.ndim == 1 and ids.dtype.kind in "iu"


def _as_uint32(ids: list[int] | NDArray[np.integer]) -> NDArray[np.uint32] | None:
    """Return the ids as an array, or None if any of them cannot be an id."""
    if isinstance(ids, list):
        try:
            return np.frombuffer(array("I", ids), dtype=np.uint32)
        except (OverflowError, TypeError):
            return None
    fits = ids.dtype.kind == "u" and ids.dtype.itemsize <= 4
    if not fits and ids.size and not 0 <= ids.min() <= ids.max() <= engine.ENGINE_MAX_ID:
        return None
    return ids.astype(np.uint32)


@lru_cache(maxsize=2)
def _rebuild(pickled: bytes) -> Tokenizer:
    """Return the tokenizer that was pickled; a worker that gets it again builds it only once."""
    vocab, merges, special_tokens, pattern = pickle.loads(pickled)
    return Tokenizer(vocab, merges, special_tokens, pattern=pattern)


@lru_cache(maxsize=32)
def _splitter(pattern: str, special_tokens: frozenset[str]) -> Splitter:
    return Splitter(pattern, special_tokens)


def _merge_table(
    merges: Sequence[tuple[bytes, bytes]], by_bytes: Mapping[bytes, int]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (left id, right id) -> (rank, merged id)."""
    table: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in by_bytes:
                raise ValueError(
                    f"merge {rank} joins {left!r} and {right!r}, but {token!r} is not in the "
                    "vocabulary; give the vocab and the merges of one tokenizer"
                )
        pair = by_bytes[left], by_bytes[right]
        table.setdefault(pair, (rank, by_bytes[left + right]))
    return table


def npy_header(dtype: type[np.unsignedinteger], length: int) -> bytes:
    """Return the 128-byte header of a one-dimensional .npy file of format 1.0."""
    fields = f"{{'descr': '{np.dtype(dtype).str}', 'fortran_order': False, 'shape': ({length},), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + fields.ljust(117).encode() + b"\n"
