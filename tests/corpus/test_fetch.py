"""Downloads from a loopback server that breaks connections, and from a loopback Hub."""

import hashlib
import random
import re
from pathlib import Path

import pytest

from lmlib.corpus import fetch
from lmlib.corpus.fetch import check_digest, fetched
from lmlib.corpus.sources import Source
from tests.corpus.serving import Site, serve
from tests.tokenizer.bucket import ADDRESS, serve_bucket

CONTENT = random.Random(0).randbytes(3_000_000)
BREAK = 1_500_000  # much more than the client's buffer, which is lost when the connection breaks


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.0)


def download(address: str, folder: Path, sha256: str = "") -> bytes:
    with fetched(Source(address, digest=sha256 and f"sha256:{sha256}"), folder) as file:
        return file.read_bytes()


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_download_leaves_nothing_behind(tmp_path: Path) -> None:
    with serve(Site({"/a.txt": CONTENT})) as site:
        digest = hashlib.sha256(CONTENT).hexdigest()
        assert download(f"{site.url}/a.txt?key=1", tmp_path, digest) == CONTENT
    assert left_over(tmp_path) == []


def test_broken_connection_resumes(tmp_path: Path) -> None:
    with serve(Site({"/a.txt": CONTENT}, break_after=[BREAK, 1_000_000])) as site:
        assert download(f"{site.url}/a.txt", tmp_path) == CONTENT
        first, second, third = site.starts()
        assert 0 == first < second <= BREAK
        assert second < third <= second + 1_000_000


def test_server_without_ranges_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(Site({"/a.txt": CONTENT}, ranges=False, break_after=[BREAK])) as site:
        with caplog.at_level("INFO"):
            assert download(f"{site.url}/a.txt", tmp_path) == CONTENT
        assert len(site.starts()) == 2
        assert site.starts()[1] > 0  # it did request a range
    assert "cannot be resumed; it starts from scratch" in caplog.text


def test_without_progress_it_gives_up_and_the_next_run_resumes(tmp_path: Path) -> None:
    with serve(Site({"/a.txt": CONTENT}, break_after=[BREAK] + [0] * 6)) as site:
        with pytest.raises(ConnectionError, match=r"corpus\.source=url.*toystories.*local"):
            download(f"{site.url}/a.txt", tmp_path)
        (part,) = left_over(tmp_path)
        assert part.name.endswith("-a.txt.part")
        kept = part.stat().st_size
        assert 0 < kept <= BREAK
        site.requests.clear()
        site.break_after.clear()
        assert download(f"{site.url}/a.txt", tmp_path) == CONTENT
        assert site.starts() == [kept]
    assert left_over(tmp_path) == []


def test_file_of_unknown_size_is_not_resumed(tmp_path: Path) -> None:
    """This is the state after a killed run: its part may hold any share of the file."""
    with serve(Site({"/a.txt": CONTENT}, sizes=False)) as site:
        with fetched(Source(f"{site.url}/a.txt"), tmp_path) as file:
            part = file.with_name(f"{file.name}.part")
        part.parent.mkdir()
        part.write_bytes(CONTENT[:1000])
        assert download(f"{site.url}/a.txt", tmp_path) == CONTENT
        assert set(site.starts()) == {0}
    assert left_over(tmp_path) == []


def test_half_of_another_version_is_not_continued(tmp_path: Path) -> None:
    site = Site({"/a.txt": CONTENT}, break_after=[BREAK] + [0] * 6)
    site.headers = lambda body: {"ETag": hashlib.sha256(body).hexdigest()}
    with serve(site):
        with pytest.raises(ConnectionError):
            download(f"{site.url}/a.txt", tmp_path)
        site.files["/a.txt"] = CONTENT[::-1]  # a new file of the same size
        site.break_after.clear()
        assert download(f"{site.url}/a.txt", tmp_path) == CONTENT[::-1]
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("said", "kept"), [(len(CONTENT) + 1, len(CONTENT)), (1000, 0)])
def test_a_file_that_is_not_as_long_as_the_server_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int, kept: int
) -> None:
    """It is no file of the corpus. Of one that is too long nothing can be kept."""
    info = fetch._info
    monkeypatch.setattr(fetch, "_info", lambda *which: info(*which) | {"size": said})
    with (
        serve(Site({"/a.txt": CONTENT})) as site,
        pytest.raises(ConnectionError, match=rf"received \d+ bytes instead of {said}"),
    ):
        download(f"{site.url}/a.txt", tmp_path)
    (part,) = left_over(tmp_path)
    assert part.stat().st_size == kept


