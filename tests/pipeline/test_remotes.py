"""What one machine has built, another pulls from a remote without running anything."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import boto3
import pytest
from fsspec.asyn import get_loop
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from tests.pipeline.conftest import Project, go_back

pytestmark = pytest.mark.pipeline


def configure(project: Project, url: str, **options: str) -> None:
    """Make `url` the default remote, in the configuration that is not committed."""
    project.run("dvc", "remote", "add", "--local", "--default", "store", url)
    for name, value in options.items():
        project.run("dvc", "remote", "modify", "--local", "store", name, value)


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    return {"url": str(tmp_path / "remote")}


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="me",
        aws_secret_access_key="mine",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="models")
    yield {
        "url": f"s3://models/{time.time_ns()}",  # all servers of a process share their buckets
        "endpointurl": endpoint,
        "access_key_id": "me",
        "secret_access_key": "mine",
        "region": "us-east-1",
    }
    server.stop()


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    # gcsfs asks for the kind of bucket by gRPC, which the emulator does not speak
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="models")
    server.start()
    yield {
        "url": "gs://models/lm",
        "endpointurl": f"http://127.0.0.1:{port}",
        "allow_anonymous_login": "true",
    }
    server.stop()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[dict[str, str]]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "key")
    loop = get_loop()  # fsspec's, in a thread
    server = asyncio.run_coroutine_threadsafe(serve_sftp(tmp_path, key), loop).result()
    yield {
        "url": f"ssh://me@127.0.0.1:{server.get_port()}/home/me/lm",
        "keyfile": str(tmp_path / "key"),
    }
    loop.call_soon_threadsafe(server.close)


async def serve_sftp(folder: Path, key: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
    """Serve `folder` as the root of a machine that lets in whoever has `key`."""
    return await asyncssh.listen(
        "127.0.0.1",
        port=0,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=asyncssh.import_authorized_keys(key.export_public_key().decode()),
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=bytes(folder)),
    )


@pytest.mark.parametrize(
    "kind",
    ["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("s3", "gs", "ssh"))],
)
def test_fresh_clone_pulls_and_runs_nothing(
    kind: str, project: Project, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every out that dvc.lock names comes from the remote; git brings the rest."""
    remote = request.getfixturevalue(kind)
    first = project.clone(tmp_path / "first")
    configure(first, **remote)
    first.run("dvc", "push", "--run-cache")

    second = fresh_clone(first, tmp_path / "second")
    configure(second, **remote)
    assert not (second.folder / "models/lm").exists()
    assert second.stages_run("dvc", "repro", "--pull") == []
    assert second.run("git", "status", "--porcelain") == ""
    for path in ("models/lm/model.safetensors", "data/tokens/train/00000.npy", "models/samples.md"):
        assert (second.folder / path).read_bytes() == (project.folder / path).read_bytes()


@pytest.mark.slow
def test_experiment_of_another_is_not_run_again(
    project: Project, tmp_path: Path, folder: dict[str, str]
) -> None:
    """It comes by its name: its settings and metrics through git, its model from the remote."""
    first = project.clone(tmp_path / "first")
    configure(first, **folder)
    first.run("dvc", "exp", "run", "--temp", "--name", "slow", "-S", "optim.lr=1e-5", "train")
    hub = str(tmp_path / "hub")
    first.run("git", "init", "--quiet", "--bare", hub)
    first.run("dvc", "exp", "push", hub, "slow")

    second = fresh_clone(first, tmp_path / "second")
    configure(second, **folder)
    second.run("dvc", "exp", "pull", hub, "slow")
    second.run("dvc", "exp", "apply", "slow")
    assert second.stages_run("dvc", "repro", "train") == []
    changed = second.run("git", "status", "--porcelain").split()
    assert {"params.yaml", "dvc.lock", "models/metrics/train.json"} <= set(changed)
    model = Path("models/lm/model.safetensors")
    assert (second.folder / model).read_bytes() != (first.folder / model).read_bytes()


