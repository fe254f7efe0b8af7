"""Faults to be found, and a check that none escapes: targets of tests/test_fuzz.py."""

import ctypes
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from lmlib.native import address_of, load_kernels

PACKAGES = ("lmlib.tokenizer.kernels", "lmlib.sampling.kernels", "lmlib.optim.kernels")
PACKAGES += ("lmlib.evaluation.kernels",)


def decode_without_room(rng: Random, folder: Path) -> None:
    """Forget the 8 bytes of room after a text that `decode` documents."""
    kernels = load_kernels("lmlib.tokenizer.kernels")
    token, ids = np.frombuffer(b"abc", np.uint8).copy(), np.zeros(3, np.uint32)
    tokens, places = np.concatenate([token, np.zeros(64, np.uint8)]), np.array([[0, 3]])
    out = np.empty(9, np.uint8)
    given = address_of(tokens), address_of(places), 1, address_of(out)
    kernels.decode(address_of(ids), 3, *given)


def write_before(rng: Random, folder: Path) -> None:
    """Write one byte before the start of an array."""
    ctypes.memset(address_of(np.zeros(8)) - 1, 1, 1)


def read_uninitialised(rng: Random, folder: Path) -> None:
    """Take what np.empty holds for a result."""
    assert not np.empty(1000, np.uint8).any()


def raise_key_error(rng: Random, folder: Path) -> None:
    """Fail for one input in three, which is a file."""
    (folder / "input").write_text(str(rng.random()))
    if rng.random() < 1 / 3:
        raise KeyError("planted")


def call_every_kernel(rng: Random, folder: Path) -> None:
    """Run inputs of all targets until each kernel was called."""
    from tests.fuzz import tensors, tokenizer

    tokenizer.prepare()
    missing = set()
    for package in PACKAGES:
        kernels = load_kernels(package)
        for name, function in list(vars(kernels).items()):
            if name != "engine":
                missing.add(key := (package, name))

                def noted(*given: int, key: Any = key, function: Any = function) -> int:
                    missing.discard(key)
                    return function(*given)

                setattr(kernels, name, noted)
    assert len(missing) > 12
    for _ in range(100):
        for target in (tokenizer.encode, tokenizer.learn, tokenizer.cut):
            target(rng, folder)
        for target in (tensors.sample, tensors.optimise, tensors.copied_text):
            target(rng, folder)
        if not missing:
            return
    raise AssertionError(f"never called: {missing}")
