"""Files that are written whole or not at all, and hashes of files."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file so that after a crash it is whole or as before; make its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105  # the atomic rename, under its usual name


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON, whole or not at all; make the file's folder."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8"))


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
