"""lmlib/monitoring/tracking/serving.py: the model as MLflow serves it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmlib.checkpoint import load_model
from lmlib.params import load_params
from lmlib.sampling import SamplingParams, generate_text
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from stages.paths import MODEL, PARAMS, TOKENIZER
from tests.pipeline.imports import ROOT
from tests.pipeline.trained import make_trained

PREDICT = f"""
import json, sys
from pandas import DataFrame
from mlflow.pyfunc.model import PythonModelContext
from lmlib.monitoring.tracking.serving import TextGenerator

config, prompts, params = json.loads(sys.argv[1])
context = PythonModelContext({{"model": "{MODEL}", "tokenizer": "{TOKENIZER}"}}, config)
served = TextGenerator()
served.load_context(context)
print(json.dumps(served.predict(context, DataFrame({{"prompt": prompts}}), params)))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make_trained(folder)
    return folder


def served(
    folder: Path, config: SamplingParams, prompts: list[str], params: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Return what a process did that serves the model once."""
    arguments = json.dumps([dataclasses.asdict(config), prompts, params])
    return subprocess.run(
        [sys.executable, "-c", PREDICT, arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def texts_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def ours(folder: Path, prompts: list[str], params: SamplingParams) -> list[str]:
    model, tokenizer = load_model(folder / MODEL), Tokenizer.load(folder / TOKENIZER)
    return [first for (first,) in generate_text(model, tokenizer, prompts, params)]


@pytest.mark.slow
def test_special_tokens_in_a_prompt_are_text_unless_allowed(trained: Path) -> None:
    params = load_params(trained / PARAMS, "sampling", SamplingParams)
    prompts = [f"Once{SEPARATOR}The"]
    texts = []
    for allowed in (params.allow_special, True):
        chosen = dataclasses.replace(params, max_tokens=12, temperature=1.0, allow_special=allowed)
        texts += texts_of(served(trained, chosen, prompts))
        expected = dataclasses.replace(chosen, allow_special=len(texts) > 1)
        assert texts[-1:] == ours(trained, prompts, expected)
    assert texts[0] != texts[1]


def test_params_of_a_call_go_before_those_of_the_model(trained: Path) -> None:
    """None is one that was not given, as MLflow passes it."""
    params = load_params(trained / PARAMS, "sampling", SamplingParams)
    prompts = ["Once upon", "The dog"]
    given = {"temperature": 0.9, "top_p": 0.8, "max_tokens": 9, "seed": 5, "top_k": None}
    changed = {name: value for name, value in given.items() if value is not None}
    expected = ours(trained, prompts, dataclasses.replace(params, **changed))
    assert texts_of(served(trained, params, prompts, given)) == expected


@pytest.mark.slow
def test_a_param_out_of_range_is_named(trained: Path) -> None:
    params = load_params(trained / PARAMS, "sampling", SamplingParams)
    done = served(trained, params, ["Once"], {"temperature": -1.0})
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "mlflow.exceptions.MlflowException: params: temperature is -1.0; it must"
    )


def test_params_of_the_signature_are_the_numbers_of_sampling() -> None:
    """With their types; but one text is returned for each prompt."""
    code = "import json; from lmlib.monitoring.tracking.serving import *; print(json.dumps(PARAMS))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    values = dataclasses.asdict(load_params(ROOT / PARAMS, "sampling", SamplingParams))
    kinds = {int: "long", float: "double"}
    numbers = {name: kinds[type(x)] for name, x in values.items() if type(x) in kinds}
    assert json.loads(done.stdout) == {x: numbers[x] for x in numbers if x != "num_samples"}
    assert done.stderr == b""  # no advice from MLflow about type hints
