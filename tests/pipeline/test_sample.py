"""Stage `sample` by hand: what it prints, its prompt loop, and models of other revisions."""

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dvc.repo import Repo
from dvc.repo.reproduce import reproduce
from pygit2 import GitError

from lmlib.checkpoint import load_model
from lmlib.params import load_params
from lmlib.sampling import SamplingParams, cast_matrices, generate_samples
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from lmlib.visible import visible
from stages import sample
from stages.cli import run_stage
from stages.paths import MODEL, PARAMS, TOKENIZER
from tests.fork_server import TOOLS
from tests.pipeline.imports import ROOT
from tests.pipeline.trained import make_trained

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.filterwarnings(  # as DVC walks its tree of outs
        "ignore:_NoneStep.value will soon raise AttributeError:DeprecationWarning"
    ),
]
Run = Callable[..., str]
SETTINGS = ("--max-tokens", "12", "--temperature", "1", "--top-p", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml, a tokenizer and a model."""
    folder = tmp_path_factory.mktemp("trained")
    make_trained(folder)
    return folder


def test_no_compiler_is_imported(trained: Path) -> None:
    """The kernels are compiled already: Numba, and scipy which comes with it, are not needed."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.sample", "--prompt", "Once", *SETTINGS],
        cwd=trained,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert {"lmlib.native", "torch", "stages.cli"} <= imported
    assert not {"numba", "scipy"} & imported


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the stage with `arguments` and returns what it printed."""
    monkeypatch.chdir(trained)

    def run(*arguments: str, stdin: str | bytes = "") -> str:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["sample", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        run_stage(sample.main)
        return capsys.readouterr().out

    return run


def settings(**changes: object) -> SamplingParams:
    """Return the options that result from params.yaml and SETTINGS, with changes."""
    params = load_params(ROOT / PARAMS, "sampling", SamplingParams)
    return replace(params, max_tokens=12, temperature=1.0, top_p=1.0, **changes)


def texts(folder: Path, prompt: str, **changes: object) -> list[str]:
    """Return the prompt with each of its continuations, by the library."""
    model, tokenizer = load_model(folder / MODEL), Tokenizer.load(folder / TOKENIZER)
    (samples,) = generate_samples(model, tokenizer, [prompt], settings(**changes))
    return [prompt + sample.text for sample in samples]


def test_a_prompt_and_its_text(run: Run, trained: Path) -> None:
    (expected,) = texts(trained, "Once upon")
    assert run("--prompt", "Once upon", *SETTINGS) == expected + "\n"
    assert run("--prompt", "Once upon", *SETTINGS, "--no-cache") == expected + "\n"
    assert run("--prompt", "Once upon", *SETTINGS, "--seed", "2") != expected + "\n"


def test_weights_in_bfloat16(run: Run, trained: Path) -> None:
    model, tokenizer = load_model(trained / MODEL), Tokenizer.load(trained / TOKENIZER)
    cast_matrices(model, torch.bfloat16)
    (samples,) = generate_samples(model, tokenizer, [""], settings(num_samples=40))
    arguments = ("--prompt", "", *SETTINGS, "--num-samples", "40")
    output = run(*arguments, "--dtype", "bfloat16")
    assert output == "\n\n".join(sample.text for sample in samples) + "\n"
    assert output != run(*arguments)


def test_a_prompt_may_be_empty(run: Run, trained: Path) -> None:
    """The text is then the model's from its first token on."""
    assert run("--prompt", "", *SETTINGS) == texts(trained, "")[0] + "\n"


def test_several_samples_have_a_line_between_them(run: Run, trained: Path) -> None:
    """Drawn with seed 5, 6 and 7."""
    expected = [texts(trained, "The dog", seed=seed)[0] for seed in (5, 6, 7)]
    arguments = ("--prompt", "The dog", *SETTINGS, "--num-samples", "3", "--seed", "5")
    assert run(*arguments) == "\n\n".join(expected) + "\n"


def test_stop_strings_end_a_text_and_are_no_part_of_it(run: Run, trained: Path) -> None:
    (whole,) = texts(trained, "")
    found = re.search("[ -~]{2}", whole)  # most of an untrained model's bytes are no characters
    assert found
    output = run("--prompt", "", *SETTINGS, "--stop", "The end", found[0])
    assert output == whole[: found.start()] + "\n"


