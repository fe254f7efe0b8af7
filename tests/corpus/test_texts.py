"""Texts that are read where they are give what a copy of them gives."""

import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lmlib.corpus import CorpusParams, Text, fetch, read_texts, write_corpus
from lmlib.corpus.documents import SEPARATOR
from lmlib.corpus.fetch import working_folder
from lmlib.corpus.texts import opened_start
from lmlib.tokenizer import Tokenizer, train_bpe
from tests.corpus.serving import COMMIT, hub_site, serve

PARAMS = CorpusParams(
    source="local",
    seed=0,
    train_bytes=1,
    valid_bytes=1,
    dataset="me/books",
    revision="main",
    train=("books/*",),
    valid=(),
    text_field="text",
    valid_fraction=0.2,
    sha256=(),
    keep="copy",
)
DOCUMENTS = [b"Once there were %d cats.\nThey ran %d miles " % (i, i * 7) for i in range(240)]
SPECIAL = [SEPARATOR.decode()]


def write_books(folder: Path) -> None:
    """Write files of all formats, with separators at their ends, white space there, and neither."""
    folder.mkdir(parents=True)
    parts = iter([DOCUMENTS[i : i + 30] for i in range(0, 240, 30)])
    (folder / "a.txt").write_bytes(SEPARATOR.join(next(parts)))
    (folder / "b.txt").write_bytes(SEPARATOR.join(next(parts)) + SEPARATOR)
    (folder / "c.txt").write_bytes(
        b"\n" + (SEPARATOR + b"\n").join(next(parts)) + SEPARATOR + b"\n\n"
    )
    (folder / "d.txt").write_bytes(b"\n\n" + SEPARATOR.join(next(parts)) + b" \n")
    (folder / "e.txt.gz").write_bytes(gzip.compress(SEPARATOR.join(next(parts)) + SEPARATOR + b" "))
    rows = [document.decode() for document in next(parts)]
    (folder / "f.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    rows = [document.decode() for document in next(parts)]
    parquet.write_table(pa.table({"id": range(30), "text": rows}), folder / "g.parquet")
    (folder / "h.txt").write_bytes(b" \n")
    (folder / "i.txt").write_bytes(b"\n" + SEPARATOR.join(next(parts)) + b"\n")


def texts_of(params: CorpusParams, root: Path) -> dict[str, list[Text]]:
    """Write the corpus, and return its texts."""
    raw = root / "raw" / params.keep
    write_corpus(params, raw / "train.txt", raw / "valid.txt", root)
    return {name: read_texts(raw, name, root) for name in ("train", "valid")}


def content(texts: list[Text], folder: Path | None = None) -> bytes:
    found = b""
    for text in texts:
        with text.open(folder) as path:
            found += path.read_bytes() + text.ending.encode()
            if text.num_bytes is not None:
                assert text.num_bytes == path.stat().st_size
    return found


def learn(texts: list[Text], pattern: str = "gpt2", **options: Any) -> Tokenizer:
    vocab, merges = train_bpe(texts, 400, SPECIAL, pattern=pattern, **options)
    return Tokenizer(vocab, merges, SPECIAL, pattern=pattern)


def encode(tokenizer: Tokenizer, texts: list[Text], folder: Path) -> list[int]:
    ids: list[int] = []
    for text in texts:
        with text.open() as path:
            tokenizer.encode_file(path, folder / "ids.npy")
        ids += np.load(folder / "ids.npy").tolist() + tokenizer.encode(text.ending)
    return ids


@contextmanager
def source(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CorpusParams]:
    """Write the books, and yield the params by which they are read from somewhere."""
    write_books(root / "books")
    files = {path.name: path.read_bytes() for path in sorted((root / "books").iterdir())}
    site = hub_site(files)
    with serve(site):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        base = f"{site.url}/datasets/me/books/resolve/{COMMIT}/"
        yield replace(
            PARAMS,
            source=kind,
            train={
                "local": ("books/*",),
                "url": tuple(base + name for name in files),
                "hub": ("*",),
            }[kind],
        )


@pytest.mark.parametrize("kind", ["local", "url", "hub"])
@pytest.mark.parametrize("is_split", [True, False])
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_a_reference_gives_the_merges_and_ids_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_split: bool, pattern: str
) -> None:
    with source(kind, tmp_path, monkeypatch) as params:
        if not is_split:  # the last ones, of which one has no separator
            valid = {"local": "books/i.txt", "url": params.train[-1], "hub": "i.txt"}[kind]
            train = {"local": ("books/[a-h]*",), "url": params.train[:-1], "hub": ("[a-h]*",)}
            params = replace(params, train=train[kind], valid=(valid,))
        copied = texts_of(params, tmp_path)
        referred = texts_of(replace(params, keep="reference"), tmp_path)
        assert len(copied["train"]) == 1 < len(referred["train"])
        tokenizer, other = (learn(texts["train"], pattern) for texts in (copied, referred))
        assert other.merges == tokenizer.merges
        for name in ("train", "valid"):
            assert content(referred[name]) == content(copied[name])
            expected = encode(tokenizer, copied[name], tmp_path)
            assert encode(tokenizer, referred[name], tmp_path) == expected
    assert not (tmp_path / "raw" / "reference" / "train.txt").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([SEPARATOR, b"a", b" ", b"\n", b"\r\n", b"one two", b"<|endof"]),
            max_size=8,
        ).map(b"".join),
        min_size=1,
        max_size=4,
    )
)
def test_any_files_are_one_text(
    tmp_path_factory: pytest.TempPathFactory, files: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("any")
    for number, body in enumerate([*files, b"the last one"]):
        (root / f"{number}.txt").write_bytes(body)
    (root / "valid.txt").write_bytes(b"valid")
    params = replace(PARAMS, train=("[0-9].txt",), valid=("valid.txt",))
    copied = texts_of(params, root)["train"]
    referred = texts_of(replace(params, keep="reference"), root)["train"]
    assert content(referred) == content(copied)


def test_a_plain_local_file_is_read_where_it_is(tmp_path: Path) -> None:
    """With or without a separator at its end; white space after it would be a second text's."""
    write_books(tmp_path / "books")
    params = replace(PARAMS, train=("books/[a-d].txt",), valid=("books/i.txt",), keep="reference")
    found = texts_of(params, tmp_path)
    in_place = []
    for text in found["train"] + found["valid"]:
        with text.open(tmp_path / "partial") as path:
            if path == tmp_path / "books" / text.name:
                in_place.append(text.name)
    assert in_place == ["a.txt", "b.txt", "d.txt", "i.txt"]
    assert [text.ending for text in found["train"]] == [SPECIAL[0], "", "", ""]
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize("kind", ["url", "hub"])
def test_a_temporary_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with source(kind, tmp_path, monkeypatch) as params:
        for text in texts_of(replace(params, keep="reference"), tmp_path)["train"]:
            with text.open(tmp_path / "partial") as path:
                inside = [file for file in (tmp_path / "partial").rglob("*") if file.is_file()]
                assert inside == [path]  # and no second copy in another format
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_text_can_be_opened_by_another_process(tmp_path: Path) -> None:
    write_books(tmp_path / "books")
    texts = texts_of(replace(PARAMS, keep="reference"), tmp_path)["valid"]
    (tmp_path / "texts").write_bytes(pickle.dumps(texts))
    code = (
        "import pickle, sys\nfrom pathlib import Path\n"
        "for text in pickle.loads(Path(sys.argv[1]).read_bytes()):\n"
        "    with text.open() as path: sys.stdout.buffer.write(path.read_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "texts")],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
    )
    assert done.stdout == content(texts)


def test_digests_say_what_is_read_and_how(tmp_path: Path) -> None:
    write_books(tmp_path / "books")
    params = replace(PARAMS, keep="reference")
    found = texts_of(params, tmp_path)
    digests = {text.digest for texts in found.values() for text in texts}
    assert len(digests) == 18  # no file is another, nor is a side of it
    assert texts_of(params, tmp_path) == found
    other = texts_of(replace(params, text_field="id"), tmp_path)["train"]
    changed = [a.name for a, b in zip(found["train"], other, strict=True) if a.digest != b.digest]
    assert changed == ["f.jsonl", "g.parquet"]
    assert read_texts(copy_of(tmp_path), "train")[0].digest is None


def copy_of(root: Path) -> Path:
    texts_of(PARAMS, root)
    return root / "raw" / "copy"


def test_a_manifest_is_the_same_in_another_folder(tmp_path: Path) -> None:
    """Where the files lie in the repository, so that two clones have one dvc.lock."""
    manifests = []
    for folder in (tmp_path / "one", tmp_path / "two ü"):
        write_books(folder / "books")
        texts_of(replace(PARAMS, keep="reference"), folder)
        manifests.append((folder / "raw" / "reference" / "train.json").read_bytes())
    assert manifests[0] == manifests[1]


def test_a_file_that_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_books(tmp_path / "books")
    text = texts_of(replace(PARAMS, keep="reference"), tmp_path)["train"][0]
    (tmp_path / "books" / "a.txt").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"a\.txt has sha256 \w+, but"), text.open():
        pass
    with source("url", tmp_path / "url", monkeypatch) as params, serve(hub_site({})) as site:
        address = f"{site.url}/a.txt"
        site.files["/a.txt"] = b"one"
        text = texts_of(replace(params, train=(address,), keep="reference"), tmp_path)["train"][0]
        site.files["/a.txt"] = b"another"
        with pytest.raises(ValueError, match=r"has changed since it was listed; list"), text.open():
            pass


