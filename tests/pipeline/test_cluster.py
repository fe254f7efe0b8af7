"""Which workers texts go to."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from lmlib.corpus import Text
from lmlib.corpus.sources import Source
from lmlib.tokenizer.workers import ProcessExecutor
from stages import cluster
from stages.cluster import LEAST_BYTES, PROCESS_BYTES, workers_for

PACKED = Text("a.parquet", None, None, Source("a.parquet", LEAST_BYTES))
PLAIN = replace(PACKED, name="a.txt", num_bytes=LEAST_BYTES)
SMALL = replace(PACKED, source=Source("b.parquet", LEAST_BYTES // 4))


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "num_cores", lambda: 8)
    monkeypatch.setattr(cluster, "available_bytes", lambda: 5 * PROCESS_BYTES)


@pytest.mark.parametrize(
    ("texts", "number"),
    [
        ([PACKED] * 3, 3),
        ([PACKED] * 30, 5),  # for more there is no memory
        ([SMALL] * 4, 4),
        ([SMALL] * 3, 0),
        ([PACKED], 0),
        ([PLAIN, PACKED, PLAIN], 0),  # threads share the work on plain files
        ([], 0),
    ],
)
def test_packed_files_go_to_a_process_each(texts: list[Text], number: int) -> None:
    with workers_for(texts, None) as executor:
        if not number:
            assert executor is None
        else:
            assert isinstance(executor, ProcessExecutor)
            assert executor._max_workers == number


def test_a_cluster_is_used_where_there_is_one() -> None:
    with ThreadPoolExecutor(1) as of_cluster, workers_for([PACKED] * 3, of_cluster) as executor:
        assert executor is of_cluster
