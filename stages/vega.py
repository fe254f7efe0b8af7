"""Write the library that draws DVC's plots next to the pages, so that they need no network.

Writes: dvc_plots/vega.js: Vega, Vega-Lite and Vega-Embed, as bundled in vl-convert.
Run:    make plots   (by hand, from the repository root: python -m stages.vega)
"""

import vl_convert

from lmlib.files import write_atomically
from stages.cli import run_stage
from stages.paths import VEGA


def main() -> None:
    """Extract the library from vl-convert."""
    write_atomically(VEGA, vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").encode())


if __name__ == "__main__":
    run_stage(main)
