"""Sections of params.yaml as frozen dataclasses.

The file is read as YAML 1.2 with ruamel.yaml, which DVC writes it with. YAML 1.1 readers such as
PyYAML read `1e-05`, which is what `dvc exp run -S optim.lr=1e-5` writes, as a string.

The type of a field says which values it allows, and `check_bounds` in `__post_init__` enforces it:

    num_steps: Count
    temperature: Annotated[PositiveOrZero, "0: the most likely token"]   # ends the error message

The limits are wide: they only keep out what overflows, or turns into 0, in float32 or int64. What
does not fit into memory is refused where it is used.
"""

import math
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from lmlib.files import read_yaml

T = TypeVar("T")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


@dataclass(frozen=True)
class Bound:
    """The values that a field allows: in words, and as a function."""

    text: str
    allows: Callable[[Any], bool]


# every comparison with NaN is false, so each bound excludes it
Count = Annotated[int, Bound("from 1 to 10**12", lambda n: 1 <= n <= 10**12)]
CountOrZero = Annotated[int, Bound("from 0 to 10**12", lambda n: 0 <= n <= 10**12)]
Seed = Annotated[int, Bound("from 0 to 2**63 - 1", lambda n: 0 <= n < 1 << 63)]
Positive = Annotated[float, Bound("from 1e-30 to 1e30", lambda x: 1e-30 <= x <= 1e30)]
PositiveOrZero = Annotated[
    float, Bound("0, or from 1e-30 to 1e30", lambda x: x == 0 or 1e-30 <= x <= 1e30)
]
PositiveOrInfinite = Annotated[
    float, Bound("from 1e-30 to 1e30, or .inf", lambda x: 1e-30 <= x <= 1e30 or x == math.inf)
]
Fraction = Annotated[float, Bound("in [0, 1]", lambda x: 0 <= x <= 1)]
FractionBelowOne = Annotated[float, Bound("in [0, 1)", lambda x: 0 <= x < 1)]
FractionAboveZero = Annotated[float, Bound("from 1e-30 to 1", lambda x: 1e-30 <= x <= 1)]


def check_bounds(params: Any) -> None:
    """Raise ValueError for the first field of a dataclass whose value is out of bounds."""
    for name, hint in typing.get_type_hints(type(params), include_extras=True).items():
        value, notes = getattr(params, name), getattr(hint, "__metadata__", ())
        advice = "".join(f" ({note})" for note in notes if isinstance(note, str))
        for bound in notes:
            if not isinstance(bound, Bound):
                continue
            kind = hint.__origin__
            # code may give any type; a section of params.yaml has been converted
            if kind is int and not isinstance(value, int):
                raise ValueError(f"{name} is {shown(value)}; it must be a whole number{advice}")
            if not bound.allows(value):
                raise ValueError(f"{name} is {shown(value)}; it must be {bound.text}{advice}")


def load_params(path: str | Path, section: str, cls: type[T]) -> T:
    """Return `section` of the YAML file `path` as the dataclass `cls`.

    Raises ValueError, naming file, section and key, for an unknown or missing key, a value of the
    wrong type, or one that `cls.__post_init__` rejects; FileNotFoundError if there is no file.
    """
    values = read_section(path, section)
    return from_dict(cls, values, where=f"{path}: {section}")


def read_section(path: str | Path, section: str) -> dict[str, Any]:
    """Return `section` of the YAML file `path` unchecked.

    Raises ValueError if there is none, FileNotFoundError if there is no file.
    """
    sections = read_yaml(path, missing="no such file; run from the root of the repository")
    if not isinstance(values := sections.get(section), dict):
        raise ValueError(f"{path}: section `{section}` is missing; it holds keys and values")
    return values


def from_dict(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Return the dataclass `cls` made from `values`; errors begin with `where`.

    Every field must be given, even if it has a default, so that a file shows all values in use.
    """
    if not isinstance(values, dict):  # JSON may hold anything
        raise ValueError(f"{where}: holds {shown(values)}; it should hold keys and values")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            name = key if isinstance(key, str) and len(key) <= 80 else shown(key)
            raise ValueError(f"{where}.{name} is unknown; the keys here are {', '.join(known)}")
    for name in known:
        if name not in values:
            raise ValueError(f"{where}.{name} is missing; add it ({_type_name(hints[name])})")
    converted = {
        key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()
    }
    try:
        return cls(**converted)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return `value` converted to the type `hint`; raise ValueError if it has another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        for choice in args:
            try:
                return _convert(value, choice, where)
            except ValueError:
                continue
    elif origin is typing.Literal:
        # `in` alone would accept True for 1
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise ValueError(f"{where} is {shown(value)}; choose one of {', '.join(map(str, args))}")
    elif origin is tuple and isinstance(value, list | tuple):
        if args[-1] is Ellipsis:
            return tuple(_convert(item, args[0], where) for item in value)
        if len(args) == len(value):
            return tuple(_convert(v, a, where) for v, a in zip(value, args, strict=True))
        raise ValueError(f"{where} is {shown(value)}; it should be a list of {len(args)} values")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf  # as for 1e400
    elif hint is type(None) and value is None:
        return None
    elif isinstance(hint, type) and hint is not float and type(value) is hint:
        if isinstance(value, str):
            _check_text(value, where)
        return value
    kind = "the text" if isinstance(value, str) else "the value"
    advice = ""
    if isinstance(value, str) and _is_number(value):
        advice = "; write the number without quotes"
    raise ValueError(f"{where} is {kind} {shown(value)}; it should be {_type_name(hint)}{advice}")


def _check_text(text: str, where: str) -> None:
    """Raise ValueError for half of a surrogate pair, which no UTF-8 can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} is the text {shown(text)}, whose character {error.start} is half of a "
            "surrogate pair; write the whole character"
        ) from error


def shown(value: Any) -> str:
    """Return a value for an error message, shortened if it is long, deep or a huge number."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        return f"a list, each item {_type_name(args[0])}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(arg) for arg in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return names.get(hint, "null" if hint is type(None) else getattr(hint, "__name__", str(hint)))
