"""The identity of a stage's result: a hash of all that it is made from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from lmlib.files import sha256_file
from stages.paths import PARAMS, PIPELINE


def fingerprint(stage: str) -> str:
    """Return 16 hexadecimal digits for the deps and params that dvc.yaml lists for `stage`.

    Equal fingerprints, equal outs: what an interrupted run left behind is taken up only by a run
    with the same code, data and hyperparameters, and MLflow knows a run by it.
    """
    yaml = YAML(typ="safe")
    entry = yaml.load(PIPELINE.read_text(encoding="utf-8"))["stages"][stage]
    try:
        params = yaml.load(PARAMS.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ValueError(f"{PARAMS}: not valid YAML: {error}") from error
    identity = {
        "stage": stage,
        "params": {key: _look_up(params, key) for key in entry.get("params", [])},
        "deps": {
            path.as_posix(): sha256_file(path) for dep in entry["deps"] for path in _files(dep)
        },
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _look_up(params: dict[str, Any], dotted: str) -> Any:
    value: Any = params
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{PARAMS}: {dotted} is missing; dvc.yaml names it")
        value = value[key]
    return value


def _files(dep: str) -> list[Path]:
    path = Path(dep)
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; run `dvc repro`, which makes it")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and "__pycache__" not in file.parts]
