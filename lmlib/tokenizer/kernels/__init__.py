"""The kernels of byte-level BPE: split, count, learn, encode, decode. No Python object per token.

records.py has the records that Python and the kernels share; only it can be imported without Numba.
Texts are followed by PADDING bytes. The machine is little-endian. Functions that are called for
each character or pre-token take addresses instead of arrays.
"""