def test_json_lines(run: Run, trained: Path) -> None:
    """One object per sample: everything its text depends on, and its tokens."""
    output = run("--prompt", "The “dog”", "--json", *SETTINGS, "--num-samples", "2", "--seed", "5")
    rows = [json.loads(line) for line in output.splitlines()]
    tokenizer = Tokenizer.load(trained / TOKENIZER)
    assert ["The “dog”" + row["text"] for row in rows] == texts(
        trained, "The “dog”", seed=5, num_samples=2
    )
    for row, seed in zip(rows, (5, 6), strict=True):
        assert list(row) == ["prompt", "text", "tokens", "finish_reason", "seed"]
        assert (row["prompt"], row["seed"]) == ("The “dog”", seed)
        assert row["finish_reason"] in ("stop", "length")
        assert tokenizer.decode(row["tokens"]) == row["text"]


def test_each_line_of_stdin_is_a_prompt(run: Run, trained: Path) -> None:
    """Empty lines are ignored; commands are for a terminal."""
    expected = [texts(trained, prompt)[0] for prompt in ("Once", "/seed 9")]
    assert run(*SETTINGS, stdin="Once\n\n/seed 9\n") == "".join(text + "\n" for text in expected)
    rows = run(*SETTINGS, "--json", stdin="Once\n/seed 9").splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["Once", "/seed 9"]


@pytest.mark.parametrize("separator", ["\u2028", "\f", "\r", "\v", "\x1c", "\x85"])
def test_lines_end_where_those_of_text_files_do(run: Run, separator: str) -> None:
    """With or without a carriage return, and after the mark with which Windows begins a file."""
    lines = f"\ufeffOnce{separator}a\r\n\r\nThe\n".encode()
    rows = run(*SETTINGS, "--json", stdin=lines).split("\n")
    assert [json.loads(row)["prompt"] for row in rows[:-1]] == [f"Once{separator}a", "The"]


def test_a_line_that_is_not_utf_8_does_not_end_the_others(run: Run, trained: Path) -> None:
    """It gets an object of its own, in its place."""
    lines = b"Once\nit\x92s\n\xed\xa0\x80\nThe dog\n"
    rows = [json.loads(row) for row in run("--json", *SETTINGS, stdin=lines).splitlines()]
    assert [row.get("prompt") for row in rows] == ["Once", None, None, "The dog"]
    assert rows[1] == {
        "line": 2,
        "error": "line 2 of stdin is not UTF-8 (byte 0x92 at offset 2); convert the text, for "
        "example with `iconv -f WINDOWS-1252 -t UTF-8`",
    }
    assert rows[2]["line"] == 3
    assert ["The dog" + rows[3]["text"]] == texts(trained, "The dog")


