"""The MLflow store that MLFLOW_TRACKING_URI names; a local database is made, checked and kept here.

MLflow makes its database in about 50 steps. It is made under a temporary name and renamed once it
is complete, so that a process killed meanwhile leaves nothing that later ones would trip over.
"""

import contextlib
import logging
import os
import re
import sqlite3
import stat
from pathlib import Path

import mlflow
import sqlalchemy
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as mlflow_db
from mlflow.store.db.base_sql_model import Base
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy.exc import SQLAlchemyError

from lmlib.files import replacing

logger = logging.getLogger("lmlib.monitoring.tracking")

LOCK_TIMEOUT_S = 15.0  # making a database takes 2 s
OTHER_STORE = "set MLFLOW_TRACKING_URI to another store"
# What a database has rows of before any run.
ALWAYS_FILLED = {"alembic_version", "workspaces", "experiments"}
# Where MLflow keeps absolute paths of artifacts.
PLACES = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]


class DatabaseError(OSError):
    """A local database cannot be used until somebody does something about it."""


class Tracker:
    """The MLflow store that MLFLOW_TRACKING_URI names."""

    def __init__(self) -> None:
        self.uri = os.environ["MLFLOW_TRACKING_URI"]
        self.remote = self.uri.startswith(("http:", "https:"))
        self.database = database_of(self.uri, Path.cwd())
        if self.uri.startswith("sqlite:") and not self.database:
            raise DatabaseError(
                f"{self.uri}: a database in memory, which ends with this process; {OTHER_STORE}"
            )
        if self.database:
            prepare(self.database)
        lock = f"{self.database or 'mlflow.db'}.lock"
        self.lock = contextlib.nullcontext() if self.remote else FileLock(lock, LOCK_TIMEOUT_S)
        with self.lock:
            self.client = MlflowClient(self.uri, self.uri)
            self.client.search_experiments(max_results=1)
        self._experiment_ids: dict[str, str] = {}
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment called `name`, creating it if it is missing."""
        if name not in self._experiment_ids:
            with self.lock:
                self._experiment_ids[name] = self._experiment(name).experiment_id
        return self._experiment_ids[name]

    def _experiment(self, name: str) -> Experiment:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            # a server has its own place for artifacts; a local store would take ./mlruns
            here = artifacts_of(self.database or Path.cwd() / "mlflow.db")
            try:
                self.client.create_experiment(
                    name, artifact_location=None if self.remote else here.as_uri()
                )
            except MlflowException as error:  # another machine was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = self.client.get_experiment_by_name(name)
            assert experiment is not None
        elif experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return experiment

    def find(self, experiment: str, fingerprint: str) -> MlflowRun | None:
        """Return the run with the tag `fingerprint` in an experiment, None if there is none."""
        runs = self.client.search_runs(
            [self.experiment_id(experiment)],
            f"tags.fingerprint = '{fingerprint}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return runs[0] if runs else None


def database_of(uri: str, folder: Path) -> Path | None:
    """Return the file of a sqlite store, which may be relative to `folder`; None for any other."""
    if not uri.startswith("sqlite:"):
        return None
    name = sqlalchemy.make_url(uri).database
    return Path(folder, name).absolute() if name and name != ":memory:" else None


def artifacts_of(database: Path) -> Path:
    """Return the folder for the artifacts of a local database: they stay together."""
    return database.with_name("mlartifacts")


def prepare(database: Path) -> None:
    """Make the database if there is none, and check it if there is one.

    One that is incomplete and holds no runs is set aside, as `mlflow.db.incomplete-1`. If the
    project was renamed or copied, its artifacts are looked for, and stored, where they are now.
    Raises DatabaseError if the database cannot be used as it is.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        _require_a_file(database)
        artifacts = artifacts_of(database)
        if os.path.lexists(artifacts) and not artifacts.is_dir():
            raise DatabaseError(
                f"{artifacts}: not a folder, but MLflow's artifacts belong there; move it away"
            )
        with FileLock(f"{database}.lock", LOCK_TIMEOUT_S):
            is_empty = not database.exists() or not database.stat().st_size
            if is_empty or not _is_complete(database):
                _set_aside(database)
                _make(database)
            _follow_artifacts(database)
    except (DatabaseError, Timeout):
        raise
    except OSError as error:
        raise DatabaseError(
            f"{error.filename or database}: {error.strerror}; move it away, or {OTHER_STORE}"
        ) from error
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):  # by another process, for a while
            raise
        raise DatabaseError(
            f"{database}: cannot be read or written ({error}); put a copy of it back or move it "
            "away, and a new one is made"
        ) from error


