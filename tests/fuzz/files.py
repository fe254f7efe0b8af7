"""Hostile files: a reader returns, or raises an error that names a file or their folder.

That is ValueError, OSError, or MemoryError for a size that is too large.
"""

import gzip
import hashlib
import itertools
import json
import logging
import os
import resource
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from lmlib.checkpoint import load_model, save_model
from lmlib.corpus.documents import read_pieces
from lmlib.corpus.params import CorpusParams
from lmlib.data import TokenDataset
from lmlib.encoding import EncodeParams
from lmlib.export.hf import hf_state_dict
from lmlib.export.pretrained import load_pretrained, save_pretrained
from lmlib.files import write_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.monitoring.tracking.journal import SHIPPER_DEFAULTS
from lmlib.optim import AdamW, OptimParams
from lmlib.params import load_params
from lmlib.sampling import SamplingParams
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.params import TokenizerParams
from lmlib.tokens import TokenInfo
from lmlib.training import ResumeStore, TrainParams
from tests.token_files import write_tokens as write_shards

MEMORY = 4 << 30  # bytes that a reader may take: far more than any of these files needs
MODEL = ModelParams(context_length=8, d_model=16, num_layers=1, num_heads=2, d_ff=16)
SECTIONS: dict[str, type] = {
    "corpus": CorpusParams,
    "tokenizer": TokenizerParams,
    "encode": EncodeParams,
    "model": ModelParams,
    "optim": OptimParams,
    "train": TrainParams,
    "sampling": SamplingParams,
}

# what people, disks and attackers put where a number, a text or a list belongs
VALUES: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e12, 1e-320, 97.0, "", "x", "1"]
VALUES += ["../x", "\ud800", "\0", [], [1], {}, {"a": 1}, float("nan"), float("inf"), "a" * 5000]
NUMBERS = (0, 1, 255, 2**15, 2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Reader:
    """Files that are right, and what reads them; those named like `whole` stay right."""

    write: Callable[[Path], None]
    read: Callable[[Path], object]
    whole: str = "*.lock"


@cache
def tokenizer() -> Tokenizer:
    """Return a small tokenizer."""
    merges = [(b"a", b"b"), (b"ab", b"c"), (b" ", b"t")]
    tokens = [*(bytes([byte]) for byte in range(256)), *(a + b for a, b in merges)]
    return Tokenizer(dict(enumerate(tokens)), merges, ["<|endoftext|>"])


def model() -> TransformerLM:
    """Return a small model for that tokenizer."""
    return TransformerLM(MODEL, tokenizer().vocab_size, seed=1)


def write_sharded(folder: Path) -> None:
    save_pretrained(folder, model(), tokenizer())
    names = {name: "model.safetensors" for name in hf_state_dict(model())}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})


def write_tokens(folder: Path) -> None:
    tokens = np.arange(40, dtype=np.uint16)
    write_shards(folder / "train", tokens, TokenInfo(40, 260, "0" * 64, 99, 1), [15, 25])
    for path in (folder / "train").iterdir():
        path.rename(folder / path.name)
    (folder / "train").rmdir()


def read_tokens(folder: Path) -> object:
    return TokenDataset.open(folder).batch(1, seed=1, batch_size=2, context_length=8)


