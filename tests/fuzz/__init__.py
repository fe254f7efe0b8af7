"""Fuzzing: random inputs, results compared with plain code, guard pages around every buffer."""
