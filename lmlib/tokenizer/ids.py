"""Token ids and sizes in whatever form a caller has them."""

import operator
from collections.abc import Iterable
from typing import Any


def whole_ids(ids: Iterable[Any], where: str) -> list[int]:
    """Return the ids of a list, an array, a tensor or any iterable as ints.

    Raises ValueError, which begins with `where`, for anything but one row of integers. 97.0 is
    rejected, and so is a masked item.
    """
    of_array: Any = ids
    if getattr(ids, "ndim", 1) != 1:
        raise ValueError(f"{where}: ids has shape {tuple(of_array.shape)}; pass one row at a time")
    items = of_array.tolist() if hasattr(ids, "tolist") else list(ids)
    try:
        return list(map(operator.index, items))
    except TypeError:
        wrong = next(item for item in items if not _is_whole(item))
        raise ValueError(
            f"{where}: {wrong!r:.50} is not a token id; ids are whole numbers"
        ) from None


def _is_whole(item: Any) -> bool:
    try:
        operator.index(item)
    except TypeError:
        return False
    return True


def whole_number(value: Any, name: str) -> int:
    """Return a size as an int; raise ValueError if it is not an integer; 7.0 is rejected."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r:.50}; it should be a whole number") from None
