"""The parts of the benchmark that say who was right and who was faster."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import bench_tokenizer
from tests.benchmarks.contest import ContenderError, Contest, Score, Worker, difference
from tests.benchmarks.job import END, Job
from tests.benchmarks.report import table
from tests.benchmarks.texts import write_shuffled
from tests.benchmarks.timing import Spread

DOCUMENTS = ["One fish.", "Zwei Fische, schön!", "\n\n  3 fish  \r\n", "魚が四匹"]


def test_spread_by_hand() -> None:
    assert Spread.of([3.0, 1.0, 8.0, 2.0]) == Spread(median=2.5, low=1.0, high=8.0)


def test_ratio_is_theirs_by_ours_of_the_same_turn() -> None:
    """A turn in which ours made no second call has no ratio, least of all to an earlier one."""
    theirs = Score("peer")
    for ours_s, their_s in ((1.0, 2.0), (None, 7.0), (10.0, 5.0)):
        theirs.add(their_s, ours_s)
    assert theirs.ratios == [2.0, 0.5]


def test_difference_names_the_first_place() -> None:
    ours = np.array([5, 6, 7, 8])
    assert not difference(ours, ours.astype(np.uint16))
    assert "place 2 on: 9, ours 7; 4 in all, ours 4" in difference(ours, np.array([5, 6, 9, 8]))
    assert "place 3 on: the end, ours 8; 3 in all" in difference(ours, ours[:3])


def test_difference_shows_tokens_as_bytes() -> None:
    ours = np.array([token.hex() for token in (b" t", b"he", b" the")])
    text = difference(ours, ours[[1, 0, 2]])
    assert text == "differs from place 0 on: 'he', ours ' t'; 3 of 3 in common"


def test_table_by_hand() -> None:
    rows = [{"task": "train", "result": Spread(1.0, 0.5, 12.34)}, {"task": "x", "remark": "no"}]
    assert table(rows).splitlines() == [
        "| task  | result              | remark |",
        "| ----- | ------------------- | ------ |",
        "| train | 1.00 (0.50 to 12.3) |        |",
        "| x     |                     | no     |",
    ]


def test_a_grown_corpus_has_whole_documents_in_new_orders(tmp_path: Path) -> None:
    corpus, grown = tmp_path / "corpus.txt", tmp_path / "grown.txt"
    corpus.write_bytes(END.join(DOCUMENTS).encode())
    write_shuffled(str(corpus), 2000, grown)
    assert 1900 < grown.stat().st_size <= 2000
    *documents, end = grown.read_bytes().decode().split(END)
    assert not end
    rounds = [documents[at : at + 4] for at in range(0, len(documents) - 3, 4)]
    assert all(sorted(order) == sorted(DOCUMENTS) for order in rounds)
    assert len(set(map(tuple, rounds))) > 1


def test_ours_and_a_peer_give_the_same_ids(tmp_path: Path) -> None:
    """tiktoken and tokenizers are in the development environment, too."""
    words = ["", "fish", "fishes", "42", "schön", "'ll\n"]
    text = "".join(random.Random(0).choices([*words, " ", "\n", END, *DOCUMENTS], k=2000))
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(text.encode())
    job = Job(
        task="train",
        corpus=str(corpus),
        vocab_size=300,
        tokenizer=str(tmp_path / "tokenizer"),
        tokens=str(tmp_path / "tokens.npy"),
        num_threads=2,
    )
    contest = Contest(sys.executable, 1, tmp_path, ["tiktoken", "tokenizers"])
    (ours, peer), _ = contest.first_calls(job, ["tokenizers"])
    assert ours.peaks_mb[0] > 0
    assert not peer.error
    encode = Job(**{**vars(job), "task": "encode_file"})
    _, *peers = contest.first_calls(encode, ["tiktoken", "tokenizers"])[0]
    assert [(score.error, score.difference) for score in peers] == [("", ""), ("", "")]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (
            ["--tasks", "train", "encode_file", "encode_cl100k", "fresh", "startup"],
            ["load kernels", "second call", "pattern of cl100k", "process: the whole process"],
        ),
        (["--growth", "--tasks", "train", "encode_file"], ["train_bpe, 1 MB", "encode_file, 1 MB"]),
        (["--odd", "--tasks", "encode_file"], ["MB of prose", "1 MB of digits"]),
    ],
)
def test_each_mode_prints_its_rows(
    mode: list[str],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(END.join(DOCUMENTS * 10), encoding="utf-8")
    monkeypatch.setattr(bench_tokenizer, "GROWTH_MB", {1: []})
    monkeypatch.setattr("tests.benchmarks.texts.ODD_BYTES", 1_000_000)
    for name in set(bench_tokenizer.ODD_TEXTS) - {"prose", "digits"}:
        monkeypatch.delitem(bench_tokenizer.ODD_TEXTS, name)
    few = ["--vocab-size", "270", "--repeats", "1", "--peers", sys.executable, "--against", "--"]
    monkeypatch.setattr(sys, "argv", ["bench", *mode, *few, str(corpus)])
    bench_tokenizer.main()
    printed = capsys.readouterr().out
    assert "failed" not in printed
    assert all(words in printed for words in expected)


def test_what_a_peer_lacks_is_its_error(tmp_path: Path) -> None:
    job = Job("train", str(tmp_path), 300, str(tmp_path), str(tmp_path), 1)
    with (
        Worker("tiktoken", sys.executable) as worker,
        pytest.raises(ContenderError, match="tiktoken, 'prepare': KeyError"),
    ):
        worker.ask("prepare", job=vars(job))


def test_a_dead_peer_is_told_by_its_last_words() -> None:
    with (
        Worker("tiktoken", "/bin/false") as worker,
        pytest.raises(ContenderError, match="ended with status 1 in 'run': it said nothing"),
    ):
        worker.ask("run")
