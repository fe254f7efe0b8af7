"""Data sets from a loopback server that speaks the API of the Hugging Face Hub."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmlib.corpus import CorpusParams, fetch, hub, sources, write_corpus
from tests.corpus.serving import COMMIT, Site, hub_site, serve, tree_item

PARAMS = CorpusParams(
    source="hub",
    seed=0,
    train_bytes=1,
    valid_bytes=1,
    dataset="me/books",
    revision="main",
    train=("sample/*.parquet",),
    valid=("valid/**",),
    text_field="text",
    valid_fraction=0.25,
    sha256=(),
    keep="copy",
)


def table(*texts: str) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": texts}), file)
    return file.getvalue()


FILES = {
    "README.md": b"# Books\n",
    "sample/000.parquet": table(*(f"book {i}" for i in range(500))),
    "sample/001.parquet": table("one", "two"),
    "sample/deep/002.parquet": table("too deep"),
    "valid/of 1900/a.txt": b"small\n",
    "valid/b.jsonl.gz": gzip.compress(b'{"text": "packed"}\n'),
}
TRAIN = (
    b"".join(b"book %d<|endoftext|>" % i for i in range(500)) + b"one<|endoftext|>two<|endoftext|>"
)
VALID = b"packed<|endoftext|>small\n"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """The Hub: its client has read the environment already."""
    from huggingface_hub import constants

    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve(hub_site(FILES)) as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        yield site


def write(folder: Path, params: CorpusParams = PARAMS) -> tuple[bytes, bytes]:
    outs = folder / "data" / "raw" / "train.txt", folder / "data" / "raw" / "valid.txt"
    write_corpus(params, *outs, folder)
    return outs[0].read_bytes(), outs[1].read_bytes()


def fetched_paths(site: Site) -> list[str]:
    return [path.partition(COMMIT + "/")[2] for _, path, _ in site.requests if "/resolve/" in path]


def test_globs_and_a_column(site: Site, tmp_path: Path) -> None:
    assert write(tmp_path) == (TRAIN, VALID)
    assert fetched_paths(site) == [
        "sample/000.parquet",
        "sample/001.parquet",
        "valid/b.jsonl.gz",
        "valid/of%201900/a.txt",
    ]
    assert list((tmp_path / "data" / ".partial").iterdir()) == []  # no second copy
    assert not (tmp_path / "cache").exists()
    record = json.loads((tmp_path / "data" / "raw" / "source.json").read_text())
    assert [file["address"] for file in record["train"]] == [
        f"hf://datasets/me/books@{COMMIT}/sample/00{number}.parquet" for number in range(2)
    ]
    assert record["valid"][0]["digest"] == f"git:{digest_of('valid/b.jsonl.gz')}"


def test_folders_are_listed_where_a_glob_needs_them(site: Site, tmp_path: Path) -> None:
    write(tmp_path)
    listed = [path for _, path, _ in site.requests if "/tree/" in path]
    assert [path.partition(COMMIT)[2] for path in listed] == ["/sample", "/valid"]


def test_a_split_by_hash_is_that_of_local_files(site: Site, tmp_path: Path) -> None:
    params = replace(PARAMS, train=("sample/**/*.parquet",), valid=())
    found = write(tmp_path / "hub", params)
    for name, body in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(body)
    assert found == write(tmp_path, replace(params, source="local"))
    assert b"too deep" in found[0] + found[1]
    assert found[0].count(b"book") > found[1].count(b"book") > 50


def test_a_run_that_ended_resumes_after_the_last_whole_file(site: Site, tmp_path: Path) -> None:
    """And within a file, at its last byte."""
    second = f"/datasets/me/books/resolve/{COMMIT}/sample/001.parquet"
    site.errors[second] = 503, ""
    with pytest.raises(ConnectionError, match=r"cannot download hf://datasets/me/books@c0ffee"):
        write(tmp_path)
    site.errors.clear()
    site.requests.clear()
    # 400 bytes are fewer than the client's buffer, but the connection ends in order
    site.break_after = [400] + [0] * 10
    with pytest.raises(ConnectionError):
        write(tmp_path)
    site.break_after.clear()
    assert write(tmp_path) == (TRAIN, VALID)
    paths = fetched_paths(site)
    assert "sample/000.parquet" not in paths
    assert paths[-3:] == ["sample/001.parquet", "valid/b.jsonl.gz", "valid/of%201900/a.txt"]
    assert list((tmp_path / "data" / ".partial").iterdir()) == []


def test_a_run_that_was_killed_resumes_after_the_last_whole_file(
    site: Site, tmp_path: Path
) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\n"
        "from lmlib.corpus import write\nfrom tests.corpus.test_hub import PARAMS\n"
        "copy_file = write.copy_file\n"
        "def killed(path, reading, output, *rest):\n"
        "    if path.name.endswith('001.parquet'):\n"
        "        output.write(b'half of a text')\n"
        "        output.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    copy_file(path, reading, output, *rest)\n"
        "write.copy_file = killed\n"
        "raw = Path('data/raw')\n"
        "write.write_corpus(PARAMS, raw / 'train.txt', raw / 'valid.txt', Path())\n"
    )
    settings = {"HF_ENDPOINT": site.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | settings | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    site.requests.clear()
    assert write(tmp_path) == (TRAIN, VALID)
    assert fetched_paths(site) == ["valid/b.jsonl.gz", "valid/of%201900/a.txt"]
    assert list((tmp_path / "data" / ".partial").iterdir()) == []
    assert len(list((tmp_path / "data" / "raw").iterdir())) == 3


@pytest.mark.parametrize("valid_fraction", [1e-9, 0.9999])
def test_a_run_that_ended_after_its_last_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid_fraction: float
) -> None:
    """When all documents are on one side, the texts are cut, which must not happen twice."""
    params = replace(PARAMS, valid=(), valid_fraction=valid_fraction)
    expected = write(tmp_path / "other", params)

    def fail(*_: object) -> None:
        raise OSError("moved away")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.move", fail)
        with pytest.raises(OSError, match="moved away"):
            write(tmp_path, params)
    assert write(tmp_path, params) == expected


def test_other_params_do_not_continue_the_copy(site: Site, tmp_path: Path) -> None:
    last = f"/datasets/me/books/resolve/{COMMIT}/valid/of%201900/a.txt"
    site.errors[last] = 503, ""
    with pytest.raises(ConnectionError):
        write(tmp_path)
    site.errors.clear()
    params = replace(PARAMS, train=("sample/001.parquet",))
    assert write(tmp_path, params)[0] == b"one<|endoftext|>two<|endoftext|>"


@pytest.mark.parametrize("path", ["sample/001.parquet", "valid/of 1900/a.txt"])
def test_a_damaged_file_is_refused(site: Site, tmp_path: Path, path: str) -> None:
    """By its git blob id too: files below 1000 bytes here have no sha256."""
    at = next(name for name in site.files if name.endswith(path.replace(" ", "%20")))
    whole = site.files[at]
    site.files[at] = whole[:-1] + b"?"
    with pytest.raises(ValueError, match=r"has (sha256|git blob id) \w+, but \w+ is expected"):
        write(tmp_path)
    site.files[at] = whole
    assert write(tmp_path) == (TRAIN, VALID)


def test_the_cache_of_the_hubs_client_is_used(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `hf download` fetched is read there, with and without network, and stays."""
    from huggingface_hub import constants

    snapshot = tmp_path / "cache" / "datasets--me--books"
    for name, body in FILES.items():
        link = snapshot / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = snapshot / "blobs" / digest_of(name)
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(body)
        link.symlink_to(blob)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text(COMMIT)
    assert write(tmp_path / "online") == (TRAIN, VALID)
    assert fetched_paths(site) == []

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    site.requests.clear()
    assert write(tmp_path / "offline") == (TRAIN, VALID)
    assert site.requests == []

    blob = snapshot / "blobs" / digest_of("sample/001.parquet")
    blob.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"cached 001\.parquet is damaged; delete {blob} and run"):
        write(tmp_path / "damaged")


