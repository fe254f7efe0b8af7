"""The model card: the README.md of an exported model, which the Hugging Face Hub shows."""

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from lmlib.export.hf import architecture
from lmlib.export.tiktoken import tiktoken_bpe
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.patterns import find_pattern

Metrics = Mapping[str, Any]

# source -> what the text is, its language and its name on the Hub
_CORPORA = {
    "toystories": ("children's stories made by a grammar, those of `lmlib.toystories`", "en", None),
    "tinystories": (
        "TinyStories, children's stories written by language models (Eldan & Li 2023, "
        "arXiv:2305.07759)",
        "en",
        "roneneldan/TinyStories",
    ),
    "owt": ("OpenWebText, pages that Reddit linked to", "en", "Skylion007/openwebtext"),
    "local": ("text files of our own", None, None),
    "url": ("the text files named below", None, None),
    "hub": ("the files named below of a data set of the Hugging Face Hub", None, None),
}
_HEADLINES = ("loss", "perplexity", "bits_per_byte")
_UNITS = {"loss": "nats per token"}


def model_card(
    name: str,
    model: TransformerLM,
    tokenizer: Tokenizer,
    *,
    params: Mapping[str, Mapping[str, Any]],
    valid_metrics: Metrics,
    train_metrics: Metrics,
    gguf_obstacle: str | None = None,
) -> str:
    """Return the card of a model: what it is, how to load it, what it was made from, its scores.

    `params` are the sections of params.yaml; corpus.source names the text, and ValueError is raised
    if it names none. The licence is left to the publisher.
    """
    shape = model.params
    kind = architecture(shape)
    kv_heads = f" ({shape.kv_heads} of keys and values)" if shape.num_kv_heads else ""
    window = ""
    if shape.attention_window:
        window = f", of which each layer sees the last {shape.attention_window:,} tokens"
    source = params["corpus"].get("source")
    if source not in _CORPORA:
        raise ValueError(f"corpus.source is {source!r:.80}; choose one of {', '.join(_CORPORA)}")
    text, _, _ = _CORPORA[source]
    parts = [
        _front_matter(name, params["corpus"], valid_metrics, kind.model_type),
        f"# {name}",
        f"A language model of {model.num_parameters():,} weights in the architecture of "
        f"{kind.name}: {shape.num_layers} layers of size {shape.d_model}, {shape.num_heads} "
        f"attention heads{kv_heads}, {model.vocab_size:,} tokens, a context of "
        f"{shape.context_length:,}{window}. It continues text; "
        "it follows no instructions, and knows nothing but its training text.",
        "## Use",
        _usage(tokenizer, gguf_obstacle),
        "## Training",
        f"Trained from random weights on {text}. The parameters of the run:",
        _fenced("yaml", _to_yaml({section: dict(values) for section, values in params.items()})),
        "## Results",
        "Of validation text, which training never saw, and of samples: how many of their n-grams "
        "are distinct, how much of them is copied from the training text.",
        _table(valid_metrics),
        "In training:",
        _table(train_metrics),
    ]
    return "\n\n".join(parts) + "\n"


def no_model_card(name: str, obstacle: str) -> str:
    """Return the README.md to write if a model cannot be exported, which says why."""
    return f"# {name}\n\nNothing was exported: {obstacle}.\n"


def _front_matter(name: str, corpus: Mapping[str, Any], metrics: Metrics, model_type: str) -> str:
    """Return the metadata, following the conventions of the Hub."""
    source = corpus["source"]
    _, language, dataset = _CORPORA[source]
    if source == "hub":
        dataset = corpus["dataset"]
    headlines = [
        {"type": key, "name": _label(key), "value": metrics[key]}
        for key in _HEADLINES
        if key in metrics
    ]
    result = {
        "task": {"type": "text-generation"},
        "dataset": {
            "name": f"{source} (validation)",
            "type": dataset or source,
            "split": "validation",
        },
        "metrics": headlines,
    }
    data: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [model_type, "from-scratch"],
        "model-index": [{"name": name, "results": [result]}],
    }
    if language:
        data["language"] = language
    if dataset:
        data["datasets"] = [dataset]
    return f"---\n# license: yours to choose\n{_to_yaml(data)}---"


def _usage(tokenizer: Tokenizer, gguf_obstacle: str | None) -> str:
    start = SEPARATOR if SEPARATOR in tokenizer.special_ids else ""
    loading = _fenced(
        "python",
        f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")  # this folder
tokenizer = AutoTokenizer.from_pretrained(".")
prompt = tokenizer("{start}Once upon a time", return_tensors="pt")
ids = model.generate(**prompt, max_new_tokens=100, do_sample=True, temperature=0.7)
print(tokenizer.decode(ids[0]))
""",
    )
    llama_cpp = "In llama.cpp, and likewise in what is built on it:\n\n" + _fenced(
        "sh", f'llama-completion -m model.gguf -p "{start}Once upon a time" -n 100 -no-cnv\n'
    )
    if gguf_obstacle:
        llama_cpp = f"There is no GGUF: {gguf_obstacle}."
    # tiktoken caches files by their paths: the hash rejects those of an earlier tokenizer
    ranks_sha256 = hashlib.sha256(tiktoken_bpe(tokenizer)).hexdigest()
    tiktoken = _fenced(
        "python",
        f"""import tiktoken
from tiktoken.load import load_tiktoken_bpe

encoding = tiktoken.Encoding(
    "lm",
    pat_str={find_pattern(tokenizer.pattern).split!r},
    mergeable_ranks=load_tiktoken_bpe(
        "tokenizer.tiktoken",
        "{ranks_sha256}",
    ),
    special_tokens={tokenizer.special_ids!r},
)
""",
    )
    end = f"`{SEPARATOR}` stands before each text, and ends it. " if start else ""
    return "\n\n".join(
        [
            loading,
            llama_cpp,
            f"{end}The tokenizer alone, in `tiktoken`, with the same ids:",
            tiktoken,
        ]
    )


def _table(metrics: Metrics) -> str:
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    rows = [f"| {_label(key)} | {_number(value)} |" for key, value in numbers.items()]
    return "\n".join(["| | |", "| --- | ---: |", *rows])


def _label(key: str) -> str:
    unit = next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), None)
    return key.replace("_", " ") + (f" ({unit})" if unit else "")


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}```"


def _to_yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1_000)
