"""The identity of a stage's result: a hash of everything that it is made from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lmlib.files import read_yaml, sha256_file
from lmlib.tokens import INDEX
from stages.paths import PARAMS, PIPELINE

WATCHING = ("train.sample_every",)  # params that change what a run shows, and no out of it


def fingerprint(stage: str) -> str:
    """Return 16 hexadecimal digits for the deps and params that dvc.yaml lists for `stage`.

    Equal fingerprints mean equal outs: a run resumes the state of an interrupted one only if code,
    data and hyperparameters are the same. MLflow runs are found by it, too.
    """
    entry = read_yaml(PIPELINE)["stages"][stage]
    params = without_watching(read_yaml(PARAMS))
    identity = {
        "stage": stage,
        "params": {key: _look_up(params, key) for key in entry.get("params", [])},
        "deps": {
            path.as_posix(): sha256_file(path) for dep in entry["deps"] for path in _files(dep)
        },
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def without_watching(params: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of params.yaml without those params that change no out."""
    return {
        section: {k: value for k, value in values.items() if f"{section}.{k}" not in WATCHING}
        for section, values in params.items()
        if isinstance(values, dict)  # a value that is no section is not this project's
    }


def _look_up(params: dict[str, Any], dotted: str) -> Any:
    value: Any = params
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{PARAMS}: {dotted} is missing; dvc.yaml names it")
        value = value[key]
    return value


def _files(dep: str) -> list[Path]:
    """Return the files of a dep, without those that .dvcignore excludes.

    Of a folder of tokens the index stands for its shards, whose digests it has.
    """
    path = Path(dep)
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; run `dvc repro`, which makes it")
    if path.is_file():
        return [path]
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and "__pycache__" not in file.parts
        and file.suffix != ".md"
        and not (file.suffix == ".npy" and file.with_name(INDEX).is_file())
    ]
