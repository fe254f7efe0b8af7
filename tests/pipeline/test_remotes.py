"""What one machine has built, another takes from a remote, and runs nothing."""

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

from tests.pipeline.conftest import Project

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


@pytest.mark.parametrize("kind", ["folder", "s3", "gs", "ssh"])
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
    for path in ("models/lm/model.safetensors", "data/tokens/train.npy", "models/samples.md"):
        assert (second.folder / path).read_bytes() == (project.folder / path).read_bytes()


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


def fresh_clone(origin: Project, folder: Path) -> Project:
    """Return a clone with a cache of its own, which is empty."""
    origin.run("git", "clone", "--quiet", str(origin.folder), str(folder))
    return Project(folder)
