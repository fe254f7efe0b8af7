"""Settings for all tests."""

import os

# Workers of pytest-xdist, and the stages they start, share the cores: one thread each, or the
# spinning threads of several PyTorch processes slow each other down tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
