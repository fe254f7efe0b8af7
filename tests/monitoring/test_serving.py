"""lmlib/monitoring/tracking/serving.py: the model as MLflow serves it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

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
from mlflow.pyfunc.model import PythonModelContext
from lmlib.monitoring.tracking.serving import TextGenerator

config, prompts = json.loads(sys.argv[1])
context = PythonModelContext({{"model": "{MODEL}", "tokenizer": "{TOKENIZER}"}}, config)
served = TextGenerator()
served.load_context(context)
print(json.dumps(served.predict(context, prompts)))
"""


def test_special_tokens_in_a_prompt_are_text_unless_allowed(tmp_path: Path) -> None:
    make_trained(tmp_path)
    model, tokenizer = load_model(tmp_path / MODEL), Tokenizer.load(tmp_path / TOKENIZER)
    params = load_params(tmp_path / PARAMS, "sampling", SamplingParams)
    prompts = [f"Once{SEPARATOR}The"]
    texts = []
    for allowed in (params.allow_special, True):
        chosen = dataclasses.replace(params, max_tokens=12, temperature=1.0, allow_special=allowed)
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, json.dumps([dataclasses.asdict(chosen), prompts])],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        texts += json.loads(done.stdout.splitlines()[-1])
        expected = dataclasses.replace(chosen, allow_special=len(texts) > 1)
        assert [texts[-1:]] == generate_text(model, tokenizer, prompts, expected)
    assert texts[0] != texts[1]
