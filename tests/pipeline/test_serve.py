"""Stage `serve` by hand: a real server process, the `openai` client, signals and bad arguments."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from lmlib.checkpoint import load_model
from lmlib.params import load_params
from lmlib.sampling import SamplingParams, generate_text
from lmlib.tokenizer import Tokenizer
from stages.paths import MODEL, PARAMS, TOKENIZER
from tests.pipeline.conftest import Project
from tests.pipeline.imports import ROOT
from tests.pipeline.trained import make_trained

pytestmark = pytest.mark.usefixtures("forked")
START_S = 120.0  # only ends a broken test


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml, a tokenizer and a model."""
    folder = tmp_path_factory.mktemp("trained ü")
    make_trained(folder)
    return folder


@contextmanager
def serving(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server on a free port; yield the process and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.serve", "--port", "0", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # a program in the background of a script ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"serving \S+ at (http://\S+)/ \(.*\); Ctrl-C stops it\n", line)
            assert found, line + process.communicate()[1]
            yield process, found[1]
        finally:
            process.kill()


def client(address: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=START_S)


def texts(folder: Path, prompts: Sequence[str], **options: Any) -> list[str]:
    """Return the texts that the model writes without a server."""
    model, tokenizer = load_model(folder / MODEL), Tokenizer.load(folder / TOKENIZER)
    params = load_params(ROOT / PARAMS, "sampling", SamplingParams)
    params = replace(params, temperature=1.0, top_p=1.0, **options)
    return [only for (only,) in generate_text(model, tokenizer, prompts, params)]


def test_the_openai_client_works_against_it(trained: Path) -> None:
    """A proxy in the environment is not asked for an address of this machine."""
    with serving(trained) as (process, address), client(address) as lm:
        (model,) = lm.models.list().data
        assert model.id == "lm"
        prompts = ["Once upon a time", "The dog"]
        expected = texts(trained, prompts, seed=3, max_tokens=20)
        answer = lm.completions.create(model="lm", prompt=prompts, seed=3, max_tokens=20)
        assert [choice.text for choice in answer.choices] == expected
        stream = lm.completions.create(
            model="lm", prompt=prompts[0], seed=3, max_tokens=20, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == expected[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(START_S) == 130
        assert process.communicate() == ("", "")


def test_sigterm_finishes_what_runs_and_refuses_what_is_new(trained: Path) -> None:
    with serving(trained) as (process, address), client(address) as lm:
        asked: dict[str, Any] = {"model": "lm", "prompt": "Once", "seed": 3, "max_tokens": 4000}
        stream = lm.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = [next(stream)]
        process.terminate()
        refused = False
        while not refused:  # until it has seen the signal
            host, port = address.removeprefix("http://").split(":")
            try:
                socket.create_connection((host, int(port))).close()
                time.sleep(0.01)
            except ConnectionRefusedError:
                refused = True
        assert process.poll() is None
        chunks += list(stream)
        *parts, last = chunks
        assert parts[-1].choices[0].finish_reason in ("length", "stop")
        (text,) = texts(trained, ["Once"], seed=3, max_tokens=4000)
        assert "".join(part.choices[0].text for part in parts) == text
        assert last.usage is not None
        assert process.wait(START_S) == -signal.SIGTERM
        assert process.communicate() == ("", "")


def test_a_second_ctrl_c_waits_for_nothing(trained: Path) -> None:
    arguments = ("--max-tokens", "1000000")
    with serving(trained, *arguments) as (process, address), client(address) as lm:
        stream = lm.completions.create(
            model="lm", prompt=[5], max_tokens=1_000_000, stream=True, temperature=0
        )
        next(stream)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(START_S) == 130
        stream.close()


def fails(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Return what is said by a server that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.serve", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=START_S,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    return done.stderr


def test_without_a_model(tmp_path: Path) -> None:
    make_trained(tmp_path)
    (tmp_path / MODEL / "model.safetensors").unlink()
    message = fails(tmp_path)
    assert message.startswith("error: models/lm")
    assert message.endswith("run `dvc repro`\n")
    assert message.count("\n") == 1


def test_a_port_that_is_taken(trained: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = fails(trained, "--port", port)
    assert message == (
        f"error: port {port} of 127.0.0.1: address already in use; choose another with --port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--host", "0.0.0.0"],
            "--host 0.0.0.0 can be reached from other machines: set an API key",
        ),
        (["--host", "no such host"], "--host"),
        (["--port", "70000"], "--port"),
        (["--batch", "0"], "error: batch is 0; it must be from 1"),
        (["--batch", "100000000"], "error: decoding 100000000 texts together needs at least"),
        (["--seconds", "nan"], "error: seconds is nan; it must be from"),
        (["--max-tokens", "many"], "--max-tokens"),
    ],
)
def test_arguments_that_do_not_work(trained: Path, arguments: list[str], message: str) -> None:
    assert message in fails(trained, *arguments, env={"LMLIB_API_KEY": ""})


def test_another_host_with_a_key(trained: Path) -> None:
    env = {"LMLIB_API_KEY": "secret"}
    with serving(trained, "--host", "0.0.0.0", env=env) as (_, address):
        address = address.replace("0.0.0.0", "127.0.0.1")
        with client(address, "secret") as lm:
            assert lm.completions.create(model="lm", prompt="a", max_tokens=1).usage is not None
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 401
        connection.close()


def test_sixteen_clients_get_the_texts_that_they_get_alone(trained: Path) -> None:
    prompts = [f"{'Once upon a time'[: 1 + number]}" for number in range(16)]
    got: dict[int, str] = {}
    with serving(trained) as (_, address), client(address) as lm:

        def ask(number: int) -> None:
            answer = lm.completions.create(
                model="lm", prompt=prompts[number], seed=3, max_tokens=60
            )
            got[number] = answer.choices[0].text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = texts(trained, prompts, seed=3, max_tokens=60)
    assert [got[number] for number in range(16)] == expected


@pytest.mark.pipeline
def test_the_model_of_a_revision(project: Project) -> None:
    with (
        serving(project.folder, "--rev", "main") as (_, address),
        client(address) as lm,
    ):
        (model,) = lm.models.list().data
        assert model.id == "lm@main"
        answer = lm.completions.create(model=model.id, prompt="Once", seed=3, max_tokens=20)
        assert [answer.choices[0].text] == texts(project.folder, ["Once"], seed=3, max_tokens=20)
