"""Compile all kernels of lmlib, unless they are kept already: python -m lmlib.native."""

import logging

from lmlib.native import is_compiled, load_kernels

PACKAGES = ("lmlib.tokenizer.kernels", "lmlib.sampling.kernels", "lmlib.optim.kernels")

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    for package in PACKAGES:
        if not is_compiled(package):
            load_kernels(package)
