"""The events of a journal: their fields, and how a line is read.

A journal is a file of JSON lines named NUMBER-FINGERPRINT-PID.jsonl. Journals are sent in the order
of their numbers, because clocks can be set back. One that cannot be sent as it is gets the ending
DAMAGED: it stays in the spool, and only `replay` tries it again.
"""

import json
from pathlib import Path
from typing import Any

DAMAGED = ".damaged"
RETRY = "python -m stages.sync_tracking"  # the command that calls `replay`
STATUSES = ("FINISHED", "FAILED", "KILLED")

_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "open": {
        "stage": (str,),
        "name": (str,),
        "experiment": (str,),
        "fingerprint": (str,),
        "parent": (str, type(None)),
        "params": (dict,),
        "tags": (dict,),
        "dataset": (dict, type(None)),
        "system_metrics": (bool,),
    },
    "log": {"step": (int,), "metrics": (dict,)},
    "summary": {"metrics": (dict,), "on_parent": (bool,)},
    "non_finite": {"name": (str,), "step": (int, type(None))},
    "artifact": {"path": (str,), "folder": (str,), "on_parent": (bool,)},
    "model": {
        "model": (str,),
        "tokenizer": (str,),
        "sampling": (dict,),
        "bits_per_byte": (int, float, type(None)),
        "on_parent": (bool,),
    },
    "end": {"status": (str,)},
}
_OF_ITEMS = {"params": (str,), "tags": (str,), "dataset": (str,), "metrics": (int, float)}
_DATASET = {"name", "digest", "source", "context"}


def parse(line: bytes) -> dict[str, Any]:
    """Return the event in a line; raise ValueError with what is wrong with it."""
    try:
        event = json.loads(line.decode("utf-8"))
        json.dumps(event, ensure_ascii=False).encode("utf-8")  # no store holds half of a character
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    kind = event.get("kind") if isinstance(event, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError("not an event")
    for name, types in {"time_ms": (int,), **_FIELDS[kind]}.items():
        if name not in event:
            raise ValueError(f"`{kind}` without `{name}`")
        value = event[name]
        items = value.values() if isinstance(value, dict) else ()
        is_right = type(value) in types and all(
            type(item) in _OF_ITEMS.get(name, (type(item),)) for item in items
        )
        # no store has larger numbers
        if not is_right or any(type(x) is int and abs(x) >= 2**63 for x in (value, *items)):
            raise ValueError(f"`{kind}` with a wrong `{name}`: {value!r:.80}")
    if kind == "open" and event["dataset"] and event["dataset"].keys() != _DATASET:
        raise ValueError("`open` with a wrong `dataset`")
    if kind == "end" and event["status"] not in STATUSES:
        raise ValueError(f"`end` with a wrong `status`: {event['status']!r:.80}")
    return event


def order(path: Path) -> tuple[int, str]:
    """Return what journals are sorted by: the number in the name, then the name."""
    number = path.name.partition("-")[0]
    return (int(number) if number.isdecimal() and len(number) < 30 else 0, path.name)