def test_what_was_downloaded_survives_a_failure_afterwards(tmp_path: Path) -> None:
    """A wrong text_field must not cost a second download of the whole file."""
    with serve(Site({"/a.txt": CONTENT})) as site:
        address = f"{site.url}/a.txt"
        with pytest.raises(ValueError, match="no such field"), fetched(Source(address), tmp_path):
            raise ValueError("no such field")
        assert download(address, tmp_path) == CONTENT
        assert site.starts() == [0]


def test_wrong_sha256_is_not_kept(tmp_path: Path) -> None:
    with serve(Site({"/a.txt": CONTENT})) as site:
        with pytest.raises(ValueError, match=r"a\.txt has sha256 \w{64}, but 0{64} is expected"):
            download(f"{site.url}/a.txt", tmp_path, "0" * 64)
        assert left_over(tmp_path) == []


def test_missing_file_is_not_tried_again(tmp_path: Path) -> None:
    with serve(Site({})) as site:
        with pytest.raises(FileNotFoundError, match=r"b\.txt gives no file \(HTTP status 404\)"):
            download(f"{site.url}/b.txt?token=secret", tmp_path)
        assert len(site.requests) == 2  # HEAD, then GET for servers without HEAD


def test_errors_do_not_show_the_query(tmp_path: Path) -> None:
    with serve(Site({})) as site, pytest.raises(FileNotFoundError) as caught:
        download(f"{site.url}/b.txt?token=secret", tmp_path)
    assert "secret" not in str(caught.value)


