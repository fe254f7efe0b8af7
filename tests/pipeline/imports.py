"""Which modules of the project a module imports, directly or through others."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# These pass values on and report them, but no value in an out comes from them: an edit must not
# retrain, so dvc.yaml does not list them in `deps`.
PLUMBING = (
    "lmlib/__init__.py",
    "lmlib/cluster.py",
    "lmlib/errors.py",
    "lmlib/memory.py",
    "lmlib/places.py",
    "lmlib/plan.py",
    "lmlib/redaction.py",
    "lmlib/states.py",
    "lmlib/store.py",
    "lmlib/threads.py",
    "lmlib/monitoring/",
    "stages/__init__.py",
    "stages/artefacts.py",
    "stages/cli.py",
    "stages/cluster.py",
    "stages/cores.py",
    "stages/fingerprint.py",
    "stages/parent.py",
    "stages/paths.py",
    "stages/stage_run.py",
    "stages/uncaught.py",
    "stages/watching.py",
)


def modules_behind(module: Path) -> set[str]:
    """Return the files, relative to the root, whose change can change what `module` computes.

    Imports inside functions count. `module` is relative to the root, and in the result.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path.as_posix() in found or path.as_posix().startswith(PLUMBING):
            continue
        found.add(path.as_posix())
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                # `from lmlib import toystories` names a module, `from lmlib.data import x` may not
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Constant) and (package := as_package(node.value)):
                names = [package, *modules_in(package)]  # load_kernels("lmlib.optim.kernels")
            else:
                continue
            waiting += [file for name in names for file in _files_of(name)]
    return found


def as_package(value: object) -> str:
    """Return a constant that names a module of lmlib, which is loaded by name; else ""."""
    is_name = isinstance(value, str) and value.startswith("lmlib.") and _files_of(value)[1:]
    return str(value) if is_name else ""


def modules_in(package: str) -> list[str]:
    """Return the names of the modules of a package; none for a module."""
    folder = ROOT / Path(*package.split("."))
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py"))]


def _files_of(name: str) -> list[Path]:
    """Return the project's files that `import name` runs: packages on the way, and the module."""
    parts = name.split(".")
    if parts[0] not in ("lmlib", "stages"):
        return []
    files = [Path(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    files.append(Path(*parts).with_suffix(".py"))
    return [file for file in files if (ROOT / file).is_file()]


def modules_of(dep: str) -> set[str]:
    """Return the modules that a dep of dvc.yaml covers: itself, or all of a package."""
    path = ROOT / dep
    if path.is_dir():
        return {file.relative_to(ROOT).as_posix() for file in path.rglob("*.py")}
    return {dep} if path.suffix == ".py" else set()
