"""Let DVC work in a folder whose path has non-ASCII characters.

DVC 3.67 writes its configuration with configobj, which encodes it as ASCII. In such a folder
`dvc exp run --temp`, `dvc queue start` and hence the studies fail with UnicodeEncodeError, because
their temporary copies refer to the cache by its full path. DVC already reads UTF-8.

Writes: dvc_utf8.py, this file, and dvc_utf8.pth, which imports it, among Python's packages.
Run:    make setup   (by hand, in an environment of your own: python -m stages.dvc_utf8)
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class ConfigObjInUtf8:
    """Finds configobj, once, and makes UTF-8 its default encoding."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of configobj; None for other modules, which Python finds itself."""
        if name != "configobj":
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            make = module.ConfigObj.__init__

            def make_in_utf8(self, *args, **options) -> None:
                make(self, *args, **options)
                self.default_encoding = self.default_encoding or "utf-8"

            module.ConfigObj.__init__ = make_in_utf8

        spec.loader.exec_module = run_and_change
        return spec


def main() -> None:
    """Install this module into the environment of the Python that runs it."""
    import shutil  # here: each start of Python imports this module
    import sysconfig
    from pathlib import Path

    packages = Path(sysconfig.get_path("purelib"))
    shutil.copyfile(__file__, packages / "dvc_utf8.py")
    (packages / "dvc_utf8.pth").write_text("import dvc_utf8\n", encoding="utf-8")


if __name__ == "__main__":
    main()
elif __name__ == "dvc_utf8":  # imported at the start of Python, by dvc_utf8.pth
    sys.meta_path.insert(0, ConfigObjInUtf8)
