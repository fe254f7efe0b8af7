"""The kernels of byte-level BPE: split, count, learn, encode, decode. No Python object per token.

records.py has the records that Python and the kernels share; it alone is imported without Numba.
Texts have PADDING bytes after them. The machine is little-endian. What is called for each character
or pre-token takes addresses in place of arrays.
"""
