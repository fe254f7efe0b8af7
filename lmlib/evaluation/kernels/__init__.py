"""Kernels of evaluation; records.py alone is imported without Numba."""
