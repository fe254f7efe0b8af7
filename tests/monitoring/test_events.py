"""lmlib/monitoring/tracking/events.py: which lines are events, and in which order journals are."""

import json
from pathlib import Path

import pytest

from lmlib.monitoring.tracking.events import order, parse

OPEN = {
    "kind": "open",
    "time_ms": 1,
    "stage": "train",
    "name": "train-1",
    "experiment": "lm",
    "fingerprint": "a" * 16,
    "parent": None,
    "params": {"optim.lr": "0.1"},
    "tags": {},
    "dataset": {"name": "x", "digest": "d", "source": "x.npy", "context": "training"},
    "system_metrics": False,
}
LOG = {"kind": "log", "time_ms": 1, "step": 1, "metrics": {"a": 1.5, "b": 2}}


@pytest.mark.parametrize("event", [OPEN, LOG, {"kind": "end", "time_ms": 1, "status": "KILLED"}])
def test_an_event_is_what_was_written(event: dict[str, object]) -> None:
    assert parse(json.dumps(event).encode()) == event


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"5", "not an event"),
        (b"null", "not an event"),
        (b'{"kind": ["log"]}', "not an event"),
        (b'{"kind": "lag"}', "not an event"),
        (b'{"kind": "log"', "not valid JSON"),
        (b'{"kind": "l\xff"}', "not valid JSON"),
        (b'{"kind": "l\xed\xa0\x80"}', "not valid JSON"),  # half of a surrogate pair, as bytes
        (b'{"kind": "l\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"kind": "end", "time_ms": 1}', "`end` without `status`"),
        (b'{"kind": "end", "time_ms": 1, "status": "DONE"}', "`end` with a wrong `status`"),
    ],
)
def test_a_line_that_is_no_event(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(line)


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        (LOG, "time_ms", "1"),
        (LOG, "time_ms", 10**400),
        (LOG, "step", 1.5),
        (LOG, "step", True),
        (LOG, "metrics", [1]),
        (LOG, "metrics", {"a": "1"}),
        (LOG, "metrics", {"a": 10**400}),
        (OPEN, "experiment", 1),
        (OPEN, "params", {"a": 1}),
        (OPEN, "tags", None),
        (OPEN, "dataset", {"name": "x"}),
    ],
)
def test_a_field_of_a_wrong_type(event: dict[str, object], field: str, value: object) -> None:
    kind = event["kind"]
    with pytest.raises(ValueError, match=f"`{kind}` with a wrong `{field}`"):
        parse(json.dumps(event | {field: value}).encode())
    with pytest.raises(ValueError, match=f"`{kind}` with"):
        parse(json.dumps({key: event[key] for key in event if key != field}).encode())


def test_journals_are_in_the_order_of_their_numbers() -> None:
    """Not of their text, and names without a number come first."""
    names = ["x.jsonl", "000009-a-1.jsonl", "10-b-1.jsonl", "1764000000000000000-c-1.jsonl"]
    assert sorted(map(Path, reversed(names)), key=order) == [Path(name) for name in names]
