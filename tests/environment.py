"""The environment that tests run in: the same however, by whom and where they are started."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

# What a program needs to run at all; LMLIB_TEXTS names texts for some of the slow tests.
KEPT = re.compile(
    "PATH|USER|LOGNAME|SHELL|TMPDIR|TERM|VIRTUAL_ENV|(LD|DYLD)_LIBRARY_PATH|LMLIB_TEXTS"
    "|SSL_CERT_(FILE|DIR)|CUDA_.*|NVIDIA_.*|OPENBLAS_.*|COVERAGE_.*|PYTEST_.*"
)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what tests keep of an environment, without a home of their own yet.

    What goes: how `make` was called, the user's locale, time zone and width of the terminal,
    tokens, proxies, and settings of git, DVC, MLflow, Python and OpenMP.
    """
    return {name: value for name, value in environment.items() if KEPT.fullmatch(name)}


def make_home() -> dict[str, str]:
    """Make a home without settings; return the variables that lead git, DVC and others there."""
    home = Path(tempfile.mkdtemp(prefix="home-"))
    return {
        "HOME": str(home),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),  # the usual one belongs to all users
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.com",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.com",
    }


def enter(environment: Mapping[str, str]) -> None:
    """Make `environment` the one of this process and of those it starts."""
    os.environ.clear()
    os.environ.update(environment)
