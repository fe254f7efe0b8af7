"""What `dvc plots` draws, in a browser that reaches no network."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.browser import open_browser
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline
TITLES_AND_AXES = {
    "Training and validation loss": ("step", "loss (nats per token)"),
    "Gradient norm": ("step", "gradient norm before clipping"),
    "Learning rate": ("step", "learning rate"),
    "Validation loss, estimated during training": ("step", "loss (nats per token)"),
    "Validation loss by position in the context": ("tokens of context", "loss (nats per token)"),
    "Lengths of the tokens in the vocabulary": ("length (bytes)", "tokens"),
}


@pytest.fixture(scope="module")
def lab(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone that has the library which draws, and a second tokenizer on a branch."""
    lab = project.clone(tmp_path_factory.mktemp("plots") / "clone")
    lab.run("python", "-m", "stages.vega")
    lab.run("git", "checkout", "--quiet", "-b", "small")
    lab.set_params({"tokenizer.vocab_size": "300"})
    lab.run("dvc", "repro", "train_tokenizer")
    lab.run("git", "commit", "--quiet", "--all", "--message=small")
    lab.run("git", "checkout", "--quiet", "main")
    lab.run("dvc", "checkout", "--quiet")
    return lab


def draw(lab: Project, profile: Path, *command: str) -> list[str]:
    """Return the labels of all parts of the charts on the page that a command of DVC writes."""
    page = lab.run("dvc", "plots", *command).strip().splitlines()[-1]
    drawn = f"document.querySelectorAll('svg.marks').length == {len(TITLES_AND_AXES)}"
    labels = "[...document.querySelectorAll('[aria-label]')].map(part => part.ariaLabel)"
    with open_browser(profile, offline=True) as browser:
        browser.open(page)
        browser.wait_for(drawn)
        return browser.value(labels)


def test_every_chart_has_a_title_and_units(lab: Project, tmp_path: Path) -> None:
    labels = draw(lab, tmp_path, "show")
    titles = [label for label in labels if label.startswith("Title text")]
    assert sorted(titles) == sorted(f"Title text '{title}'" for title in TITLES_AND_AXES)
    for axis in (0, 1):
        drawn = Counter(re.findall(rf"{'XY'[axis]}-axis titled '([^']*)'", "\n".join(labels)))
        assert drawn == Counter(axes[axis] for axes in TITLES_AND_AXES.values())


def test_charts_show_the_numbers_of_the_files(lab: Project, tmp_path: Path) -> None:
    """Tokens of each length, shortest first; both losses, told apart, on one chart."""
    labels = draw(lab, tmp_path, "show")
    lines = (lab.folder / "models/plots/token_lengths.csv").read_text().split()[1:]
    bars = [
        (length, tokens)
        for label in labels
        for length, tokens in re.findall(r"length \(bytes\): (\d+); tokens: (\d+)", label)
    ]
    assert bars == [tuple(line.split(",")) for line in lines]
    assert [int(length) for length, _ in bars] == sorted(int(length) for length, _ in bars)
    assert sum(int(tokens) for _, tokens in bars) == 512 - 1  # all but the special token
    for name in ("train.csv", "valid.csv"):
        assert [label for label in labels if f"filename: {name}" in label]


def test_diff_draws_both_revisions(lab: Project, tmp_path: Path) -> None:
    labels = draw(lab, tmp_path, "diff", "main", "small")
    for rev, vocab_size in (("main", 512), ("small", 300)):
        counts = [
            int(count)
            for label in labels
            for count in re.findall(rf"\(bytes\): \d+; tokens: (\d+); rev: {rev}$", label)
        ]
        assert sum(counts) == vocab_size - 1
