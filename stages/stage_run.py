"""The MLflow run of a stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lmlib.monitoring.tracking import Run, flatten, open_run
from stages.artefacts import producing
from stages.fingerprint import fingerprint
from stages.paths import root, spool_folder


@contextmanager
def stage_run(
    stage: str, sections: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Run]:
    """Open the run of a stage, found by its fingerprint, in which the stage makes its outs.

    `sections` are the sections of params.yaml that it records, as dataclasses or mappings; the
    `options` are those of `open_run`. Raises ValueError as `producing` does.
    """
    with (
        producing(stage),
        open_run(
            stage,
            fingerprint(stage),
            root=root(),
            spool=spool_folder(),
            params=flatten(sections or {}),
            **options,
        ) as run,
    ):
        yield run