def test_a_file_that_the_cache_lacks_cannot_be_had_offline(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a list of files was written with network, and is used without it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    address = f"hf://datasets/me/books@{COMMIT}/sample/001.parquet"
    with (
        pytest.raises(ConnectionError, match=r"001\.parquet.*\(HF_HUB_OFFLINE is set\); connect"),
        fetch.fetched(sources.Source(address), tmp_path),
    ):
        pass
    assert site.requests == []


def digest_of(name: str) -> str:
    """Return the digest by which the Hub names a file of FILES."""
    item = tree_item(name, FILES[name])
    return item["lfs"]["oid"] if "lfs" in item else item["oid"]


def test_what_is_missing_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path, replace(PARAMS, valid=("valdi/*.txt",)))
    assert str(caught.value) == (
        "corpus: no file of me/books at c0ffeec0ffee matches valdi/*.txt (corpus.valid); correct "
        f"corpus.train or corpus.valid in params.yaml, see {site.url}/datasets/me/books/tree/main"
    )
    site.errors["/api/datasets/me/books/revision/v2"] = 404, "RevisionNotFound"
    with pytest.raises(FileNotFoundError, match=r"has no revision v2 of me/books; correct corpus"):
        write(tmp_path, replace(PARAMS, revision="v2"))
    site.errors["/api/datasets/me/boks/revision/main"] = 401, "RepoNotFound"
    with pytest.raises(
        FileNotFoundError, match=r"no data set me/boks; correct corpus\.dataset.*HF"
    ):
        write(tmp_path, replace(PARAMS, dataset="me/boks"))
    with pytest.raises(ValueError, match=r"README\.md has an unknown format"):
        write(tmp_path, replace(PARAMS, source="hub", train=("README.md",)))