def with_origin(project: Project, folder: Path) -> Project:
    """Return a clone of the project in `folder` whose origin is a bare repository."""
    clone = project.clone(folder / "first")
    hub = str(folder / "hub.git")
    clone.run("git", "clone", "--quiet", "--bare", str(project.folder), hub)
    clone.run("git", "remote", "set-url", "origin", hub)
    return clone


def commit_remote(project: Project, url: str) -> None:
    """Name the remote in .dvc/config and push what there is, as README does."""
    project.run("dvc", "remote", "add", "-d", "store", url)
    project.run("git", "add", ".dvc/config", "dvc.lock")
    project.run("git", "commit", "--quiet", "--message=Where results are")
    project.run("dvc", "push", "--run-cache")
    project.run("git", "push", "--quiet")


def take(first: Project, folder: Path, name: str) -> Project:
    """Return a new clone of a project's origin with an experiment that was pushed there."""
    origin = first.run("git", "remote", "get-url", "origin").strip()
    first.run("git", "clone", "--quiet", origin, str(folder))
    second = first.at(folder)
    second.run("dvc", "exp", "pull", "origin", name)
    second.run("dvc", "exp", "apply", name)
    return second


@pytest.mark.slow
def test_experiment_after_the_remote_goes_with_its_model(
    project: Project, tmp_path: Path, folder: dict[str, str]
) -> None:
    """DVC finds results through the experiment's own .dvc/config, so the remote comes first."""
    first = with_origin(project, tmp_path)
    commit_remote(first, folder["url"])
    first.run("dvc", "exp", "run", "--name", "slow", "-S", "optim.lr=1e-5")
    go_back(first)
    first.run("dvc", "exp", "push", "origin", "slow")

    second = take(first, tmp_path / "second", "slow")
    assert second.stages_run("dvc", "repro") == []
    assert ".dvc/config" not in second.run("git", "status", "--porcelain")


@pytest.mark.slow
def test_experiment_before_the_remote_goes_when_it_is_saved_again(
    project: Project, tmp_path: Path, folder: dict[str, str]
) -> None:
    """The same, with the present .dvc/config; otherwise its push would leave the model behind."""
    first = with_origin(project, tmp_path)
    first.run("dvc", "exp", "run", "--temp", "--name", "slow", "-S", "optim.lr=1e-5")
    commit_remote(first, folder["url"])
    first.run("dvc", "exp", "apply", "slow")  # takes the remote out of .dvc/config
    first.run("git", "restore", ".dvc/config")
    first.run("dvc", "exp", "save", "--name", "slow-2")
    go_back(first)
    first.run("dvc", "exp", "push", "origin", "slow-2")

    second = take(first, tmp_path / "second", "slow-2")
    assert second.stages_run("dvc", "repro") == []
    assert ".dvc/config" not in second.run("git", "status", "--porcelain")


@pytest.mark.slow
def test_experiment_before_the_remote_goes_with_local_settings(
    project: Project, tmp_path: Path, folder: dict[str, str]
) -> None:
    """If both sides have the remote in .dvc/config.local, it applies to every commit."""
    first = with_origin(project, tmp_path)
    first.run("dvc", "exp", "run", "--temp", "--name", "slow", "-S", "optim.lr=1e-5")
    commit_remote(first, folder["url"])
    configure(first, folder["url"], jobs="2")  # an option alone would be no remote: it has no url
    first.run("dvc", "exp", "push", "origin", "slow")

    second = first.at(tmp_path / "second")
    first.run("git", "clone", "--quiet", str(tmp_path / "hub.git"), str(second.folder))
    configure(second, folder["url"])
    second.run("dvc", "exp", "pull", "origin", "slow")
    second.run("dvc", "exp", "apply", "slow")
    assert second.stages_run("dvc", "repro") == []


def fresh_clone(origin: Project, folder: Path) -> Project:
    """Return a clone with its own, empty cache."""
    origin.run("git", "clone", "--quiet", str(origin.folder), str(folder))
    return origin.at(folder)
