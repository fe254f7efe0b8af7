"""lmlib/harness/run.py: the harness's scores against log-probabilities of our own model."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# before anything reads them
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch
from lm_eval.tasks import TaskManager

import lmlib.harness
from lmlib.export import save_pretrained
from lmlib.harness import LOCAL_TASKS, stories
from lmlib.harness.run import evaluate_tasks, exported_model, find_tasks, served_model
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from tests.export.conftest import make_model, make_tokenizer
from tests.harness.test_stories import ANN, BEN, MIA, SUE, write

CONTEXT = 32  # of make_model
ASKED = {"stories_ending": stories.ending_questions, "stories_name": stories.name_questions}


@pytest.fixture(scope="module")
def pair() -> tuple[TransformerLM, Tokenizer]:
    tokenizer = make_tokenizer()
    return make_model(tokenizer.vocab_size, qk_norm=True), tokenizer


@pytest.fixture(scope="module")
def exported(
    pair: tuple[TransformerLM, Tokenizer], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("hf ü")
    save_pretrained(folder, *pair)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write(tmp_path, MIA, ANN, BEN, SUE)


def log_probs(model: TransformerLM, tokens: list[int]) -> torch.Tensor:
    """Return log p of the tokens after each position: (positions, vocab)."""
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0].log_softmax(dim=-1)


def our_accuracy(pair: tuple[TransformerLM, Tokenizer], question: dict) -> tuple[bool, bool]:
    """Return acc and acc_norm of a question: the newest CONTEXT tokens are seen."""
    model, tokenizer = pair
    begin = tokenizer.encode(SEPARATOR + question["context"])
    totals = []
    for choice in question["choices"]:
        tokens = tokenizer.encode(SEPARATOR + question["context"] + choice)
        count = len(tokens) - len(begin)
        tokens = tokens[-CONTEXT:]
        scores = log_probs(model, tokens[:-1])
        totals.append(sum(scores[i, tokens[i]].item() for i in range(-count, 0)))
    lengths = [len(choice) for choice in question["choices"]]
    normed = [total / length for total, length in zip(totals, lengths, strict=True)]
    return tuple(
        max((0, 1), key=each.__getitem__) == question["answer"] for each in (totals, normed)
    )


def test_scores_are_those_of_our_model(
    pair: tuple[TransformerLM, Tokenizer], exported: Path, text: Path
) -> None:
    tasks = find_tasks(["stories"], text)
    scores = evaluate_tasks(exported_model(exported, torch.device("cpu"), 3), tasks, None)
    for name, ask in ASKED.items():
        questions = ask(text)
        ours = [our_accuracy(pair, question) for question in questions]
        expected = [sum(each) / len(questions) for each in zip(*ours, strict=True)]
        found = scores.metrics[name]
        assert [found["acc"], found["acc_norm"]] == pytest.approx(expected)
        assert found["documents"] == len(questions)
        assert f"|{name}" in scores.table


def test_an_answer_longer_than_the_context_is_named(exported: Path, tmp_path: Path) -> None:
    """As with `make tiny`, whose context is 32 tokens."""
    text = write(tmp_path, *(f"{story[:-1]}{' and ran' * 40}." for story in (MIA, ANN, BEN, SUE)))
    model = exported_model(exported, torch.device("cpu"), batch_size=2)
    with pytest.raises(ValueError, match=r"^an answer of the tasks has \d+ tokens, and .* sees 31"):
        evaluate_tasks(model, find_tasks(["stories_ending"], text), None)


def test_the_first_questions_alone(exported: Path, text: Path) -> None:
    model = exported_model(exported, torch.device("cpu"), 3)
    scores = evaluate_tasks(model, find_tasks(["stories_name"], text), 2)
    assert scores.metrics.keys() == {"stories_name"}
    assert scores.metrics["stories_name"]["documents"] == 2


@pytest.fixture
def address(pair: tuple[TransformerLM, Tokenizer]) -> Iterator[str]:
    """The address of a server of our model that knows just what the harness asks."""
    model, _ = pair

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            named = {"/v1/models": [{"id": "lm"}], "/nothing/v1/models": []}
            self.answer({"data": named[self.path]})

        def do_POST(self) -> None:
            assert self.path == "/v1/completions"
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (asked["echo"], asked["max_tokens"], asked["logprobs"]) == (True, 1, 1)
            assert asked["model"] == "lm"
            choices = []
            for index, prompt in enumerate(asked["prompt"]):
                assert len(prompt) <= CONTEXT
                scores = log_probs(model, prompt)
                tokens = [*prompt, int(scores[-1].argmax())]
                of_tokens = [scores[i, token].item() for i, token in enumerate(tokens[1:])]
                top = [{"top": row.max().item()} for row in scores]
                found = {"token_logprobs": [None, *of_tokens], "top_logprobs": [None, *top]}
                choices.append({"index": index, "text": "", "logprobs": found})
            self.answer({"choices": choices})

        def answer(self, found: dict[str, object]) -> None:
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_server_of_the_model_has_its_scores(exported: Path, text: Path, address: str) -> None:
    served = evaluate_tasks(served_model(address, exported, 3), find_tasks(["stories"], text), None)
    local = exported_model(exported, torch.device("cpu"), 3)
    assert served.metrics == evaluate_tasks(local, find_tasks(["stories"], text), None).metrics


def test_a_server_without_a_model(exported: Path, address: str) -> None:
    with pytest.raises(ValueError, match=r"/nothing/v1/models names no model; give the address"):
        served_model(f"{address}nothing", exported, 3)


def test_local_tasks_are_those_of_the_folder() -> None:
    folder = Path(lmlib.harness.__file__).with_name("tasks")
    manager = TaskManager(include_path=folder, include_defaults=False)
    assert manager.all_tasks == sorted(LOCAL_TASKS)


@pytest.mark.slow
def test_an_unknown_task_is_named(text: Path) -> None:
    with pytest.raises(ValueError, match=r"^'storys' is not a task of lm-eval, nor one of"):
        find_tasks(["stories", "storys"], text)
