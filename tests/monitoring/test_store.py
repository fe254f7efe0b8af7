"""lmlib/monitoring/tracking/store.py: a local database in every state that a machine leaves."""

import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError

from lmlib import files


@pytest.fixture(scope="module")
def store() -> ModuleType:
    """The module, which imports MLflow: that takes seconds and warns about its type hints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lmlib.monitoring.tracking import store
    return store


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, store: ModuleType) -> Path:
    """A database without runs, in a folder with characters that mean something in addresses."""
    folder = tmp_path_factory.mktemp("complete") / "a %41?#[x]"
    store.prepare(folder / "mlflow.db")
    assert list(folder.parent.iterdir()) == [folder]
    return folder / "mlflow.db"


@pytest.fixture
def database(tmp_path: Path, complete: Path) -> Path:
    """A copy of a database without runs, to damage."""
    return Path(shutil.copy2(complete, tmp_path))


def change(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def add_run(database: Path) -> None:
    client = MlflowClient(f"sqlite:///{database}")
    client.create_run(client.create_experiment("lm"))


def test_a_database_is_there_only_once_it_is_complete(
    tmp_path: Path, store: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies meanwhile leaves a file of another name, which the next one removes."""
    database = tmp_path / "mlflow.db"
    make: Callable[..., None] = store.mlflow_db._initialize_tables

    class Killed(BaseException):
        """A process that is killed runs no handlers; this one leaves all files as they are."""

    def die(engine: object) -> None:
        assert not database.exists()
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(store.mlflow_db, "_initialize_tables", die)
        dying.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            store.prepare(database)
    assert not database.exists()
    assert len(list(tmp_path.glob(".mlflow.db.*.part"))) == 1
    monkeypatch.setattr(store.mlflow_db, "_initialize_tables", make)
    files._parts_in.cache_clear()  # the next process
    store.prepare(database)
    assert MlflowClient(f"sqlite:///{database}").search_experiments()
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE alembic_version"],
        ["DELETE FROM alembic_version", "DROP TABLE datasets"],
        ["UPDATE alembic_version SET version_num = '451aebb31d03'"],
        ["DROP TABLE trace_info"],
    ],
    ids=["no version", "no tables", "an early version", "complete by its version only"],
)
def test_an_incomplete_database_without_runs_is_set_aside(
    database: Path,
    complete: Path,
    store: ModuleType,
    statements: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "_make", lambda path: shutil.copy2(complete, path))  # 2 s faster
    change(database, *statements)
    content = database.read_bytes()
    for number in (1, 2):
        database.write_bytes(content)
        journal = database.with_name("mlflow.db-journal")
        journal.write_bytes(b"\0" * 512)  # of a transaction that was done
        store.prepare(database)
        assert not journal.exists()
        aside = database.with_name(f"mlflow.db.incomplete-{number}")
        assert aside.read_bytes() == content
        assert f"it is now {aside}, and a new one is made" in caplog.text
        assert database.read_bytes() == complete.read_bytes()


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_but_an_old_journal_becomes_a_database(
    tmp_path: Path,
    complete: Path,
    store: ModuleType,
    exists: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sqlite would apply the journal to the new database."""
    monkeypatch.setattr(store, "_make", lambda path: shutil.copy2(complete, path))  # 2 s faster
    if exists:
        (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db-journal").write_bytes(b"\0" * 512)
    store.prepare(tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db-journal").exists()
    add_run(tmp_path / "mlflow.db")


def test_a_complete_database_stays_as_it_is(database: Path, store: ModuleType) -> None:
    add_run(database)
    content = database.read_bytes()
    store.prepare(database)
    assert database.read_bytes() == content


def replace_by(content: bytes) -> Callable[[Path], None]:
    def replace(database: Path) -> None:
        database.write_bytes(content)

    return replace


def truncate(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def make_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def make_pipe(database: Path) -> None:
    database.unlink()
    os.mkfifo(database)


def make_link(database: Path) -> None:
    database.unlink()
    database.symlink_to("elsewhere")


def of_version(version: str) -> Callable[[Path], None]:
    def set_version(database: Path) -> None:
        add_run(database)
        change(database, f"UPDATE alembic_version SET version_num = '{version}'")

    return set_version


def lose_table(database: Path) -> None:
    add_run(database)
    change(database, "DROP TABLE trace_info")


def make_other(database: Path) -> None:
    database.unlink()
    change(database, "CREATE TABLE songs (name TEXT)", "INSERT INTO songs VALUES ('x')")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_by(b"\0" * 8192), "cannot be read or written (file is not a database); put a"),
        (replace_by(b"some text" * 1000), "cannot be read or written (file is not a database)"),
        (truncate, "cannot be read or written (database disk image is malformed); put a copy"),
        (make_folder, "a folder, where MLflow's database belongs; move it away"),
        (make_pipe, "not a regular file, where MLflow's database belongs"),
        (make_link, "a link to elsewhere, which is missing; put that back or remove the link"),
        (of_version("451aebb31d03"), "run `mlflow db upgrade 'sqlite:///"),
        (of_version("ffffffffffff"), "needed dc11669786a5); install a newer MLflow than"),
        (lose_table, "holds runs but lacks trace_info; put a copy of it back"),
        (make_other, "the database of another program; set MLFLOW_TRACKING_URI"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_database_that_needs_somebody_is_named_and_kept(
    database: Path, store: ModuleType, damage: Callable[[Path], None], message: str
) -> None:
    damage(database)
    content = database.read_bytes() if database.is_file() else None
    with pytest.raises(store.DatabaseError) as raised:
        store.prepare(database)
    assert str(raised.value).startswith(f"{database}: ")
    assert message.replace("dc11669786a5", store.mlflow_db._get_latest_schema_revision()) in str(
        raised.value
    )
    assert "\n" not in str(raised.value)
    if content is not None:
        assert database.read_bytes() == content


def test_what_stands_beside_a_database_is_named(database: Path, store: ModuleType) -> None:
    """And not the database, which is whole."""
    lock, artifacts = Path(f"{database}.lock"), database.with_name("mlartifacts")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(store.DatabaseError, match=f"^{lock}: Is a directory; move it away"):
        store.prepare(database)
    lock.rmdir()
    artifacts.symlink_to("nothing")
    with pytest.raises(store.DatabaseError, match=f"^{artifacts}: not a folder, .*move it away"):
        store.prepare(database)
    artifacts.unlink()
    store.prepare(database)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(
    uri: str, store: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent there would be gone, and so would the journal."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(store.DatabaseError, match="a database in memory, which ends with"):
        store.Tracker()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes read-only files")
@pytest.mark.parametrize("what", ["database", "folder"])
def test_a_read_only_database_is_named(database: Path, store: ModuleType, what: str) -> None:
    path = database if what == "database" else database.parent
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222)
    try:
        with pytest.raises(store.DatabaseError, match=f"{path}: read-only, .*chmod u\\+w"):
            store.prepare(database)
    finally:
        path.chmod(mode)


def test_a_disk_that_is_full_while_the_database_is_made(
    tmp_path: Path, store: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(engine: object) -> None:
        cause = sqlite3.OperationalError("database or disk is full")
        raise OperationalError("CREATE TABLE x", None, cause)

    monkeypatch.setattr(store.mlflow_db, "_initialize_tables", fill)
    with pytest.raises(
        store.DatabaseError, match=r"could not be made \(database or disk is full\)"
    ):
        store.prepare(tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_lock_is_no_damage(
    database: Path, store: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that writes is done soon."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name: connect(name, timeout=0))
    with closing(connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            store.prepare(database)


@pytest.fixture
def old(tmp_path: Path, complete: Path) -> Path:
    """A project with a run that has an artifact, in a folder called `old`."""
    folder = tmp_path / "old %?"
    folder.mkdir()
    shutil.copy2(complete, tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    place = (folder / "mlartifacts").as_uri()
    experiment = client.create_experiment("lm", artifact_location=place)
    client.log_text(client.create_run(experiment).info.run_id, "text", "a.txt")
    (tmp_path / "mlflow.db").replace(folder / "mlflow.db")
    return folder


def artifacts(project: Path, tmp_path: Path) -> list[Path]:
    """Return the places of the experiment's artifacts, and of a new run's, in a project."""
    link = tmp_path / "link"  # an address cannot have `?` in a path
    link.unlink(missing_ok=True)
    link.symlink_to(project)
    client = MlflowClient(f"sqlite:///{link}/mlflow.db")
    experiment = client.get_experiment_by_name("lm")
    assert experiment is not None
    client.log_text(client.create_run(experiment.experiment_id).info.run_id, "new", "b.txt")
    for run in client.search_runs([experiment.experiment_id]):
        (artifact,) = client.list_artifacts(run.info.run_id)
        assert artifact.path in ("a.txt", "b.txt")
    return sorted(path for path in tmp_path.rglob("b.txt") if "link" not in path.parts)


@pytest.mark.parametrize("move", [Path.rename, shutil.copytree], ids=["renamed", "copied"])
def test_artifacts_stay_with_the_project(
    old: Path, tmp_path: Path, store: ModuleType, move: Callable[[Path, Path], object]
) -> None:
    """Of a project in a renamed or copied folder, old and new ones are in it."""
    move(old, tmp_path / "new")
    store.prepare(tmp_path / "new" / "mlflow.db")
    (place,) = artifacts(tmp_path / "new", tmp_path)
    assert place.is_relative_to(tmp_path / "new" / "mlartifacts")


def test_a_place_that_somebody_chose_stays(old: Path, tmp_path: Path, store: ModuleType) -> None:
    """A folder on another disk, say, without a database."""
    (tmp_path / "new").mkdir()
    (old / "mlflow.db").rename(tmp_path / "new" / "mlflow.db")
    store.prepare(tmp_path / "new" / "mlflow.db")
    (place,) = artifacts(tmp_path / "new", tmp_path)
    assert place.is_relative_to(old / "mlartifacts")