def test_without_json_a_bad_line_is_an_error_on_stderr(
    run: Run, trained: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are continued; the exit status says that one was not."""
    with pytest.raises(SystemExit) as ended:
        run(*SETTINGS, stdin=b"it\x92s\nThe dog\n")
    assert ended.value.code == 1
    assert capsys.readouterr().out == texts(trained, "The dog")[0] + "\n"
    assert caplog.messages == [
        "error: line 1 of stdin is not UTF-8 (byte 0x92 at offset 2); convert the text, for "
        "example with `iconv -f WINDOWS-1252 -t UTF-8`"
    ]


@pytest.mark.parametrize("option", ["--prompt", "--stop", "--rev"])
def test_an_option_that_is_not_utf_8(run: Run, option: str) -> None:
    message = rf"^error: {option} is not UTF-8 \(byte 0x92 at offset 2"
    with pytest.raises(SystemExit, match=message):
        run("--prompt", "", option, os.fsdecode(b"it\x92s"))


def test_special_tokens_in_a_prompt_are_text(run: Run, trained: Path) -> None:
    """In an argument, in lines and in JSON, unless the option or params.yaml says otherwise."""
    prompt = f"Once{SEPARATOR}The"
    (as_text,), (as_special,) = (
        texts(trained, prompt, allow_special=allowed) for allowed in (False, True)
    )
    assert as_text != as_special
    for arguments, expected in (([], as_text), (["--allow-special"], as_special)):
        assert run("--prompt", prompt, *SETTINGS, *arguments) == expected + "\n"
        assert run(*SETTINGS, *arguments, stdin=prompt) == expected + "\n"
        row = json.loads(run(*SETTINGS, *arguments, "--json", stdin=prompt))
        assert prompt + row["text"] == expected


def test_the_last_seeds(run: Run) -> None:
    last = ("--num-samples", "2", "--prompt", "Once", *SETTINGS)
    rows = run(*last, "--seed", str(2**63 - 2), "--json").splitlines()
    said = run(*last, "--seed", str(2**63 - 2))
    assert said == "\n".join(f"Once{json.loads(row)['text']}\n" for row in rows)
    for as_json in ([], ["--json"]):
        with pytest.raises(SystemExit, match=r"^error: seed is .* must be at most 2\*\*63"):
            run(*last, "--seed", str(2**63 - 1), *as_json)


def test_a_reader_that_ends_first_ends_it_in_silence(trained: Path) -> None:
    """As in `python -m stages.sample --json | head -1`."""
    command = [sys.executable, "-m", "stages.sample", "--prompt", "Once", "--num-samples", "999"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=trained, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"Once"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "error: temperature is -1.0; it must be 0, or from 1e-30"),
        (["--top-p", "0"], r"error: top_p is 0.0; it must be from 1e-30 to 1"),
        (["--max-tokens", "0"], "error: max_tokens is 0; it must be from 1 to 10"),
        (["--stop", ""], "error: stop holds an empty text"),
        (["--device", "tpu"], "error: --device is 'tpu'; choose auto, cpu"),
    ],
)
def test_an_option_out_of_range(run: Run, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^{message}"):
        run("--prompt", "Once", *arguments)


def test_an_option_of_another_type(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--top-k", "many")
    assert "argument --top-k: invalid int value: 'many'" in capsys.readouterr().err


def test_the_model_of_another_tokenizer(run: Run, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.load(tmp_path / TOKENIZER)
    Tokenizer(tokenizer.vocab, tokenizer.merges, [SEPARATOR, "<x>"]).save(tmp_path / TOKENIZER)
    os.chdir(tmp_path)  # `run` takes it back
    message = "error: models/lm: the model knows 280 tokens, the tokenizer in .* has 281"
    with pytest.raises(SystemExit, match=message):
        run("--prompt", "Once")


# -- the prompt loop


@pytest.fixture(scope="module")
def writer(trained: Path) -> sample.Writer:
    model, tokenizer = load_model(trained / MODEL), Tokenizer.load(trained / TOKENIZER)
    return sample.Writer(model, tokenizer, settings(), as_json=False, use_cache=True)


def test_commands_change_options(writer: sample.Writer) -> None:
    """Values are read as in params.yaml; the output can be typed back."""
    for line, shown in [
        ("/temperature 0.8", "/temperature 0.8"),
        ("/temperature", "/temperature 0.8"),
        ("/temperature 1e-05", "/temperature 1e-05"),
        ("/top-k  40", "/top_k 40"),
        ('/stop ["The end", "\\n"]', '/stop ["The end", "\\n"]'),
        ("/stop The end: yes", '/stop ["The end: yes"]'),
        ('/stop "a b"', '/stop ["a b"]'),
        ("/stop 5", '/stop ["5"]'),
        ("/stop [", '/stop ["["]'),
        ("/stop []", "/stop []"),
        ("/beyond_context stop", "/beyond_context stop"),
    ]:
        assert writer.command(line) == shown + "\n"
        assert writer.command(shown) == shown + "\n"
    assert writer.params.temperature == 1e-5
    assert writer.params.stop == ()
    listed = writer.command("/show").splitlines()
    assert "/top_k 40" in listed
    for line in listed:
        assert writer.command(line) == line + "\n"
    assert "/OPTION VALUE" in writer.command("/help")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperature -1", "options: temperature is -1.0; it must be 0, or from 1e-30"),
        ("/temperature hot", "options.temperature is the text 'hot'; it should be a number"),
        ("/top_k 1.5", "options.top_k is the value 1.5; it should be a whole number"),
        ("/beyond_context go", "options.beyond_context is 'go'; choose one of slide, stop"),
        ('/stop ["a", ""]', "options: stop holds an empty text"),
        ("/prompts x", "/prompts is unknown; write /show, /help or one of the options"),
        ("/", "/ is unknown; write"),
    ],
)
def test_commands_that_cannot_be_followed(writer: sample.Writer, line: str, message: str) -> None:
    before = writer.params
    assert writer.command(line).startswith(f"error: {message}")
    assert writer.params == before


class Terminal:
    """A program on its own terminal."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self.fd, theirs = pty.openpty()
        env = os.environ | {"TERM": "dumb", "PYTHONPATH": str(ROOT), "INPUTRC": os.devnull}
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)

    def read(self, ending: str | None = None) -> str:
        """Return what it shows, up to the `ending`, or up to its end."""
        shown = b""
        while ending is None or not shown.endswith(ending.encode()):
            assert select.select([self.fd], [], [], 120)[0], f"it is silent after {shown!r}"
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError:  # on Linux: all writers have closed it
                data = b""
            if not data:
                break
            shown += data
        return shown.decode().replace("\r\n", "\n").removesuffix(ending or "")

    def answer(self, line: str) -> str:
        """Type a line; return what is shown after it, up to the next prompt."""
        os.write(self.fd, line.encode() + b"\n")
        echo, _, shown = self.read("\n> ").partition("\n")
        assert echo.endswith(line)
        return shown