def test_a_copied_text_may_have_any_bytes(tmp_path: Path) -> None:
    """A file with NUL bytes is refused as a source, and a record of .jsonl may have one."""
    (tmp_path / "a.jsonl").write_text('{"text": "a\\u0000b"}\n{"text": "c"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "valid"}\n')
    for keep in ("copy", "reference"):
        params = replace(PARAMS, train=("a.jsonl",), valid=("b.jsonl",), keep=keep)
        assert content(texts_of(params, tmp_path)["train"]) == (
            b"a\0b" + SEPARATOR + b"c" + SEPARATOR
        )


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    write_books(tmp_path / "books")
    texts_of(replace(PARAMS, keep="reference"), tmp_path)
    manifest = tmp_path / "raw" / "reference" / "train.json"
    whole = manifest.read_text()
    for old, new in (('"bytes"', '"size"'), ('"files"', '"file"'), ('"train"', '"left"')):
        manifest.write_text(whole.replace(old, new))
        with pytest.raises(ValueError, match=r"train\.json: not a list of files"):
            read_texts(manifest.parent, "train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such file, and no train\.json"):
        read_texts(tmp_path, "train")


def test_what_another_keep_left_is_removed(tmp_path: Path) -> None:
    write_books(tmp_path / "books")
    raw = tmp_path / "data" / "raw"
    for keep, suffix in (("copy", ".txt"), ("reference", ".json"), ("copy", ".txt")):
        write_corpus(replace(PARAMS, keep=keep), raw / "train.txt", raw / "valid.txt", tmp_path)
        assert {path.name for path in raw.iterdir()} == {f"train{suffix}", f"valid{suffix}"}


