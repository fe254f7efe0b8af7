"""What one machine has built, another takes from a remote, and runs nothing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline


def configure(project: Project, url: str, **options: str) -> None:
    """Make `url` the default remote, in the configuration that is not committed."""
    project.run("dvc", "remote", "add", "--local", "--default", "store", url)
    for name, value in options.items():
        project.run("dvc", "remote", "modify", "--local", "store", name, value)


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The address and options of an empty remote."""
    if request.param == "folder":
        yield {"url": str(tmp_path / "remote")}
        return
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "url": f"s3://models/{time.time_ns()}",  # all servers of a process share their buckets
        "endpointurl": f"http://{host}:{port}",
        "access_key_id": "me",
        "secret_access_key": "mine",
        "region": "us-east-1",
    }
    server.stop()


def test_fresh_clone_pulls_and_runs_nothing(
    project: Project, tmp_path: Path, remote: dict[str, str]
) -> None:
    """Every out that dvc.lock names comes from the remote; git brings the rest."""
    if remote["url"].startswith("s3:"):
        make_bucket(remote)
    first = project.clone(tmp_path / "first")
    configure(first, **remote)
    first.run("dvc", "push", "--run-cache")

    second = Project(tmp_path / "second")
    first.run("git", "clone", "--quiet", str(first.folder), str(second.folder))
    configure(second, **remote)
    assert not (second.folder / "models/lm").exists()
    assert second.stages_run("dvc", "repro", "--pull") == []
    assert second.run("git", "status", "--porcelain") == ""
    for path in ("models/lm/model.safetensors", "data/tokens/train.npy", "models/samples.md"):
        assert (second.folder / path).read_bytes() == (project.folder / path).read_bytes()


def make_bucket(remote: dict[str, str]) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=remote["endpointurl"],
        aws_access_key_id=remote["access_key_id"],
        aws_secret_access_key=remote["secret_access_key"],
        region_name=remote["region"],
    )
    client.create_bucket(Bucket=remote["url"].split("/")[2])
