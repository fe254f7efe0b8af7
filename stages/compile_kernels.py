"""Compile the kernels of lmlib, unless they are already in the cache.

Writes: .venv/lmlib/ (outside a virtual environment: the user's cache folder).
Run:    make setup   (by hand, from the repository root: python -m stages.compile_kernels)
"""

import logging

from lmlib.native import is_compiled, load_kernels

PACKAGES = (
    "lmlib.tokenizer.kernels",
    "lmlib.optim.kernels",
    "lmlib.sampling.kernels",
    "lmlib.evaluation.kernels",
)

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    for package in PACKAGES:
        if not is_compiled(package):
            load_kernels(package)