@pytest.mark.parametrize("code", ["GatedRepo", ""])
def test_a_gated_data_set_asks_for_a_login(site: Site, tmp_path: Path, code: str) -> None:
    """Where its files are listed, and where only they need a login."""
    message = r"(?s)accept its terms on its page .*HF_TOKEN or with `hf auth login`"
    at = f"/datasets/me/books/resolve/{COMMIT}/sample/000.parquet"
    for path, error in (("/api/datasets/me/books/revision/main", PermissionError), (at, OSError)):
        site.errors = {path: (403, code)}
        with pytest.raises(error, match=message) as caught:
            write(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_file_in_both_lists(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"001\.parquet is in corpus\.train and in corpus\.valid"):
        write(tmp_path, replace(PARAMS, valid=("sample/001.parquet",)))


def test_the_token_goes_to_the_hub_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files are redirected to another host, whose address has a login of its own."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    name = f"/datasets/me/books/resolve/{COMMIT}/sample/000.parquet"
    with serve(Site({"/blob": FILES["sample/000.parquet"]})) as storage:
        site.redirects[name] = f"{storage.url}/blob?X-Amz-Signature=1"
        assert write(tmp_path) == (TRAIN, VALID)
    assert site.logins[name] == "Bearer hf_secret"
    assert storage.logins == {"/blob": None}


def test_globs() -> None:
    listing = hub.Listing(
        "me/books", COMMIT, dict.fromkeys(["a/b/c.txt", "a/d.txt", "a/[x].txt", "e.txt"], (1, ""))
    )
    for pattern, paths in {
        "**": ["a/[x].txt", "a/b/c.txt", "a/d.txt", "e.txt"],
        "**/*.txt": ["a/[x].txt", "a/b/c.txt", "a/d.txt", "e.txt"],
        "*.txt": ["e.txt"],
        "a/*.txt": ["a/[x].txt", "a/d.txt"],
        "a/**/?.txt": ["a/b/c.txt", "a/d.txt"],
        "a/[!d-z].txt": [],
        "a/[d-e].txt": ["a/d.txt"],
        "a/[x].txt": ["a/[x].txt"],
    }.items():
        if paths:
            assert list(hub.select(listing, [pattern], "corpus.train")) == paths
        else:
            with pytest.raises(FileNotFoundError):
                hub.select(listing, [pattern], "corpus.train")


def write_in_a_process(
    folder: Path, source: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run write_corpus in a new process: the Hub's client reads its settings on import."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lmlib.corpus import CorpusParams, write_corpus\n"
        f"params = CorpusParams({source!r}, 0, 1, 1, '', '', (), (), 'text', 0.01, (), 'copy')\n"
        "try: write_corpus(params, Path('out/train.txt'), Path('out/valid.txt'), Path())\n"
        "except (OSError, ValueError) as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    root = Path(__file__).parents[2]
    settings = {"HF_HOME": str(folder / "hf"), "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"}
    settings["HF_HUB_OFFLINE"] = "0"  # other tests set it
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("source", ["tinystories", "owt"])
def test_the_data_sets_with_names_from_a_mirror(tmp_path: Path, source: str) -> None:
    texts = [b"\nOnce.\r\n<|endoftext|>\n" * 1000, b"Valid.\n<|endoftext|>\n"]
    dataset, *names = sources.NAMED[source]
    bodies = [gzip.compress(text) if source == "owt" else text for text in texts]
    with serve(hub_site(dict(zip(names, bodies, strict=True)), dataset)) as site:
        result = write_in_a_process(tmp_path, source, HF_ENDPOINT=site.url)
    assert result.returncode == 0, result.stderr
    outs = tmp_path / "out" / "train.txt", tmp_path / "out" / "valid.txt"
    assert [path.read_bytes() for path in outs] == texts


def test_offline_without_cache(tmp_path: Path) -> None:
    result = write_in_a_process(tmp_path, "tinystories", HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    assert re.fullmatch(
        r"ConnectionError: corpus\.source=tinystories: cannot list the files of "
        r"roneneldan/TinyStories at https://huggingface\.co \(.*offline.*\); connect and run again "
        r".*HF_ENDPOINT.* `hf download .*corpus\.source=toystories .*corpus\.source=local .*\n",
        result.stderr,
    )
    assert not (tmp_path / "out").exists()


def test_no_server(tmp_path: Path) -> None:
    with serve(Site({})) as site:
        address = site.url
    result = write_in_a_process(tmp_path, "owt", HF_ENDPOINT=address)
    assert f"cannot list the files of stanford-cs336/owt-sample at {address}" in result.stderr
    assert result.stderr.count("\n") == 1