def test_secrets_of_a_redirect_are_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server may send us to a signed address, which is in the errors of the client."""
    with serve(Site({})) as other:
        lost = f"{other.url.replace('//', '//me:SECRET@')}/b.txt?X-Amz-Signature=SECRET#SECRET"
    with (
        caplog.at_level("DEBUG", "lmlib"),
        serve(Site({}, redirects={"/a.txt": lost})) as site,
        pytest.raises(ConnectionError, match=r"cannot download .*/a\.txt") as caught,
    ):
        download(f"{site.url}/a.txt", tmp_path)
    assert "SECRET" not in f"{caught.value} {caplog.text}"


def test_redirects_without_end(tmp_path: Path) -> None:
    """To try again is no use."""
    with serve(Site({}, redirects={"/a.txt": "/a.txt"})) as site:
        with pytest.raises(FileNotFoundError, match=r"/a\.txt gives no file \(TooManyRedirects"):
            download(f"{site.url}/a.txt", tmp_path)
        assert len(site.requests) < 30


def test_login_from_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pw\n")
    (tmp_path / "netrc").chmod(0o600)
    with serve(Site({"/a.txt": CONTENT}, authorization="Basic bWU6cHc=")) as site:
        with pytest.raises(FileNotFoundError, match=r"HTTP status 401\); give a login in .*netrc"):
            download(f"{site.url}/a.txt", tmp_path / "partial")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert download(f"{site.url}/a.txt", tmp_path / "partial") == CONTENT


@pytest.mark.parametrize("nested", [False, True])
def test_login_from_the_configuration_of_fsspec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    import fsspec.config

    options = {"headers": {"Authorization": "Bearer T"}}
    settings = {"client_kwargs": options} if nested else options
    with serve(Site({"/a.txt": CONTENT}, authorization="Bearer T")) as site:
        monkeypatch.setitem(fsspec.config.conf, "http", settings)
        assert download(f"{site.url}/a.txt", tmp_path) == CONTENT


def test_login_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serve_bucket(CONTENT) as options:
        monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
        S3FileSystem.clear_instance_cache()
        with pytest.raises(
            FileNotFoundError, match=r"credentials\); give a login in the environment"
        ):
            download(ADDRESS, tmp_path)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
        S3FileSystem.clear_instance_cache()
        assert download(ADDRESS, tmp_path) == CONTENT
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("sizes", [True, False])
def test_a_file_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: bool
) -> None:
    monkeypatch.setattr(fetch, "MAX_UNSIZED_BYTES", 10_000_000)
    with serve(Site({"/a.txt": CONTENT}, sizes=sizes, endless=True)) as site:
        if sizes:  # HTTP itself ends it
            assert download(f"{site.url}/a.txt", tmp_path) == CONTENT
        else:
            with pytest.raises(
                ValueError, match=r"/a\.txt has more than 10,000,000 bytes, and .* corpus\.source=l"
            ):
                download(f"{site.url}/a.txt", tmp_path)
    assert sum(path.stat().st_size for path in left_over(tmp_path)) == 0


def test_a_file_that_is_too_large_for_the_disk(tmp_path: Path) -> None:
    """Nothing of it is loaded."""
    site = Site({"/a.txt": b"x"}, sizes=False)
    site.headers = lambda body: {"Content-Length": "1" + "0" * 18}
    with serve(site), pytest.raises(OSError, match=r"1,000,\S* bytes are needed, "):
        download(f"{site.url}/a.txt", tmp_path)
    assert site.starts() == []


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with serve(Site({"/a.txt": CONTENT})) as site:
        message = r"No space left on device \(.* bytes are free\): '.*-a\.txt\.part'"
        with pytest.raises(OSError, match=message):
            download(f"{site.url}/a.txt", tmp_path)


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    folder = tmp_path / "partial"
    with serve(Site({"/a.txt": CONTENT})) as site:
        with fetched(Source(f"{site.url}/a.txt"), folder) as file:
            names = [file, file.with_name(f"{file.name}.part")]
        for name in names:
            name.parent.mkdir()
            name.symlink_to(tmp_path / "precious")
            assert download(f"{site.url}/a.txt", folder) == CONTENT
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert left_over(folder) == []


def test_long_and_strange_names(tmp_path: Path) -> None:
    for name in ("x" * 300 + ".txt", "100%25%20%C3%BC.txt", "a b(1).txt"):
        with serve(Site({f"/{name.replace(' ', '%20')}": CONTENT})) as site:
            assert download(f"{site.url}/{name}", tmp_path) == CONTENT


def test_no_server(tmp_path: Path) -> None:
    with serve(Site({})) as site:
        url = site.url
    with pytest.raises(ConnectionError) as caught:
        download(f"{url}/a.txt", tmp_path)
    assert re.search(
        "source=url: cannot download .*/a.txt from 127.0.0.1 .*connect and run again, or .*"
        "corpus.source=toystories .*corpus.source=local",
        str(caught.value),
    )
    assert "\n" not in str(caught.value)


def test_addresses_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nosuch://x/a.txt cannot be opened .*nosuch"):
        download("nosuch://x/a.txt", tmp_path)
    with pytest.raises(ValueError, match=r"a\.pdf has an unknown format"):
        download("https://127.0.0.1:1/a.pdf", tmp_path)
    (tmp_path / "a.txt").touch()
    for local in (tmp_path / "a.txt").as_uri(), "local://a.txt":
        with pytest.raises(ValueError, match=r"a\.txt is a file of this machine; .*source=local"):
            download(local, tmp_path)


def test_errors_of_other_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of store raises its own; nobody can list them."""
    from fsspec.implementations.memory import MemoryFileSystem

    def fail(*_: object) -> None:
        raise RuntimeError("no credentials\nfor https://me:SECRET@host")

    monkeypatch.setattr(MemoryFileSystem, "info", fail)
    with pytest.raises(
        FileNotFoundError,
        match=r"/b\.txt gives no file \(no credentials for https://\*\*\*@host\); give a login in",
    ):
        download("memory://corpus/b.txt", tmp_path)


def test_another_protocol(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://corpus/a.txt", "wb") as file:
        file.write(CONTENT)  # type: ignore[union-attr]
    assert download("memory://corpus/a.txt", tmp_path) == CONTENT
    with pytest.raises(FileNotFoundError, match=r"memory://corpus/b\.txt gives no file"):
        download("memory://corpus/b.txt", tmp_path)


def test_a_local_file_that_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match=rf"{path} has sha256 \w+, but 0+ is expected"):
        download(str(path), tmp_path, "0" * 64)
    assert path.read_bytes() == b"other"


def test_check_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # the digest of "abc" in FIPS 180-4, and what `printf abc | git hash-object --stdin` prints
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    check_digest(tmp_path / "a", f"sha256:{sha256}", "a")
    check_digest(tmp_path / "a", "git:f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f", "a")
    for digest in (f"sha256:{'0' * 64}", f"git:{'0' * 40}"):
        with pytest.raises(ValueError, match="damaged or a different version"):
            check_digest(tmp_path / "a", digest, "a")