def write_states(folder: Path) -> None:
    learner = torch.nn.Linear(2, 2)
    optimizer = AdamW(learner.parameters())
    for step in (1, 2):
        learner(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        ResumeStore(folder).save(learner, optimizer, step, {"train": [{"step": step, "loss": 1.0}]})


def read_states(folder: Path) -> object:
    learner = torch.nn.Linear(2, 2)
    return ResumeStore(folder).load(learner, AdamW(learner.parameters()))


def write_corpus(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = ["Once upon a time", "中\n", "x" * 300]
    lines = "".join(json.dumps({"text": one}) + "\n" for one in texts)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "c.txt.gz").write_bytes(gzip.compress("<|endoftext|>".join(texts).encode()))
    parquet.write_table(pa.table({"text": texts}), folder / "d.parquet")


def read_corpus(folder: Path) -> object:
    for path in sorted(folder.iterdir()):
        for _ in read_pieces(path, "text"):
            pass
    return None


def write_params(folder: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "params.yaml", folder)


def read_params(folder: Path) -> object:
    return [load_params(folder / "params.yaml", *section) for section in SECTIONS.items()]


def write_journals(folder: Path) -> None:
    """Write the journals of two runs that ended; the names say in which order they are sent."""
    for name in ("1", "2"):
        fingerprint = f"{next(_fingerprints):032x}"
        opening = {
            "kind": "open", "time_ms": 1_700_000_000_000, "stage": "train", "name": "train-x",
            "experiment": "lm", "fingerprint": fingerprint, "parent": None, "params": {"a": "1"},
            "tags": {}, "dataset": None, "system_metrics": False,
        }  # fmt: skip
        log = {"kind": "log", "time_ms": 1_700_000_000_001, "step": 1, "metrics": {"loss": 1.0}}
        end = {"kind": "end", "time_ms": 1_700_000_000_002, "status": "FINISHED"}
        text = "".join(json.dumps(event) + "\n" for event in (opening, log, end))
        (folder / f"{name}-{fingerprint[-16:]}-1.jsonl").write_text(text, encoding="utf-8")


_fingerprints = itertools.count(1)


def read_journals(folder: Path) -> object:
    """Send both journals; the second one is whole and must arrive."""
    place = folder.parent  # so that one database serves all inputs
    os.chdir(place)
    os.environ |= {**SHIPPER_DEFAULTS, "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    from lmlib.monitoring.tracking import shipper

    (whole,) = folder.glob("2-*.jsonl")
    fingerprint = json.loads(whole.read_text(encoding="utf-8").splitlines()[0])["fingerprint"]
    shipper.ship_all(folder)
    run = shipper.Tracker().find("lm", fingerprint)
    assert run is not None, "a whole journal was not sent"
    assert run.info.status == "FINISHED", run.info.status
    assert run.data.metrics == {"loss": 1.0}, run.data.metrics
    return run


READERS = {
    "tokenizer": Reader(lambda folder: tokenizer().save(folder), Tokenizer.load),
    "gpt2": Reader(
        lambda folder: tokenizer().save(folder),
        lambda folder: Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt"),
    ),
    "model": Reader(lambda folder: save_model(folder, model()), load_model),
    "pretrained": Reader(
        lambda folder: save_pretrained(folder, model(), tokenizer()), load_pretrained
    ),
    "sharded": Reader(write_sharded, load_pretrained),
    "tokens": Reader(write_tokens, read_tokens),
    "states": Reader(write_states, read_states),
    "corpus": Reader(write_corpus, read_corpus),
    "params": Reader(write_params, read_params),
    "journals": Reader(write_journals, read_journals, whole="2-*"),
}


def prepare() -> None:
    """Allow little memory, so that a size that lies costs no more than that."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    logging.disable()  # warnings of damaged states


def read(name: str, rng: Random, folder: Path) -> None:
    """Write right files, damage one, and read them."""
    reader = READERS[name]
    reader.write(folder)
    path = rng.choice([path for path in sorted(folder.iterdir()) if not path.match(reader.whole)])
    before = path.read_bytes()
    path.write_bytes(damaged(before, path.suffix, rng))
    try:
        reader.read(folder)
    except (ValueError, OSError, MemoryError) as error:
        names = {each.name for each in folder.iterdir()} | {path.name, str(folder)}
        message = str(error)
        if not any(each in message for each in names):
            raise AssertionError(f"no file is named: {error!r:.300}") from error


# -- damage

# of a file whose structure an earlier change took away
DAMAGE_ERRORS = (ValueError, LookupError, TypeError, RecursionError, EOFError, OSError, zlib.error)


def damaged(content: bytes, suffix: str, rng: Random) -> bytes:
    """Return the content of a file after one or two random changes; some keep its structure."""
    for _ in range(rng.choice((1, 1, 2))):
        structured = {
            ".json": damaged_json,
            ".jsonl": damaged_lines,
            ".npy": damaged_npy,
            ".safetensors": damaged_safetensors,
            ".pt": damaged_state,
            ".gz": damaged_gzip,
            ".yaml": damaged_yaml,
        }.get(suffix)
        if structured and rng.random() < 0.7:
            try:
                content = structured(content, rng)
            except DAMAGE_ERRORS:
                content = damaged_bytes(content, rng)
        else:
            content = damaged_bytes(content, rng)
    return content


def damaged_bytes(content: bytes, rng: Random) -> bytes:
    """Return content with changes that know nothing of its structure."""
    at = rng.randrange(len(content) + 1)
    end = min(len(content), at + rng.choice((1, 2, 8, 100, 5000)))
    kind = rng.randrange(9)
    if kind == 0:
        return b""
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[end:]
    if kind == 3:
        return content[:at] + bytes(end - at) + content[end:]
    if kind == 4:
        return content[:at] + rng.randbytes(end - at) + content[end:]
    if kind == 5:
        return content[:end] + content[at:]  # a part twice
    if kind == 6:
        return (
            content[:at]
            + rng.choice((b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b" ", b"\r"))
            + (content[at:])
        )
    if kind == 7:
        return content + rng.choice((b"x", b"\n\n", bytes(600), content))
    flipped = bytearray(content or b"x")
    flipped[at % len(flipped)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def damaged_json(content: bytes, rng: Random) -> bytes:
    """Return JSON with another value, name, depth or root."""
    root = [json.loads(content)]
    place, key = root, 0
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice([*place] if isinstance(place, dict) else range(len(place)))
    kind = rng.randrange(7)
    if kind <= 2:
        place[key] = rng.choice(VALUES)
    elif kind == 3 and isinstance(place, dict):
        place[rng.choice(("x", "\0", "", "vocab_size", "\ud800"))] = place.pop(key)
    elif kind == 4:
        del place[key]
    elif kind == 5:
        place[key] = "DEEP"
    elif isinstance(place, dict):
        other = rng.choice(list(place))
        place[key], place[other] = place[other], place[key]
    text = json.dumps(root[0] if root else None)
    if kind == 5:
        depth = rng.choice((3, 2000, 100_000))
        opening, end = rng.choice((("[", "]"), ('{"a":', "}")))
        text = text.replace('"DEEP"', opening * depth + "1" + end * depth)
    elif rng.random() < 0.1 and text.startswith("{") and len(text) > 2:  # a key twice
        text = "{" + text[1:-1] + ", " + text[1:]
    return text.encode("utf-8", "surrogatepass")


def damaged_lines(content: bytes, rng: Random) -> bytes:
    """Return JSON lines of which one is damaged, doubled, gone or moved."""
    lines = content.splitlines() or [b"{}"]
    at = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind <= 1:
        lines[at] = damaged_json(lines[at], rng)
    elif kind == 2:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    else:
        lines.pop(at)
    return b"\n".join(lines) + b"\n"


def damaged_npy(content: bytes, rng: Random) -> bytes:
    """Return a .npy whose header lies."""
    length = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + length].decode("latin-1")
    swaps = {
        "'<u2'": ["'|V0'", "'<i8'", "'|O'", "'<u4'", "'<U0'", "'|S0'", "[('a', '<u2')]", "1", "''"],
        "(40,)": ["(-1,)", "(True,)", f"({2**63},)", "(40.0,)", "()", "(0,)", "(20, 2)", "40"],
        "False": ["True", "None", "1"],
        "{": ["{" * 500, "", "[", "__import__('os')"],
    }
    old, new = rng.choice([(old, new) for old, news in swaps.items() for new in news])
    header = header.replace(old, new, 1).rstrip() + "\n"
    if rng.random() < 0.2:
        length = rng.choice((0, 1, 100, 65535))
    else:
        header = header.ljust(length)
        length = len(header)
    return content[:8] + length.to_bytes(2, "little") + header.encode() + content[128:]


def damaged_safetensors(content: bytes, rng: Random) -> bytes:
    """Return a .safetensors whose header lies."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(NUMBERS).to_bytes(8, "little") + content[8:]
    if kind == 1:
        header = damaged_json(header, rng)
    else:
        tensors = json.loads(header)
        name = rng.choice([name for name in tensors if name != "__metadata__"])
        field = rng.choice(("dtype", "shape", "data_offsets"))
        shape = tensors[name]["shape"][::-1]
        tensors[name][field] = {
            "dtype": rng.choice(("F64", "I64", "U8", "BOOL", "BF16", "F16", "X")),
            "shape": rng.choice(([], [0], [-1], [2**63, 2], [2**32, 2**32], shape)),
            "data_offsets": rng.choice(([0, 0], [4, 0], [0, 2**63], [-1, 4], [0, len(body)])),
        }[field]
        header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header + body


def damaged_state(content: bytes, rng: Random) -> bytes:
    """Return a state of another content whose digest is right."""
    body = damaged_bytes(content[64:], rng)
    return hashlib.sha256(body).hexdigest().encode() + body


def damaged_gzip(content: bytes, rng: Random) -> bytes:
    """Return compressed bytes that are damaged, in a right stream."""
    return gzip.compress(damaged_lines(gzip.decompress(content), rng))


def damaged_yaml(content: bytes, rng: Random) -> bytes:
    """Return params.yaml with another value."""
    lines = content.decode().splitlines() or [":"]
    at = rng.choice([i for i, line in enumerate(lines) if ":" in line] or [0])
    name = lines[at].partition(":")[0]
    value = rng.choice((
        ".nan", ".inf", "-.inf", "-1", "0", "1e18", "1" + "0" * 400, "true", "null", "[]", "{}",
        "'3'", "text", "[" * 3000, "!!python/object:os.system x", "&a [*a]", "2001-01-01", "1_0",
        "0x10", "'\\ud800'", '"\\ud800"', "[1, 2]", "{a: 1}", "-0.0", "1e-400",
    ))  # fmt: skip
    lines[at] = f"{name}: {value}"
    if rng.random() < 0.1:
        lines.insert(at, lines[at])
    return "\n".join(lines).encode()
