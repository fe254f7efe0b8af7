"""Bugs to plant in the code, each of which a test must find."""
