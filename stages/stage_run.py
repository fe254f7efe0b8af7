"""The MLflow run of a stage."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from lmlib.monitoring.tracking import Run, flatten, open_run
from stages.fingerprint import fingerprint
from stages.paths import root, spool_folder


def stage_run(
    stage: str, sections: Mapping[str, Any] | None = None, **options: Any
) -> AbstractContextManager[Run]:
    """Open the run of a stage, found by its fingerprint; `options` are those of `open_run`.

    `sections` are the sections of params.yaml that it records, as dataclasses or mappings.
    """
    return open_run(
        stage,
        fingerprint(stage),
        root=root(),
        spool=spool_folder(),
        params=flatten(sections or {}),
        **options,
    )
