"""The Markdown files of the repository: links that lead somewhere, and two READMEs that agree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
READMES = ROOT / "README.md", ROOT / "README.zh.md"
TRANSLATED = {"README.md", "README.zh.md"}  # each links the other


def documents() -> list[Path]:
    """Return the Markdown files that people write, without those in environments and outs."""
    folders = [ROOT / name for name in ("lmlib", "stages", "tests")]
    return sorted(ROOT.glob("*.md")) + sorted(p for f in folders for p in f.rglob("*.md"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    shown = [re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in shown}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """To a file or folder of the repository, and to a heading that is there."""
    broken = []
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_both_readmes_have_the_same_commands() -> None:
    """In the same blocks; the comments are in the page's own language."""
    english, chinese = (
        [re.sub(r"\s+# .*", "", block) for block in FENCE.findall(path.read_text(encoding="utf-8"))]
        for path in READMES
    )
    assert english == chinese


def test_both_readmes_have_the_same_numbers() -> None:
    """In each line of a table, and in each text between headings and tables."""
    english, chinese = map(numbers, READMES)
    assert english == chinese


def numbers(path: Path) -> list[list[float]]:
    """Return the numbers of each line of a table, and of each text between, in ascending order.

    Sentences of two languages have them in different places.
    """
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    text = re.sub(r"[`(<]?https?://\S+|\[[^\]]*\]\([^)]*\)", "", text)
    parts = re.split(r"^(?=[#|])", text, flags=re.MULTILINE)
    return [
        sorted(
            float(number.replace(",", "")) * {"万": 1e4, "M": 1e6, "million": 1e6}.get(unit, 1)
            for number, unit in re.findall(
                r"(?<![\w.])(\d[\d,]*(?:\.\d+)?) ?(万|M\b|million)?", part
            )
        )
        for part in parts
    ]


def test_both_readmes_have_the_same_links_and_pictures() -> None:
    """In the same order."""
    english, chinese = (
        [link for link in LINK.findall(path.read_text(encoding="utf-8")) if link not in TRANSLATED]
        for path in READMES
    )
    assert english == chinese


def test_both_readmes_have_the_same_tables() -> None:
    """As many rows, and in each row as many columns and the same code."""

    def rows(path: Path) -> list[tuple[list[str], int]]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
        return [(sorted(re.findall(r"`[^`]+`", line)), line.count("|")) for line in lines]

    english, chinese = map(rows, READMES)
    assert english == chinese


def test_both_readmes_have_the_same_headings() -> None:
    """As many, on the same levels."""
    english, chinese = (
        re.findall(r"^(#+) ", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
        for path in READMES
    )
    assert english == chinese


def test_readme_is_short() -> None:
    """What is longer than a page or two belongs beside the code."""
    assert len(READMES[0].read_text(encoding="utf-8").splitlines()) <= 220
