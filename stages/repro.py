"""Run `dvc repro`; if `make` starts two in one folder, the second waits.

Without this, DVC ends the second one with an error: a running stage locks its files. DVC also ends
with an error, for ever, if an earlier one was killed while it wrote its locks or dvc.lock.

Stages check their own parameters as they start, perhaps after hours of others. So all are checked
first, if params.yaml was changed after the last build.

Run:    make repro
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from stages.cli import run_stage
from stages.install import check_folder, lock
from stages.paths import DATA, LOCK, MODELS, PARAMS

DVC_LOCKS = Path(".dvc/tmp/rwlock")
DVC_RUNS = Path(".dvc/tmp/lock")  # held by a dvc while it writes dvc.lock


def main() -> None:
    """Become `dvc repro`, which keeps the lock until it ends."""
    check_folder(Path.cwd())
    check_outs()
    if not LOCK.exists() or PARAMS.stat().st_mtime_ns > LOCK.stat().st_mtime_ns:
        check_params()
    file = lock(Path("dvc.yaml"), "another `make` is building here")
    os.set_inheritable(file.fileno(), True)
    remove_half_written(DVC_LOCKS)
    restore_half_written(LOCK)
    sys.stderr.write("looking for what has changed: DVC hashes code and data\n")
    os.execvp("dvc", ["dvc", "repro", *sys.argv[1:]])


def check_outs() -> None:
    """Raise ValueError if data/ or models/ is a link, behind which DVC keeps nothing."""
    for folder in (DATA, MODELS):
        if folder.is_symlink():
            raise ValueError(
                f"{folder} is a link, and DVC keeps nothing outside of the repository; to have "
                "large files on another disk, clone the project there"
            )


def check_params() -> None:
    """Raise ValueError for the first value in params.yaml that a stage will refuse."""
    # here, because these imports take two seconds
    from lmlib.cluster import ClusterParams
    from lmlib.corpus import CorpusParams
    from lmlib.encoding import EncodeParams
    from lmlib.evaluation import EvaluationParams
    from lmlib.model import ModelParams
    from lmlib.optim import OptimParams
    from lmlib.params import load_params
    from lmlib.sampling import SamplingParams
    from lmlib.tokenizer import TokenizerParams
    from lmlib.training import Settings, TrainParams

    load_params(PARAMS, "corpus", CorpusParams)
    load_params(PARAMS, "tokenizer", TokenizerParams)
    load_params(PARAMS, "encode", EncodeParams)
    load_params(PARAMS, "cluster", ClusterParams)
    Settings(
        model=load_params(PARAMS, "model", ModelParams),
        optim=load_params(PARAMS, "optim", OptimParams),
        train=load_params(PARAMS, "train", TrainParams),
    )
    load_params(PARAMS, "evaluation", EvaluationParams)
    load_params(PARAMS, "sampling", SamplingParams)


def remove_half_written(locks: Path) -> None:
    """Remove the file with DVC's locks if it is not JSON."""
    if is_json(locks):
        return
    from dvc.lock import make_lock  # here: it takes a third of a second

    with make_lock(str(locks.with_name("rwlock.lock")), tmp_dir=str(locks.parent)):
        if not is_json(locks):  # no running dvc was just writing it
            sys.stderr.write(f"removing {locks}: a dvc was killed while it wrote this file\n")
            locks.unlink()


def restore_half_written(lock_file: Path) -> None:
    """Restore a dvc.lock that DVC would not read to that of the last commit.

    Stages that have run since then are found in DVC's cache of runs.
    """
    if is_lock_file(lock_file):
        return
    from dvc.lock import make_lock

    DVC_RUNS.parent.mkdir(parents=True, exist_ok=True)
    with make_lock(str(DVC_RUNS), tmp_dir=str(DVC_RUNS.parent), wait=True):
        if not is_lock_file(lock_file):
            sys.stderr.write(
                f"{lock_file}: damaged, so it is restored to that of the last commit\n"
            )
            lock_file.unlink()
            subprocess.run(
                ["git", "checkout", "--quiet", "HEAD", "--", str(lock_file)], check=False
            )


def is_lock_file(path: Path) -> bool:
    """Return whether DVC can read a dvc.lock, or there is none."""
    import yaml
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not path.is_file():
        return True
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.load(path.read_bytes(), yaml.CSafeLoader))
    except (yaml.YAMLError, Invalid):
        return False
    return True


def is_json(path: Path) -> bool:
    """Return whether a file is JSON, or missing."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run_stage(main)
