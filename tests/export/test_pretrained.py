"""The exported folder in `transformers`, and back."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    MistralForCausalLM,
    Qwen3ForCausalLM,
)

from lmlib.checkpoint import save_model
from lmlib.export import load_pretrained, save_pretrained
from lmlib.export.tokenizer_json import parse_tokenizer_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.patterns import PATTERNS
from tests.export.conftest import (
    SHAPES,
    SPECIAL,
    TEXT,
    WINDOWS,
    make_model,
    make_tokenizer,
)

Pair = tuple[TransformerLM, Tokenizer]
TEXTS = os.environ.get("LMLIB_TEXTS", "")


def greedy(model: TransformerLM, ids: list[int], num_tokens: int) -> list[int]:
    """Return the ids continued with the most likely token, up to the end of the text."""
    ids = list(ids)
    with torch.no_grad():
        for _ in range(num_tokens):
            ids.append(int(model(torch.tensor(ids))[-1].argmax()))
    return ids


@pytest.fixture(params=SHAPES + WINDOWS, ids=lambda shape: "-".join(map(str, shape.values())))
def pair(request: pytest.FixtureRequest) -> Pair:
    """Return a model and its tokenizer, of each shape in turn, with windows too."""
    tokenizer = make_tokenizer(special=SPECIAL)
    return make_model(tokenizer.vocab_size, **request.param), tokenizer


@pytest.fixture
def folder(pair: Pair, tmp_path: Path) -> Path:
    save_pretrained(tmp_path / "hf", *pair)
    return tmp_path / "hf"


def test_logits_and_greedy_ids_equal_transformers(pair: Pair, folder: Path) -> None:
    model, _ = pair
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    is_mistral, is_qwen3 = model.params.attention_window > 0, model.params.qk_norm
    without_norms = MistralForCausalLM if is_mistral else LlamaForCausalLM
    assert type(theirs) is (Qwen3ForCausalLM if is_qwen3 else without_norms)
    assert theirs.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, (3, 32), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=0, atol=1e-4)
    prompt = ids[:1, :5]
    found = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
    )
    assert found[0].tolist() == greedy(model, prompt[0].tolist(), 20)


@pytest.mark.parametrize("tie", [False, True])
def test_logits_equal_transformers_far_into_a_context(tie: bool, tmp_path: Path) -> None:
    """Logits as large as a trained model's, after 1024 tokens: the angles must be the same."""
    tokenizer = make_tokenizer()
    params = ModelParams(1024, 192, num_layers=2, num_heads=4, d_ff=512, tie_embeddings=tie)
    model = TransformerLM(params, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(8 if "ln_final" in name else 2 if "q_proj" in name else 1)
    save_pretrained(tmp_path, model, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, (1, 1024), generator=generator)
    with torch.no_grad():
        logits = model(ids)
        torch.testing.assert_close(logits, theirs(ids).logits, rtol=0, atol=1e-4)
    assert logits.abs().max() > 20


def test_generation_ends_with_the_text(pair: Pair, folder: Path) -> None:
    """No setting is needed: the folder names the token that ends a text."""
    _, tokenizer = pair
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    end_id = tokenizer.special_ids[SEPARATOR]
    uses = theirs.generation_config
    assert (uses.bos_token_id, uses.eos_token_id, uses.pad_token_id) == (end_id,) * 3
    assert theirs.config.eos_token_id == end_id


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\W"])
def test_ids_equal_transformers(pattern: str, tmp_path: Path) -> None:
    ours = make_tokenizer(pattern, SPECIAL)
    save_pretrained(tmp_path, make_model(ours.vocab_size), ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("", TEXT, f"{SEPARATOR}a<a b> b<pad>{SEPARATOR}", "\n  "):
        ids = theirs(text)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids) == text
    assert set(theirs.all_special_tokens) == set(SPECIAL)
    assert theirs.decode(ours.encode("a<a b>b"), skip_special_tokens=True) == "ab"
    assert theirs.eos_token == theirs.pad_token == SEPARATOR
    assert theirs.model_max_length == 32
    batch = theirs(["a", "a b c"], padding=True)
    assert batch["attention_mask"][0][0] == 0  # padded on the left, where text is not continued


@pytest.mark.slow
@pytest.mark.skipif(not TEXTS, reason="LMLIB_TEXTS names no text files (separated as in PATH)")
@pytest.mark.parametrize("path", list(filter(None, TEXTS.split(os.pathsep))))
def test_ids_of_whole_files_equal_transformers(path: str, tmp_path: Path) -> None:
    ours = make_tokenizer()
    save_pretrained(tmp_path, make_model(ours.vocab_size), ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    lines = Path(path).read_bytes().decode("utf-8").splitlines(keepends=True)
    for at in range(0, len(lines), 2000):
        part = "".join(lines[at : at + 2000])
        assert theirs(part)["input_ids"] == ours.encode(part), f"{path}, line {at + 1} on"


def test_without_special_tokens(tmp_path: Path) -> None:
    """Then no token ends a text; Llama's own defaults, 1 and 2, must not either."""
    tokenizer = make_tokenizer(special=())
    save_pretrained(tmp_path, make_model(tokenizer.vocab_size), tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.eos_token_id is theirs.generation_config.eos_token_id is None
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token is None


def files_of(model: TransformerLM, tokenizer: Tokenizer, folder: Path) -> Iterator[bytes]:
    """Yield the content of each file in which this project stores the two."""
    save_model(folder, model)
    tokenizer.save(folder)
    for path in sorted(folder.iterdir()):
        yield path.read_bytes()


@pytest.mark.parametrize("through", ["ours", "transformers", "shards"])
def test_import_gives_the_same_bits(pair: Pair, folder: Path, through: str, tmp_path: Path) -> None:
    """From what we wrote, and from what transformers made of it, in one file or several."""
    if through != "ours":
        theirs, tokenizer = (
            cls.from_pretrained(folder) for cls in (AutoModelForCausalLM, AutoTokenizer)
        )
        folder = tmp_path / "theirs"
        theirs.save_pretrained(folder, max_shard_size="10KB" if through == "shards" else "1GB")
        tokenizer.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists() is (through == "shards")
    back = load_pretrained(folder)
    expected = list(files_of(*pair, tmp_path / "a"))
    assert list(files_of(*back, tmp_path / "b")) == expected
    assert back[0].params == pair[0].params


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\W", PATTERNS["gpt2"].split])
@pytest.mark.parametrize("special", [(), (SEPARATOR,), ("<é>", "<a b>", " t")])
def test_tokenizer_comes_back(pattern: str, special: tuple[str, ...], tmp_path: Path) -> None:
    ours = make_tokenizer(pattern, special)
    ours.save(tmp_path / "a")
    back = parse_tokenizer_json(json.loads((tmp_path / "a/tokenizer.json").read_text()), "t.json")
    back.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_saving_twice_writes_the_same_bytes(pair: Pair, folder: Path, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "again", *pair)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"post_processor": {"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}}, "post"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "pre_tokenizer"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "not a byte-level BPE"),
        ({"pre_tokenizer": None}, "not a byte-level BPE"),
        ({"added_tokens": [{"id": 97.0, "content": "<x>"}]}, "token '<x>' has the id 97.0; an id"),
        ({"added_tokens": [{"id": [1], "content": "<x>"}]}, r"token '<x>' has the id \[1\]; an id"),
        ({"added_tokens": [{"id": 10**12, "content": "<x>"}]}, "token '<x>' has the id 10+; an id"),
        ({"model": {"type": "Unigram", "vocab": []}}, "not a byte-level BPE"),
    ],
)
def test_a_setting_of_another_tokenizer_is_refused(
    changes: dict[str, object], name: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    save_pretrained(tmp_path, make_model(tokenizer.vocab_size), tokenizer)
    edit(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{name}"):
        load_pretrained(tmp_path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; name a folder"):
        load_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.vocab_size)
    save_pretrained(tmp_path, model, tokenizer)
    with pytest.raises(ValueError, match=r"the model knows 9 tokens, the tokenizer \d+"):
        save_pretrained(tmp_path, make_model(9), tokenizer)
    edit(tmp_path / "config.json", intermediate_size=41)
    with pytest.raises(ValueError, match=r"gate_proj\.weight has the shape \(40, 24\); by"):
        load_pretrained(tmp_path)
    edit(tmp_path / "config.json", vocab_size=9)
    with pytest.raises(ValueError, match=r"vocab_size is 9, but tokenizer\.json has"):
        load_pretrained(tmp_path)
    save_pretrained(tmp_path, model, tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: missing; there is no mod"):
        load_pretrained(tmp_path)
    for text, message in (("{", "not valid JSON"), ("[]", "holds a list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path)


WITHOUT_EFFECT = {
    "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
    "normalizer": {"type": "Sequence", "normalizers": []},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}],
    },
    "version": "2.0",
    "truncation": {"max_length": 5},
}


def test_settings_of_a_tokenizer_that_change_no_id(pair: Pair, folder: Path) -> None:
    """As in the tokenizer.json of GPT-2, whose empty prefixes and unknown token do nothing."""
    _, tokenizer = pair
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    model = document["model"] | {
        "dropout": 0.0,
        "unk_token": SEPARATOR,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": True,
    }
    added = [token | {"normalized": True, "special": False} for token in document["added_tokens"]]
    edit(path, model=model, added_tokens=added[::-1], **WITHOUT_EFFECT)
    _, back = load_pretrained(folder)
    assert (back.vocab, back.merges, back.pattern) == (
        *(tokenizer.vocab, tokenizer.merges),
        tokenizer.pattern,
    )
    assert back.special_ids == tokenizer.special_ids


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """An exported model with an index, whose weights are in one file."""
    tokenizer, folder = make_tokenizer(), tmp_path / "sharded"
    save_pretrained(folder, make_model(tokenizer.vocab_size), tokenizer)
    weights = folder / "model.safetensors"
    weights.rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    return folder


def write_map(folder: Path, weight_map: object) -> None:
    edit(folder / "model.safetensors.index.json", weight_map=weight_map)


def test_reads_the_files_of_the_index(sharded: Path) -> None:
    write_map(sharded, {"model.norm.weight": "part.safetensors"})
    load_pretrained(sharded)


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [], "part.safetensors", {"a": 1}, {"a": None}, {"a": ""}, {"a": "\0"}, {"a": ["b"]}],
)
def test_an_index_without_names(sharded: Path, weight_map: object) -> None:
    write_map(sharded, weight_map)
    with pytest.raises(ValueError, match=r"index\.json: has no `weight_map` from weights to the"):
        load_pretrained(sharded)


def test_an_index_without_weight_map(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match=r"index\.json: has no `weight_map`"):
        load_pretrained(sharded)


@pytest.mark.parametrize("way", ["up", "absolute", "link", "link to the folder"])
def test_nothing_outside_of_the_folder_is_read(sharded: Path, way: str) -> None:
    outside = sharded.parent / "outside"
    outside.mkdir()
    (sharded / "part.safetensors").rename(outside / "part.safetensors")
    (sharded / "link").symlink_to(outside / "part.safetensors")
    (sharded / "folder").symlink_to(outside)
    names = {
        "up": "../outside/part.safetensors",
        "absolute": str(outside / "part.safetensors"),
        "link": "link",
        "link to the folder": "folder/part.safetensors",
    }
    write_map(sharded, {"model.norm.weight": names[way]})
    with pytest.raises(ValueError, match=r"is outside of .*sharded, the only place that is read"):
        load_pretrained(sharded)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_link_in_place_of_a_file(sharded: Path, name: str) -> None:
    (sharded / name).rename(sharded.parent / name)
    (sharded / name).symlink_to(sharded.parent / name)
    with pytest.raises(ValueError, match=rf"{name}: is outside of .*sharded, the only place"):
        load_pretrained(sharded)


def test_a_folder_that_is_a_link(sharded: Path) -> None:
    """What it holds is inside of it."""
    write_map(sharded, {"model.norm.weight": "part.safetensors"})
    (sharded.parent / "link").symlink_to(sharded)
    load_pretrained(sharded.parent / "link")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 100_000}, r"the weights have no model\.layers\.2\."),
        ({"num_hidden_layers": 10**12}, r"the weights have no model\.layers\.2\."),
        ({"intermediate_size": 10**12}, r"gate_proj\.weight has the shape \(40, 24\); by"),
        ({"intermediate_size": 10**18}, r"config\.json: d_ff is 10+; it must be from 1 to 10"),
    ],
)
def test_config_is_compared_with_the_weights(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    save_pretrained(tmp_path, make_model(tokenizer.vocab_size), tokenizer)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_angles_stored_by_old_versions_are_ignored(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    save_pretrained(tmp_path, make_model(tokenizer.vocab_size), tokenizer)
    path = tmp_path / "model.safetensors"
    angles = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    save_file(load_file(path) | angles, path)
    load_pretrained(tmp_path)