def test_the_prompt_loop_on_a_terminal(trained: Path) -> None:
    """As one types: prompts, commands, a mistake, and Ctrl-D."""
    terminal = Terminal(str(TOOLS / "python"), "-m", "stages.sample", *SETTINGS, cwd=trained)
    with terminal.process:
        assert terminal.read("> ").startswith("A line is a prompt")
        assert terminal.answer("Once") == visible(texts(trained, "Once")[0])
        assert terminal.answer("/seed 9") == "/seed 9"
        assert terminal.answer("Once") == visible(texts(trained, "Once", seed=9)[0])
        assert terminal.answer("/sed 9").startswith("error: /sed is unknown")
        assert "/max_tokens 12\n/temperature 1.0\n" in terminal.answer("/show")
        assert terminal.answer("/allow_special true") == "/allow_special true"
        expected = texts(trained, SEPARATOR, seed=9, allow_special=True)
        assert terminal.answer(SEPARATOR) == visible(expected[0])
        os.write(terminal.fd, b"\x04")
        assert terminal.read() == "\n"
    assert terminal.process.returncode == 0


def test_a_terminal_shows_control_characters_and_does_not_obey_them(trained: Path) -> None:
    """They would clear the screen, set its title, turn the direction. A file keeps them."""
    prompt = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\rc\td"
    command = [str(TOOLS / "python"), "-m", "stages.sample", "--prompt", prompt, *SETTINGS]
    terminal = Terminal(*command, cwd=trained)
    with terminal.process:
        shown = terminal.read()
    assert shown.startswith(r"a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\x0dc" + "\td")
    assert visible(shown) == shown
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    piped = subprocess.run(command, cwd=trained, env=env, stdout=subprocess.PIPE, check=True)
    assert piped.stdout.decode().startswith(prompt)


