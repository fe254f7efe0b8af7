"""How to score the trained model, by what it was trained on."""

from lmlib.data import Windows
from lmlib.params import read_section
from stages.paths import PARAMS


def windows_to_score(windows: Windows) -> Windows:
    """Return `windows`, or `isolated` if `train.windows` is: such a model never saw two documents.

    In windows of several its scores would say nothing about how well it predicts each of them.
    """
    return "isolated" if read_section(PARAMS, "train").get("windows") == "isolated" else windows
