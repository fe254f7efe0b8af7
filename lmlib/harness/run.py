"""The harness by its Python interface: a model, tasks by name, and the scores.

A document begins with <|endoftext|>, as in training, so each context does: tasks do not write it.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
import transformers
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from lmlib.harness import LOCAL_TASKS

# it warns of each task's defaults, and of arguments that tasks may take
logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)

_HFLM: Any = HFLM  # its decorator hides what it takes


@dataclass(frozen=True)
class Scores:
    """What the harness measured.

    table:    its own table, in Markdown
    metrics:  of each task: acc, acc_stderr and whatever else it has; `documents`: how many it asked
    """

    table: str
    metrics: dict[str, dict[str, float]]


def exported_model(folder: Path, device: torch.device, batch_size: int) -> LM:
    """Return the model that `save_pretrained` wrote to `folder`, in float32."""
    transformers.logging.disable_progress_bar()
    return _Exported(
        pretrained=str(folder),
        device=str(device),
        batch_size=batch_size,
        add_bos_token=True,
        # the context and a choice then have as many tokens as a server takes in a prompt
        max_length=_context_length(folder) - 1,
    )


class _Exported(_HFLM):
    """A model of `transformers` that says so if a task needs a longer context than it has."""

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **options: Any) -> Any:
        longest = max((len(answer) for _, _, answer in requests), default=0)
        if longest > self.max_length:
            raise ValueError(
                f"an answer of the tasks has {longest} tokens, and the model sees {self.max_length}"
                " at a time; train one with a larger model.context_length, or choose other --tasks"
            )
        return super()._loglikelihood_tokens(requests, *args, **options)


def served_model(address: str, folder: Path, batch_size: int) -> LM:
    """Return the model behind `address`/v1/completions, with the tokenizer of `folder`.

    It is the first of `address`/v1/models. The server must return the log-probabilities of a prompt
    (`echo`) given as token ids.

    Raises requests.RequestException if the server does not answer, ValueError if it names no model.
    """
    address = address.rstrip("/")
    models = requests.get(f"{address}/v1/models", timeout=60)
    models.raise_for_status()
    try:
        name = models.json()["data"][0]["id"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{address}/v1/models names no model; give the address of a server of OpenAI's API"
        ) from error

    completions: Any = LocalCompletionsAPI
    model = completions(
        base_url=f"{address}/v1/completions",
        model=name,
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
        add_bos_token=True,
        max_length=_context_length(folder) + 1,  # it keeps one for the token that is generated
        max_retries=1,
    )
    # its own does not add the first token
    model.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, add_bos_token=True)
    return model


def _context_length(folder: Path) -> int:
    return transformers.AutoConfig.from_pretrained(folder).max_position_embeddings


def find_tasks(names: Sequence[str], text: Path) -> Any:
    """Return the tasks, groups and tags of these names, with their data.

    text: what the local tasks ask about

    Raises ValueError for a name that is unknown, and ConnectionError if the data are on the Hugging
    Face Hub, which cannot be reached.
    """
    manager = TaskManager(
        include_path=Path(__file__).with_name("tasks"),
        include_defaults=not set(names) <= set(LOCAL_TASKS),  # thousands, which take seconds
        metadata={"text": str(text)},
    )
    for name in names:
        if name not in manager.task_index:
            raise ValueError(
                f"{name!r} is not a task of lm-eval, nor one of {', '.join(LOCAL_TASKS)}; "
                "`lm-eval ls tasks` lists them"
            )
    return manager.load(list(names))


def evaluate_tasks(model: LM, tasks: Any, limit: int | None) -> Scores:
    """Return the scores of a model on tasks from `find_tasks`.

    limit: how many questions of each task, from the first on; None: all

    The number of examples in a prompt is that of the task.
    """
    for task in tasks["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    found: Any = evaluator.evaluate(
        model, tasks, limit=limit, log_samples=False, bootstrap_iters=1000
    )
    return Scores(make_table(found), {name: _metrics(found, name) for name in found["results"]})


def _metrics(found: Any, task: str) -> dict[str, float]:
    """Return the numbers of a task; those of another filter than the default get its name."""
    metrics: dict[str, float] = {}
    for key, value in found["results"][task].items():
        name, _, of_filter = key.partition(",")
        # groups have blanks, and JSON has no NaN
        if of_filter and isinstance(value, int | float) and math.isfinite(value):
            metrics[name if of_filter == "none" else f"{name}_{of_filter}"] = value
    if task in found["n-samples"]:  # a group has none of its own
        metrics["documents"] = found["n-samples"][task]["effective"]
    return metrics
