"""Kernels of decoding on a CPU; records.py alone is imported without Numba."""