def _require_a_file(database: Path) -> None:
    if database.is_symlink() and not database.exists():
        raise DatabaseError(
            f"{database}: a link to {database.readlink()}, which is missing; put that back or "
            "remove the link"
        )
    if database.exists() and not stat.S_ISREG(database.stat().st_mode):
        what = "a folder" if database.is_dir() else "not a regular file"
        raise DatabaseError(
            f"{database}: {what}, where MLflow's database belongs; move it away, or {OTHER_STORE}"
        )
    for path in (database, database.parent):  # sqlite writes a second file next to it
        if path.exists() and not os.access(path, os.W_OK):
            raise DatabaseError(
                f"{path}: read-only, so MLflow stores nothing there; make it writable (`chmod u+w`)"
                f", or {OTHER_STORE}"
            )


def _make(database: Path) -> None:
    try:
        with replacing(database) as (part,):
            # not from an address, in which a path cannot have `?`
            engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(part)))
            mlflow_db._initialize_tables(engine)
            engine.dispose()
    except (OSError, SQLAlchemyError) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        raise DatabaseError(
            f"{database}: could not be made ({reason}); free space on its disk, or {OTHER_STORE}"
        ) from error


def _is_complete(database: Path) -> bool:
    """Return whether MLflow can use a database.

    False if it holds nothing, so that it can be replaced. Raises DatabaseError otherwise.
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
        found = None
        if "alembic_version" in tables:
            (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (
                None,
            )
        filled = [
            name
            for name in sorted(tables - ALWAYS_FILLED)
            if not name.startswith("sqlite_")
            and connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
        ]
    needed = mlflow_db._get_latest_schema_revision()
    missing = Base.metadata.tables.keys() - tables
    if found == needed and not missing:
        return True
    if not filled:
        return False
    if "experiments" not in tables:
        raise DatabaseError(f"{database}: the database of another program; {OTHER_STORE}")
    if found == needed:
        raise DatabaseError(
            f"{database}: holds runs but lacks {', '.join(sorted(missing))}; put a copy of it back "
            "or move it away, and a new one is made"
        )
    try:
        ScriptDirectory.from_config(mlflow_db._get_alembic_config("")).get_revision(found or "")
    except CommandError:
        remedy = f"install a newer MLflow than {mlflow.__version__}, or {OTHER_STORE}"
    else:
        remedy = f"copy it, then run `mlflow db upgrade 'sqlite:///{database}'`, or {OTHER_STORE}"
    raise DatabaseError(
        f"{database}: made by another version of MLflow (schema {found}, needed {needed}); {remedy}"
    )


def _set_aside(database: Path) -> None:
    """Rename what is left of a database; sqlite would apply an old journal to a new database."""
    number = 1
    while (aside := database.with_name(f"{database.name}.incomplete-{number}")).exists():
        number += 1
    parts = {
        Path(f"{database}{end}"): Path(f"{aside}{end}") for end in ("", "-journal", "-wal", "-shm")
    }
    left = [path for path in parts if path.exists() and path.stat().st_size]
    for path in left:
        path.replace(parts[path])
    if left:
        logger.warning(
            "%s: was incomplete and held no runs; it is now %s, and a new one is made",
            database,
            aside,
        )


def _follow_artifacts(database: Path) -> None:
    """Point to the artifacts next to the database if it was moved or copied together with them.

    A place that someone chose stays: that is a folder which exists and has no such database.
    """
    here = artifacts_of(database).as_uri()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in places:
            if old == here or not re.fullmatch("file://.*/mlartifacts", old or ""):
                continue
            folder = Path(local_file_uri_to_path(old))
            if folder.is_dir() and not (folder.parent / database.name).exists():
                continue
            for table, column in PLACES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
