"""Sections of a YAML file as dataclasses: every mistake is named with file, section and key."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pytest
from ruamel.yaml import YAML

from lmlib.params import (
    Count,
    CountOrZero,
    Fraction,
    FractionAboveZero,
    FractionBelowOne,
    Positive,
    PositiveOrInfinite,
    PositiveOrZero,
    Seed,
    check_bounds,
    from_dict,
    load_params,
)
from lmlib.tokenizer import TokenizerParams
from stages.parameters import SECTIONS

PARAMS = Path(__file__).parent.parent / "params.yaml"


@dataclass(frozen=True)
class Example:
    steps: int
    lr: float
    on: bool
    kind: Literal["fast", "slow", 1]
    names: tuple[str, ...]
    betas: tuple[float, float]
    limit: int | None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be at least 0")


GIVEN: dict[str, Any] = {
    "steps": 3,
    "lr": 0.5,
    "on": True,
    "kind": "fast",
    "names": ["a", "b"],
    "betas": [0.9, 0.95],
    "limit": None,
}


def example(**changes: Any) -> Example:
    return from_dict(Example, GIVEN | changes, where="p.yaml: example")


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Rate:
    lr: float


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-05", 1e-5), ("3e-4", 3e-4), ("3.0e-3", 3e-3), ("1", 1.0), ("10_000.0", 1e4)],
)
def test_numbers_as_yaml_1_2_writes_them(tmp_path: Path, text: str, value: float) -> None:
    """`1e-05` is what `dvc exp run -S optim.lr=1e-5` writes; YAML 1.1 reads it as a string."""
    rate = load_params(write(tmp_path, f"optim:\n  lr: {text}\n"), "optim", Rate)
    assert rate.lr == value
    assert type(rate.lr) is float


def test_infinity(tmp_path: Path) -> None:
    assert load_params(write(tmp_path, "optim: {lr: .inf}"), "optim", Rate).lr == float("inf")


def test_on_and_off_are_texts(tmp_path: Path) -> None:
    """YAML 1.1 reads them as booleans; train.compile is `on` or `off`."""

    @dataclass(frozen=True)
    class Switch:
        compile: str

    path = write(tmp_path, "train: {compile: on}")
    assert load_params(path, "train", Switch).compile == "on"


def test_values_of_every_kind() -> None:
    assert example() == Example(3, 0.5, True, "fast", ("a", "b"), (0.9, 0.95), None)
    assert example(limit=7).limit == 7
    assert example(kind=1).kind == 1
    assert example(names=[]).names == ()
    assert example(betas=[0, 1]).betas == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 3.0}, "steps is the value 3.0; it should be a whole number"),
        ({"steps": True}, "steps is the value True; it should be a whole number"),
        ({"steps": None}, "steps is the value None; it should be a whole number"),
        (
            {"steps": "3"},
            "steps is the text '3'; it should be a whole number; write the number without quotes",
        ),
        ({"steps": "many"}, "steps is the text 'many'; it should be a whole number"),
        ({"lr": True}, "lr is the value True; it should be a number"),
        (
            {"lr": "1e-3"},
            "lr is the text '1e-3'; it should be a number; write the number without quotes",
        ),
        ({"on": 1}, "on is the value 1; it should be true or false"),
        ({"kind": "medium"}, "kind is 'medium'; choose one of fast, slow, 1"),
        ({"kind": True}, "kind is True; choose one of fast, slow, 1"),
        ({"names": "a"}, "names is the text 'a'; it should be a list, each item a text"),
        ({"names": [1]}, "names is the value 1; it should be a text"),
        ({"betas": [0.9]}, "betas is [0.9]; it should be a list of 2 values"),
        ({"limit": 0.5}, "limit is the value 0.5; it should be a whole number or null"),
    ],
)
def test_mistyped_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"p.yaml: example.{message}")):
        example(**changes)


def test_unknown_key_names_the_known_ones() -> None:
    message = (
        "p.yaml: example.stesp is unknown; the keys here are "
        "steps, lr, on, kind, names, betas, limit"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        example(stesp=1)


def test_missing_key_says_what_to_add() -> None:
    values = {key: value for key, value in GIVEN.items() if key != "betas"}
    message = "p.yaml: example.betas is missing; add it (a list, each item a number)"
    with pytest.raises(ValueError, match=exactly(message)):
        from_dict(Example, values, where="p.yaml: example")


def test_a_field_with_a_default_is_still_required() -> None:
    """A file shows every value that is used."""

    @dataclass(frozen=True)
    class Defaulted:
        eps: float = 1e-5

    with pytest.raises(ValueError, match=r"^f\.eps is missing; add it \(a number\)$"):
        from_dict(Defaulted, {}, where="f")


def test_contradictory_values_are_said_to_be_where_they_stand() -> None:
    with pytest.raises(ValueError, match=r"^p\.yaml: example: steps is -1; it must be at least 0$"):
        example(steps=-1)


@pytest.mark.parametrize("values", [[1, 2], "steps", 3, None])
def test_something_else_than_keys_and_values(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^f: holds .*; it should hold keys and values$"):
        from_dict(Rate, values, where="f")


@pytest.mark.parametrize("text", ["model: {}", "optim:", "optim: 3"])
def test_missing_section(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ValueError, match=r"params\.yaml: section `optim` is missing; it holds keys and"
    ):
        load_params(write(tmp_path, text), "optim", Rate)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params\.yaml: no such file; run from the root"):
        load_params(tmp_path / "params.yaml", "optim", Rate)


@pytest.mark.parametrize("text", ["optim: {lr: 1", "optim:\n  lr: 1\n  lr: 2\n", "a\tb: ["])
def test_invalid_yaml(tmp_path: Path, text: str) -> None:
    """This includes a repeated key, whose first value would be lost silently."""
    with pytest.raises(ValueError, match=r"params\.yaml: not valid YAML: "):
        load_params(write(tmp_path, text), "optim", Rate)


@pytest.mark.parametrize("section", SECTIONS)
def test_params_yaml_loads_and_shows_every_field(section: str) -> None:
    """Each key is a field and each field a key; no value changes its meaning."""
    params = load_params(PARAMS, section, SECTIONS[section])
    values = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))[section]
    assert set(values) == {field.name for field in fields(SECTIONS[section])}
    assert json.loads(json.dumps(asdict(params))) == values


def test_params_yaml_has_no_other_section() -> None:
    assert set(YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))) == set(SECTIONS)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", {"num_heads": 5}, ", not divisible by num_heads 5"),
        ("model", {"d_model": 18}, "RoPE rotates pairs and needs an even size"),
        ("tokenizer", {"vocab_size": 256}, "vocab_size is 256; 256 bytes and 1 special tokens"),
        ("optim", {"lr": 0.0}, "lr is 0.0; it must be from 1e-30 to 1e30"),
        ("optim", {"schedule": "cosinus"}, "choose one of cosine, linear, wsd, constant"),
        ("train", {"batch_size": 0}, "batch_size is 0; it must be from 1 to 10"),
        ("train", {"compile": True}, "choose one of auto, on, off, graphs"),
        ("corpus", {"source": "wikipedia"}, "choose one of toystories, tinystories, owt, local"),
        ("evaluation", {"stride": 0}, "stride is 0; it must be from 1 to 10"),
        ("sampling", {"top_p": 0.0}, "top_p is 0.0; it must be from 1e-30 to 1"),
    ],
)
def test_contradictions_in_params_yaml(section: str, change: dict[str, Any], message: str) -> None:
    values = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))[section] | change
    where = f"params.yaml: {section}"
    with pytest.raises(ValueError, match=rf"^{where}.*{re.escape(message)}"):
        from_dict(SECTIONS[section], values, where=where)


# -- bounds


@dataclass(frozen=True)
class Bounded:
    count: Count = 1
    count_or_zero: CountOrZero = 0
    positive: Positive = 1.0
    positive_or_zero: PositiveOrZero = 0.0
    fraction: Fraction = 0.0
    below_one: FractionBelowOne = 0.0
    above_zero: FractionAboveZero = 1.0
    hinted: Annotated[PositiveOrInfinite, ".inf: none"] = 1.0

    def __post_init__(self) -> None:
        check_bounds(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count is 0; it must be from 1 to 10"),
        ({"count_or_zero": -1}, "count_or_zero is -1; it must be from 0 to 10"),
        ({"positive": 0.0}, "positive is 0.0; it must be from 1e-30 to 1e30"),
        ({"positive_or_zero": -0.5}, "positive_or_zero is -0.5; it must be 0, or from 1e-30"),
        ({"fraction": 1.5}, "fraction is 1.5; it must be in [0, 1]"),
        ({"below_one": 1.0}, "below_one is 1.0; it must be in [0, 1)"),
        ({"above_zero": 0.0}, "above_zero is 0.0; it must be from 1e-30 to 1"),
        ({"hinted": -1.0}, "hinted is -1.0; it must be from 1e-30 to 1e30, or .inf (.inf: none)"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_bound(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Bounded(**changes)


@pytest.mark.parametrize(
    "name", ["positive", "positive_or_zero", "fraction", "below_one", "above_zero", "hinted"]
)
def test_nan_is_out_of_all_bounds(name: str) -> None:
    changes: dict[str, Any] = {name: math.nan}
    with pytest.raises(ValueError, match=rf"^{name} is nan; it must be "):
        Bounded(**changes)


def test_values_at_their_bounds_are_allowed() -> None:
    assert Bounded(fraction=1.0, hinted=math.inf).count == 1


def test_bounds_are_not_part_of_what_a_file_must_hold() -> None:
    """`from_dict` sees the plain types, in its conversions and in its messages."""
    values = {field.name: field.default for field in fields(Bounded)} | {"positive": 2}
    assert from_dict(Bounded, values, where="f").positive == 2.0
    with pytest.raises(ValueError, match=r"^f\.count is the value 1\.5; it should be a whole n"):
        from_dict(Bounded, values | {"count": 1.5}, where="f")


NUMBERS = [
    pytest.param(section, name, hint, id=f"{section}.{name}")
    for section, cls in SECTIONS.items()
    if section != "corpus"  # which of its numbers count depends on the source
    for name, hint in get_type_hints(cls, include_extras=True).items()
    if re.search(r"\b(int|float)\b", str(hint))
]


@pytest.mark.parametrize(("section", "name", "hint"), NUMBERS)
def test_no_number_is_without_limits(section: str, name: str, hint: Any) -> None:
    """One beyond them is refused by its key and its range before any work, in each section."""
    values = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))[section]
    is_whole = "int" in str(hint)
    beyond = [10**400, 10**30, -1] if is_whole else [math.nan, -math.inf, -1.0, -(10**400)]
    if name != "max_grad_norm" and not is_whole:
        beyond += [math.inf, 10**400, 1e31, 10**5000]
    for value in beyond:
        listed = [value, 0.5] if name == "betas" else value
        with pytest.raises(ValueError, match=rf"^p: {name} is .{{1,100}}; it must be .*\d"):
            from_dict(SECTIONS[section], values | {name: listed}, where="p")


@pytest.mark.parametrize("digits", [80, 400, 5000])
def test_a_huge_number_is_shown_short(tmp_path: Path, digits: int) -> None:
    """Python itself refuses to write one of more than 4,300 digits."""
    path = write(tmp_path, f"model: {{count: 0x{'f' * digits}}}")

    @dataclass(frozen=True)
    class Counted:
        count: str

    with pytest.raises(ValueError, match=r"params\.yaml: model\.count is the value .{1,100}; it "):
        load_params(path, "model", Counted)


def test_seeds_at_their_bounds() -> None:
    @dataclass(frozen=True)
    class Seeded:
        seed: Seed

        def __post_init__(self) -> None:
            check_bounds(self)

    assert from_dict(Seeded, {"seed": 2**63 - 1}, "f").seed == 2**63 - 1
    with pytest.raises(ValueError, match=r"^f: seed is 9223372036854775808; it must be from 0 to"):
        from_dict(Seeded, {"seed": 2**63}, "f")


def test_half_of_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(
        ValueError, match=r"names is the text 'a\\ud800', whose character 1 is half"
    ):
        example(names=["a\ud800"])


@pytest.mark.parametrize("pattern", ["cl100k_base", "GPT2", "o200k_base", "gpt-4", "", "(?r)a+"])
def test_a_pattern_is_checked_with_the_other_parameters(pattern: str) -> None:
    values = {"vocab_size": 300, "special_tokens": [], "pattern": pattern, "sample_bytes": 0}
    with pytest.raises(ValueError, match=r"^p: pattern .*(gpt2, cl100k, o200k|write it without)"):
        from_dict(TokenizerParams, values, where="p")


@pytest.mark.parametrize("value", [3.0, "3", None, 1e400])
def test_a_whole_number_given_by_code_is_one(value: Any) -> None:
    @dataclass(frozen=True)
    class Sizes:
        steps: Annotated[Count, "of a run"]

    with pytest.raises(ValueError, match=r"steps is .*; it must be a whole number \(of a run\)"):
        check_bounds(Sizes(value))
    check_bounds(Sizes(3))
