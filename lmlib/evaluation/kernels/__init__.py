"""Kernels for evaluation; only records.py can be imported without Numba."""
