"""The stage `export` with its model card, and the way back, `import_hf`, on tiny files."""

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from lmlib.checkpoint import save_model
from lmlib.files import write_json
from lmlib.model import TransformerLM
from stages import export, import_hf
from stages.paths import (
    EVALUATE_DETAILS,
    EVALUATE_METRICS,
    EXPORTED,
    MODEL,
    TOKENIZER,
    TRAIN_METRICS,
)
from tests.export.conftest import make_model, make_tokenizer
from tests.pipeline.imports import ROOT


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TransformerLM:
    """Return a model, stored with tokenizer and metrics where the pipeline puts them."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(ROOT / name, name)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.vocab_size)
    tokenizer.save(TOKENIZER)
    save_model(MODEL, model)
    write_json(EVALUATE_METRICS, {"loss": 0.5})
    write_json(EVALUATE_DETAILS, {"perplexity": 1.65, "tokens": 1000})
    write_json(TRAIN_METRICS, {"steps": 7, "parameters": model.num_parameters()})
    return model


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_and_the_way_back(model: TransformerLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes each time, and again after importing them into another folder."""
    export.main()
    first = contents(EXPORTED)
    assert sorted(first) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "generation_config.json",
        "model.gguf",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.tiktoken",
        "tokenizer_config.json",
    ]
    (EXPORTED / "left-over").touch()
    export.main()
    assert contents(EXPORTED) == first
    monkeypatch.setattr(sys, "argv", ["import_hf", str(EXPORTED), "--to", "back"])
    import_hf.main()
    for folder in (MODEL, TOKENIZER):
        assert contents(Path("back") / folder.name) == contents(folder)


@pytest.mark.parametrize("blocked", [MODEL.name, TOKENIZER.name])
def test_an_import_that_cannot_be_written_changes_nothing(
    model: TransformerLM, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    """Neither the model nor the tokenizer, whichever of the two has no place."""
    export.main()
    Path("to").mkdir()
    (Path("to") / blocked).touch()
    monkeypatch.setattr(sys, "argv", ["import_hf", str(EXPORTED), "--to", "to"])
    with pytest.raises(NotADirectoryError):
        import_hf.main()
    assert list(contents(Path("to"))) == [blocked]


def test_a_model_with_norms_of_queries_and_keys_becomes_a_qwen3(
    model: TransformerLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(MODEL, make_model(model.vocab_size, qk_norm=True))
    export.main()
    card = ModelCard.load(EXPORTED / "README.md")
    assert "in the architecture of Qwen3: 2 layers" in card.text
    assert card.data.to_dict()["tags"] == ["qwen3", "from-scratch"]
    monkeypatch.setattr(sys, "argv", ["import_hf", str(EXPORTED), "--to", "back"])
    import_hf.main()
    assert contents(Path("back") / MODEL.name) == contents(MODEL)


def test_model_card(model: TransformerLM) -> None:
    export.main()
    card = ModelCard.load(EXPORTED / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["language"] == "en"
    (result,) = data["model-index"][0]["results"]
    found = [(metric["type"], metric["value"]) for metric in result["metrics"]]
    assert found == [("loss", 0.5), ("perplexity", 1.65)]
    assert f"{model.num_parameters():,} weights" in card.text
    assert "| loss (nats per token) | 0.5000 |" in card.text
    assert "in the architecture of Llama: 2 layers" in card.text
    assert data["tags"] == ["llama", "from-scratch"]
    assert "| tokens | 1,000 |" in card.text
    assert "lmlib.toystories" in card.text
    block = card.text.split("```yaml\n")[1].split("```")[0]
    params = yaml.safe_load(block)
    assert params["model"]["d_model"] == 24
    assert params["train"] == yaml.safe_load(Path("params.yaml").read_text("utf-8"))["train"]


def test_the_code_of_the_card_runs(model: TransformerLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where tiktoken has kept another tokenizer under the same path."""
    export.main()
    blocks = (EXPORTED / "README.md").read_text("utf-8").split("```python\n")[1:]
    kept = Path("kept").absolute()
    kept.mkdir()
    (kept / hashlib.sha1(b"tokenizer.tiktoken").hexdigest()).write_bytes(b"YQ== 0\n")
    monkeypatch.chdir(EXPORTED)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(kept))
    names: dict = {}
    for block in blocks:
        code = block.split("```")[0].replace("max_new_tokens=100", "max_new_tokens=2")
        exec(code, names)
    text = "the thing"
    # as in training, where the separator precedes each text
    assert names["prompt"]["input_ids"][0, 0] == names["tokenizer"].eos_token_id
    assert names["encoding"].encode(text) == names["tokenizer"](text)["input_ids"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm", "post"), ("position", "none"), ("ffn", "relu2"), ("logit_softcap", 30.0)],
)
def test_an_ablation_gets_a_readme_that_names_the_parameter(
    model: TransformerLM, name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    params = replace(model.params, **{name: value})
    save_model(MODEL, TransformerLM(params, model.vocab_size))
    export.main()
    assert list(contents(EXPORTED)) == ["README.md"]
    sentence = f"model.{name} is {value}, which the Llama architecture cannot express"
    assert sentence in (EXPORTED / "README.md").read_text("utf-8")
    assert sentence in caplog.text


def test_a_window_makes_a_mistral_without_gguf(
    model: TransformerLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And a group of heads stays one: the way back gives the same bytes."""
    windowed = make_model(model.vocab_size, num_heads=4, num_kv_heads=2, window=5)
    save_model(MODEL, windowed)
    export.main()
    assert "model.gguf" not in contents(EXPORTED)
    card = (EXPORTED / "README.md").read_text("utf-8")
    assert "architecture of Mistral: 2 layers of size 24, 4 attention heads (2 of keys and" in card
    assert "a context of 32, of which each layer sees the last 5 tokens." in card
    assert "There is no GGUF: model.attention_window is 5" in card
    assert "no GGUF: model.attention_window is 5" in caplog.text
    monkeypatch.setattr(sys, "argv", ["import_hf", str(EXPORTED), "--to", "back"])
    import_hf.main()
    assert contents(Path("back") / MODEL.name) == contents(MODEL)


def test_a_pattern_of_ones_own_costs_the_gguf_alone(
    model: TransformerLM, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make_tokenizer(r"\w+|\W")
    tokenizer.save(TOKENIZER)
    save_model(MODEL, make_model(tokenizer.vocab_size))
    export.main()
    assert "model.gguf" not in contents(EXPORTED)
    assert "model.safetensors" in contents(EXPORTED)
    assert "There is no GGUF: tokenizer.pattern" in (EXPORTED / "README.md").read_text("utf-8")
    assert "no GGUF: tokenizer.pattern" in caplog.text


@pytest.mark.parametrize("source", ["tinystories", "owt", "local", "url", "hub"])
def test_every_source_has_words_in_the_card(model: TransformerLM, source: str) -> None:
    params = Path("params.yaml")
    text = params.read_text("utf-8").replace("source: toystories", f"source: {source}")
    params.write_text(text.replace('dataset: ""', "dataset: me/books"))
    export.main()
    card = ModelCard.load(EXPORTED / "README.md")
    assert "Trained from random weights on " in card.text
    assert ("datasets" in card.data.to_dict()) is (source in ("tinystories", "owt", "hub"))
