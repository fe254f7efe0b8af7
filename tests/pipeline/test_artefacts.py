"""Damaged artefacts are refused where they are used; the commands that errors name rebuild them."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from stages.artefacts import LOCKS, producing
from stages.paths import EXPORTED, HARNESS_METRICS
from tests.pipeline.conftest import Project

VERIFY = "python", "-m", "stages.verify"
MORE = pytest.mark.slow  # of the same kind


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_number(path: Path) -> None:
    """Leave valid JSON."""
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"\d(?=\D*$)", lambda digit: str(9 - int(digit[0])), text, count=1))


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Project:
    """A copy of the project, with outs and a cache of its own."""
    folder = tmp_path / "copy ü"
    shutil.copytree(project.folder, folder, symlinks=True)
    return project.at(folder)


@pytest.mark.parametrize(
    ("artefact", "damage", "stage"),
    [
        ("models/tokenizer/merges.txt", empty, "encode"),
        pytest.param("models/tokenizer/vocab.json", flip_a_bit, "evaluate", marks=MORE),
        pytest.param("models/tokenizer/bpe.json", change_a_number, "export", marks=MORE),
        ("data/tokens/train/00000.npy", flip_a_bit, "train"),
        pytest.param("data/tokens/valid/index.json", change_a_number, "evaluate", marks=MORE),
        ("models/lm/model.safetensors", flip_a_bit, "evaluate"),
        pytest.param("models/lm/config.json", change_a_number, "export", marks=MORE),
        ("models/lm/SHA256SUMS", empty, "export"),
    ],
)
def test_a_damaged_artefact_is_refused_by_name(
    copy: Project, artefact: str, damage: Callable[[Path], None], stage: str
) -> None:
    damage(copy.folder / artefact)
    (line,) = copy.run("python", "-m", f"stages.{stage}", status=1).splitlines()
    assert line.startswith(f"error: {artefact}: ")
    assert line.endswith("run `make verify`, then `dvc repro`")


def test_a_text_changed_in_place_is_not_changed_in_the_cache(copy: Project) -> None:
    """So DVC sees it, and puts the text back."""
    text = copy.folder / "data/raw/train.txt"
    whole = text.read_bytes()
    flip_a_bit(text)
    copy.run("dvc", "repro")
    assert text.read_bytes() == whole
    copy.run("git", "diff", "--exit-code", "HEAD", "dvc.lock")
    assert "in the cache: 0" in copy.run(*VERIFY)


@pytest.mark.parametrize(
    ("out", "named", "stage"),
    [
        ("data/raw/train.txt", "data/raw", "train_tokenizer"),
        pytest.param(*["models/lm/model.safetensors"] * 2, "evaluate", marks=MORE),
    ],
)
def test_a_damaged_file_of_the_cache_is_refused_and_made_anew(
    copy: Project, out: str, named: str, stage: str
) -> None:
    """DVC trusts its read-only files: only their content tells."""
    path = copy.folder / out
    whole = path.read_bytes()
    (cached,) = [
        cached
        for cached in (copy.folder / ".dvc/cache/files/md5").glob("??/*")
        if cached.read_bytes() == whole
    ]
    cached.chmod(0o644)
    flip_a_bit(cached)
    cached.chmod(0o444)
    path.unlink()
    copy.run("dvc", "checkout")
    assert path.read_bytes() == cached.read_bytes() != whole

    refused = copy.run("dvc", "repro", "--force", "--single-item", stage, status=255)
    assert f"error: {named}: damaged" in refused
    assert f"{cached.name}: damaged, so it was removed" in copy.run(*VERIFY)
    copy.run("dvc", "repro")
    assert path.read_bytes() == whole
    copy.run("git", "diff", "--exit-code", "HEAD", "dvc.lock")
    assert "in the cache: 0" in copy.run(*VERIFY)
    assert "up to date" in copy.run("dvc", "status")


def test_a_damaged_file_of_the_cache_is_replaced_by_the_out(copy: Project) -> None:
    """Or the model would be trained again, although it is whole."""
    whole = (copy.folder / "models/lm/model.safetensors").read_bytes()
    caches = (copy.folder / ".dvc/cache/files/md5").glob("??/*")
    (cached,) = [path for path in caches if path.read_bytes() == whole]
    cached.chmod(0o644)
    flip_a_bit(cached)
    said = copy.run(*VERIFY)
    assert f"{cached.name}: damaged, so it was replaced by models/lm/model.safetensors" in said
    assert cached.read_bytes() == whole
    assert cached.stat().st_mode & 0o777 == 0o444
    assert "in the cache: 0" in copy.run(*VERIFY)
    assert "up to date" in copy.run("dvc", "status")


@pytest.mark.slow
def test_by_hand_a_changed_text_is_a_warning(copy: Project) -> None:
    """It may be what `python -m stages.download` made from other parameters."""
    flip_a_bit(copy.folder / "data/raw/valid.txt")
    said = copy.run("python", "-m", "stages.encode")
    assert "data/raw: not the one in dvc.lock; was it made by hand?" in said
    said = copy.run("python", "-m", "stages.evaluate")
    assert "made by hand" not in said


def test_verify_names_the_damaged_files_of_outs(copy: Project) -> None:
    """Also those whose time and size are as they were, which DVC would not read again."""
    modified = "data/raw/valid.txt", "data/tokens/valid/SHA256SUMS", "models/lm/model.safetensors"
    for name in modified:
        path = copy.folder / name
        before = path.stat()
        flip_a_bit(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    deleted = "models/hf/model.gguf", "models/tokenizer/vocab.json"
    for name in deleted:
        (copy.folder / name).unlink()
    (copy.folder / "models/hf/more.json").touch()
    *named, counts, advice = copy.run(*VERIFY).splitlines()
    assert named == [
        *(f"{name}: modified, compared with dvc.lock" for name in modified),
        *(f"{name}: missing, compared with dvc.lock" for name in deleted),
        "models/hf/more.json: added, compared with dvc.lock",
    ]
    assert counts == "damaged files in the cache: 0; outs unlike dvc.lock: 6"
    assert advice == "run `dvc repro`: it rebuilds what is damaged or missing"
    copy.run("dvc", "repro")
    assert copy.run(*VERIFY) == "damaged files in the cache: 0; outs unlike dvc.lock: 0\n"


def test_verify_removes_what_is_no_file_of_the_cache(copy: Project) -> None:
    """Whatever it is: the others are checked all the same."""
    folder = copy.folder / ".dvc/cache/files/md5/00"
    folder.mkdir(exist_ok=True)
    (folder / ("a" * 30)).mkdir()
    (folder / ("b" * 30)).symlink_to("nothing")
    os.mkfifo(folder / ("c" * 30))
    (copy.folder / "models/lm/link").symlink_to("nothing")
    said = copy.run(*VERIFY)
    assert "damaged files in the cache: 3" in said
    assert all(f"{letter * 30}: damaged, so it was removed" in said for letter in "abc")
    assert "in the cache: 0" in copy.run(*VERIFY)


def test_a_folder_in_which_dvc_cannot_work_is_named_before_the_work(copy: Project) -> None:
    """Outs behind a link, and a copy of the files without git."""
    for name in ("models", "data"):
        (copy.folder / name).rename(copy.folder / f"elsewhere-{name}")
        (copy.folder / name).symlink_to(f"elsewhere-{name}")
        (line,) = copy.run("python", "-m", "stages.repro", status=1).splitlines()
        assert line.startswith(f"error: {name} is a link, and DVC keeps nothing outside of the")
    (copy.folder / ".git").rename(copy.folder / "git")
    (line,) = copy.run("python", "-m", "stages.repro", status=1).splitlines()
    assert ": not in a git repository, which DVC needs; clone the project with git, or run" in line


@pytest.mark.parametrize("content", ["schema: '2.0'\n", "stages: 3\n", "stages: {train: 3}\n"])
def test_a_damaged_lock_file_is_named(copy: Project, content: str) -> None:
    (copy.folder / "dvc.lock").write_text(content)
    (line,) = copy.run(*VERIFY, status=1).splitlines()
    assert line.startswith("error: dvc.lock: not a lock file of DVC; ")


def test_a_damaged_export_is_not_imported(copy: Project) -> None:
    flip_a_bit(copy.folder / "models/hf/model.safetensors")
    (line,) = copy.run("python", "-m", "stages.import_hf", "models/hf", status=1).splitlines()
    assert line.startswith("error: models/hf/model.safetensors: damaged, or changed")


def test_a_wrong_place_is_found_before_the_work(copy: Project) -> None:
    shutil.rmtree(copy.folder / "models/lm")
    (copy.folder / "models/lm").touch()
    (line,) = copy.run("python", "-m", "stages.train", status=1).splitlines()[-1:]
    assert line.startswith("error: models/lm: not a directory; move the file away")
    assert not list(copy.folder.glob("models/.resume/*/*.pt"))


@pytest.mark.parametrize(
    ("stage", "out", "outs"),
    [
        ("download", "data/raw/train.txt", "data/raw"),
        ("encode", "models/.resume/encode-train-", "data/tokens"),
        ("train", "models/lm/model.safetensors", "models/lm"),
    ],
)
def test_a_limit_on_the_size_of_files(copy: Project, stage: str, out: str, outs: str) -> None:
    """Like a full disk; the old file stays, and no part of the new one."""
    copy.set_params({"encode.shard_tokens": "5000"})  # or nothing would be encoded
    before = files_in(copy.folder / outs)
    # without compiled modules, of which Python would write half and not notice
    # nor with coverage, which would write a file of its own
    limited = f"unset COVERAGE_PROCESS_CONFIG; ulimit -f 1; python -B -m stages.{stage}"
    ended = copy.run("bash", "-c", limited, status=1)
    assert re.search(rf"error: .*{out}.*: file too large", ended)
    assert "Traceback" not in ended
    assert files_in(copy.folder / outs) == before
    assert not list(copy.folder.glob("models/.resume/encode-*/*"))


def test_scores_of_another_export_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    EXPORTED.mkdir(parents=True)
    HARNESS_METRICS.parent.mkdir(parents=True)
    (EXPORTED / "SHA256SUMS").write_text(f"{'a' * 64}  model.safetensors\n")
    Path("dvc.yaml").write_text("stages: {export: {}}\n")
    for model, stays in (("a" * 12, True), ("b" * 12, False)):
        HARNESS_METRICS.write_text(f'{{"model": "{model}"}}')
        with producing("export"):
            assert HARNESS_METRICS.exists()
        assert HARNESS_METRICS.exists() == stays


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b'{"write": {'])
def test_locks_of_dvc_that_are_half_written(copy: Project, content: bytes) -> None:
    """`make` removes the file, at which DVC would end for ever."""
    (copy.folder / ".dvc/tmp/rwlock").write_bytes(content)
    assert "JSON structure is corrupted" in copy.run("dvc", "repro", status=255)
    built = copy.run("python", "-m", "stages.repro")
    assert "removing .dvc/tmp/rwlock" in built
    assert "up to date" in built


@pytest.mark.parametrize("kept", [0, 1, 300])
def test_a_dvc_lock_that_is_half_written(copy: Project, kept: int) -> None:
    """`make` restores the file, without which DVC would end for ever."""
    whole = (copy.folder / "dvc.lock").read_bytes()
    (copy.folder / "dvc.lock").write_bytes(whole[:kept])
    said = copy.run("dvc", "repro", status=255)
    assert re.search("dvc.lock' (validation failed|is invalid)", said)  # it may end within a word
    built = copy.run("python", "-m", "stages.repro")
    assert "dvc.lock: damaged, so it is restored to that of the last commit" in built
    assert "up to date" in built
    assert (copy.folder / "dvc.lock").read_bytes() == whole


@pytest.mark.slow
def test_a_dvc_lock_that_is_half_written_before_the_first_commit(copy: Project) -> None:
    """The cache of runs has its stages, but for encode, which finds its shards."""
    whole = (copy.folder / "dvc.lock").read_bytes()
    copy.run("git", "rm", "-q", "--cached", "dvc.lock")
    copy.run("git", "commit", "-qm", "no lock")
    (copy.folder / "dvc.lock").write_bytes(whole[:1000])
    assert copy.stages_run("python", "-m", "stages.repro") == ["encode"]
    assert (copy.folder / "dvc.lock").read_bytes() == whole


def test_of_two_that_run_one_stage_the_second_waits(copy: Project) -> None:
    lock = FileLock(copy.folder / LOCKS / "export.lock")
    with lock:
        second = subprocess.Popen(
            ["python", "-m", "stages.export"],
            cwd=copy.folder,
            env=copy.env,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr
        assert (
            "waiting for another process that is running the stage export"
            in second.stderr.readline()
        )
        assert second.poll() is None
    second.communicate()
    assert second.returncode == 0
