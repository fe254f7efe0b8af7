"""DVC's configuration in UTF-8."""

import subprocess
import sys
from pathlib import Path

from tests.pipeline.imports import ROOT

WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "taught":
    import dvc_utf8
from configobj import ConfigObj
written = ConfigObj({"cache": {"dir": "/home/jürgen/.dvc/cache"}})
with open("config", "wb") as file:
    written.write(file)
print(ConfigObj("config") == written, ConfigObj(encoding="latin-1").encoding)
"""


def written(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    """Write and read a configuration in a Python without this environment's dvc_utf8."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.append({packages!r})\n{WRITE}"]
    return subprocess.run(
        [*command, str(ROOT / "stages"), how], cwd=folder, capture_output=True, text=True
    )


def test_a_path_beyond_ascii_is_written_and_read(tmp_path: Path) -> None:
    done = written(tmp_path, "taught")
    assert done.stdout == "True latin-1\n", done.stderr
    assert "jürgen" in (tmp_path / "config").read_text(encoding="utf-8")


def test_configobj_still_needs_to_be_taught(tmp_path: Path) -> None:
    """If this fails, stages/dvc_utf8.py can be removed."""
    assert "UnicodeEncodeError" in written(tmp_path, "untaught").stderr
