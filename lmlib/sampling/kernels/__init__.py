"""Kernels for decoding on a CPU; only records.py can be imported without Numba."""