@pytest.mark.parametrize(
    ("keep", "kind"),
    [
        ("copy", "local"),
        ("reference", "local"),
        pytest.param("reference", "url", marks=pytest.mark.slow),
        pytest.param("copy", "url", marks=pytest.mark.slow),
    ],
)
def test_hundreds_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, keep: str
) -> None:
    """Each is opened once, and memory does not grow with their number."""
    bodies = {f"{i:03}.txt": b"Document %d. " % i * 500 for i in range(300)}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    with serve(hub_site(bodies)) as site:
        base = f"{site.url}/datasets/me/books/resolve/{COMMIT}/"
        train = ("[0-9]*.txt",) if kind == "local" else tuple(base + name for name in bodies)
        digests = tuple(hashlib.sha256(body).hexdigest() for body in bodies.values())
        params = replace(PARAMS, source=kind, train=train, sha256=digests, keep=keep)
        tracemalloc.start()
        try:
            texts = texts_of(params, tmp_path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        found = {name: content(side, tmp_path / "partial") for name, side in texts.items()}
    assert peak < 12e6
    assert sum(side.count(b"Document") for side in found.values()) == 300 * 500
    assert sum(side.count(SEPARATOR) for side in found.values()) == 299  # between them
    if keep == "copy" and kind == "url":
        files = [request for request in site.requests if request[0] == "GET"]
        assert len(files) == 300


def test_of_two_that_open_one_file_the_second_waits(tmp_path: Path) -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        entered.wait()
        with working_folder(tmp_path, "key"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with working_folder(tmp_path, "key") as place:
        entered.set()
        thread.join(0.2)
        order.append("first")
        assert place.is_dir()
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_resumes_in_a_folder_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.0)
    body = b"A line of text.\n" * 200_000
    with serve(hub_site({"a.txt": body})) as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        params = replace(PARAMS, source="hub", train=("a.txt",), keep="reference")
        (text,) = texts_of(params, tmp_path)["train"]
        site.break_after = [1_500_000] + [0] * 6
        with pytest.raises(ConnectionError), text.open(tmp_path / "partial"):
            pass
        site.requests.clear()
        with text.open(tmp_path / "partial"):
            pass
        assert site.starts()[0] > 0


def test_the_start_of_several_texts_is_one_file(tmp_path: Path) -> None:
    write_books(tmp_path / "books")
    texts = texts_of(replace(PARAMS, keep="reference"), tmp_path)["train"]
    whole = content(texts)
    for num_bytes in (1, 2000, len(whole)):
        with opened_start(texts, num_bytes, tmp_path / "partial") as path:
            start = path.read_bytes()
        assert num_bytes <= len(start) < num_bytes + 2000
        assert whole.startswith(start)
    with opened_start(texts[:1], 1, tmp_path) as path, texts[0].open(tmp_path / "b") as same:
        assert path.read_bytes() == same.read_bytes()
