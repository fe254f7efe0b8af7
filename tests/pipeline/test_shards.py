"""Shards of tokens in the pipeline, with the real DVC."""

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, go_back

pytestmark = pytest.mark.pipeline
SHARDS = "data/tokens/train"


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Project:
    return project.clone(tmp_path / "clone")


def stamps(project: Project) -> dict[str, int]:
    """Return when each shard of the training text was written."""
    return {path.name: path.stat().st_mtime_ns for path in (project.folder / SHARDS).glob("*.npy")}


@pytest.mark.parametrize(
    ("size", "least"), [(1000, 20), pytest.param(31, 1000, marks=pytest.mark.slow)]
)
def test_results_do_not_depend_on_the_size_of_shards(clone: Project, size: int, least: int) -> None:
    """Windows of 32 tokens in shards of 1,000 or, less than a window, of 31."""
    results = "models/lm/model.safetensors", "models/metrics/evaluate_details.json"
    before = [(clone.folder / path).read_bytes() for path in results]
    clone.set_params({"encode.shard_tokens": str(size)})
    for path in results:
        (clone.folder / path).unlink()
    for stage in ("encode", "train", "evaluate"):
        clone.run("python", "-m", f"stages.{stage}")
    assert len(stamps(clone)) > least
    assert [(clone.folder / path).read_bytes() for path in results] == before


def test_dvc_keeps_what_has_not_changed(clone: Project) -> None:
    """A damaged shard is made again, the others stay, and so does what comes after them."""
    clone.set_params({"encode.shard_tokens": "1000"})
    assert clone.stages_run("dvc", "repro", "encode") == ["encode"]
    before = stamps(clone)
    index = (clone.folder / SHARDS / "index.json").read_bytes()
    shard = clone.folder / SHARDS / "00003.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"\xff")
    (clone.folder / SHARDS / "unknown").mkdir()
    (clone.folder / SHARDS / "unknown" / "file").touch()
    assert clone.stages_run("dvc", "repro", "encode") == ["encode"]
    assert shard.read_bytes() == content
    assert (clone.folder / SHARDS / "index.json").read_bytes() == index
    assert not (clone.folder / SHARDS / "unknown").exists()
    after = stamps(clone)
    changed = {name for name in before if after[name] != before[name]}
    assert "00003.npy" in changed
    assert len(changed) <= 3  # those of its piece
    assert "up to date" in clone.run("dvc", "repro", "encode")


@pytest.mark.slow
def test_experiments_and_the_way_back(clone: Project) -> None:
    """In a temporary folder too: there the shards of the commit are checked out first."""
    before = stamps(clone)
    settings = "-S", "encode.shard_tokens=1000"
    clone.run("dvc", "exp", "run", "--temp", "--name", "small", *settings, "encode")
    assert stamps(clone) == before
    clone.run("dvc", "exp", "apply", "small")
    index = json.loads((clone.folder / SHARDS / "index.json").read_text(encoding="utf-8"))
    assert index["shard_tokens"] == 1000
    assert len(stamps(clone)) == len(index["shards"]) > 20
    go_back(clone)
    assert list(stamps(clone)) == ["00000.npy"]
    assert "up to date" in clone.run("dvc", "status")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_links_into_the_cache(clone: Project, tmp_path: Path, kind: str) -> None:
    """What the cache holds stays as it is, and what has not changed is kept."""
    cache = tmp_path / "cache"
    settings = f"[cache]\n    dir = {cache}\n    type = {kind}\n"
    (clone.folder / ".dvc" / "config.local").write_text(settings, encoding="utf-8")
    clone.set_params({"encode.shard_tokens": "1000"})
    clone.run("dvc", "repro", "--single-item", "encode")
    shard = clone.folder / SHARDS / "00003.npy"
    assert shard.is_symlink() if kind == "symlink" else shard.stat().st_nlink == 2
    cached, before = bytes_in(cache), stamps(clone)
    (clone.folder / SHARDS / "00003.npy").unlink()
    clone.run("dvc", "repro", "--single-item", "encode")
    assert bytes_in(cache) == cached
    assert len(stamps(clone)) == len(before)
    assert "up to date" in clone.run("dvc", "status", "encode")


def bytes_in(folder: Path) -> dict[Path, bytes]:
    """Return the content of each file in a cache."""
    return {path: path.read_bytes() for path in folder.glob("files/**/*") if path.is_file()}