def test_ctrl_c_ends_a_text_on_a_terminal_and_the_program_elsewhere(
    writer: sample.Writer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Once", "The"])

    def read_line(_: str) -> str:
        if line := next(lines, None):
            return line
        raise EOFError

    def write(prompt: str) -> None:
        sample.say(f"{prompt} ...")
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", read_line)
    monkeypatch.setattr(writer, "write", write)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once\nThe\n")))
    with pytest.raises(KeyboardInterrupt):
        sample.loop(writer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    sample.loop(writer)
    assert capsys.readouterr().out == f"Once ...{sample.HELP}Once ...\nThe ...\n\n"


def test_an_error_does_not_end_the_prompt_loop(
    writer: sample.Writer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["a\udcff", "a\ud800", "/help"])

    def read_line(_: str) -> str:
        if line := next(lines, None):
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read_line)
    sample.ask(writer)
    shown = capsys.readouterr().out
    assert "error: the line is not UTF-8 (byte 0xFF at offset 1); convert" in shown
    assert shown.count("error: ") == 2
    assert shown.endswith(sample.HELP + "\n")


def test_without_stdin(writer: sample.Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="stdin is closed; give --prompt TEXT"):
        sample.loop(writer)


# -- models of other revisions


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: revisions bare, first, main, an experiment and the workspace, in this order.

    From `first` on, each has its own model, made with the seeds 1, 2, ...
    """
    folder = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def git(*arguments: str) -> None:
            subprocess.run(["git", *arguments], check=True, capture_output=True)

        def make(seed: int) -> None:
            make_trained(folder / "made", seed)

        git("init", "--quiet", "--initial-branch=main")
        with Repo.init() as repo:
            make(1)
            shutil.copy("made/params.yaml", PARAMS)
            git("add", "--all")
            git("commit", "--message=bare")
            git("tag", "bare")
            stage = "  {0}:\n    cmd: cp -r made/{1} {1}\n    deps: [made/{1}]\n    outs: [{1}]\n"
            stages = stage.format("train_tokenizer", TOKENIZER) + stage.format("train", MODEL)
            Path("dvc.yaml").write_text(f"stages:\n{stages}", encoding="utf-8")
            Path("models").mkdir()
            for seed, tag in ((1, "first"), (2, "second")):
                make(seed)
                reproduce(repo)
                git("add", "--all")
                git("commit", f"--message={tag}")
                git("tag", tag)
            make(3)
            repo.experiments.run(name="other")
            git("checkout", "--force", "main")
            repo.checkout(force=True)
        shutil.rmtree(MODEL)  # a link into the cache, maybe
        make(4)
        shutil.copytree("made/models/lm", MODEL)
    return folder


@pytest.fixture
def run_there(run: Run, history: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return `run`, in the repository of `history`."""
    monkeypatch.chdir(history)
    return run


def text_of_seed(seed: int, folder: Path) -> str:
    make_trained(folder, seed)
    return texts(folder, "Once upon")[0] + "\n"


@pytest.mark.parametrize(
    ("rev", "seed"),
    [("first", 1), ("HEAD~1", 1), ("main", 2), ("HEAD", 2), ("other", 3), ("", 4)],
)
def test_the_model_of_a_revision(run_there: Run, rev: str, seed: int, tmp_path: Path) -> None:
    """By tag, commit, branch and name of an experiment; without a name that of the workspace."""
    output = run_there("--prompt", "Once upon", *SETTINGS, "--rev", rev)
    assert output == text_of_seed(seed, tmp_path)
    assert output != text_of_seed(seed % 4 + 1, tmp_path)


@pytest.mark.parametrize(
    ("rev", "message"),
    [
        ("nowhere", "unknown Git revision 'nowhere'; `git log` and `dvc exp show` list"),
        ("bare", "has no models/lm; choose one whose dvc.lock"),
        ("HEAD:params.yaml", "this is a file of a revision; give the revision alone"),
    ],
)
def test_a_revision_that_has_no_model(run_there: Run, rev: str, message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: --rev {rev}: {message}"):
        run_there("--prompt", "Once upon", "--rev", rev)


@pytest.mark.parametrize("rev", [":/first", "HEAD@{0}"])
def test_a_revision_with_a_colon_or_braces(run_there: Run, rev: str, tmp_path: Path) -> None:
    """Git's own ways to name a commit: by words of its message, and by what HEAD was."""
    seed = 1 if rev.startswith(":") else 2
    output = run_there("--prompt", "Once upon", *SETTINGS, "--rev", rev)
    assert output == text_of_seed(seed, tmp_path)


def test_a_repository_of_another_user(run_there: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which libgit2 refuses, as in a folder that a container got from its host."""

    def refuse(*_: object, **__: object) -> None:
        raise GitError("repository path '/a/' is not owned by current user")

    monkeypatch.setattr("dvc.api.DVCFileSystem.get", refuse)
    with pytest.raises(SystemExit, match=r"^error: --rev HEAD: .* is not owned by current user; "):
        run_there("--prompt", "Once upon", "--rev", "HEAD")


def test_a_model_that_was_not_kept(
    run_there: Run, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lists or the files are gone; the error is one line."""
    copy = tmp_path / "copy"
    shutil.copytree(history, copy, symlinks=True)
    monkeypatch.chdir(copy)
    kept = [path for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]
    for lost in ([path for path in kept if path.suffix != ".dir"], kept):
        for path in lost:
            path.unlink(missing_ok=True)
        message = r"^error: --rev first: its models/lm is neither in the cache of DVC .* gets it$"
        with pytest.raises(SystemExit, match=message):
            run_there("--prompt", "Once upon", "--rev", "first")


def test_outside_a_repository(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trained(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: --rev main: .*not a git repository"):
        run("--prompt", "Once upon", "--rev", "main")
