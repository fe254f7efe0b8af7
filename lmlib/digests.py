"""The digests that travel with artefacts: SHA256SUMS, in each folder, as `sha256sum` writes it.

A file with a flipped bit, or emptied, or of another artefact, is refused where it is used.
"""

from pathlib import Path

from lmlib.files import read_text, sha256_file, sync, write_atomically

SUMS = "SHA256SUMS"


def write_digests(folder: str | Path, *names: str) -> None:
    """Record the digests of files in a folder, once their content is on disk."""
    folder = Path(folder)
    for name in names:
        sync(folder / name)
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names]
    write_atomically(folder / SUMS, "".join(lines).encode())


def check_digests(folder: str | Path, *names: str) -> None:
    """Raise ValueError, naming the file, if one of `names` is not what `write_digests` recorded.

    A folder without SHA256SUMS, such as one that another program wrote, is not checked.
    """
    folder = Path(folder)
    try:
        lines = read_text(folder / SUMS).splitlines()
    except FileNotFoundError:
        return
    known = {line[66:]: line[:64] for line in lines}
    for name in names:
        path = folder / name
        if not path.is_file():
            continue  # whoever reads it says what is missing
        if name not in known:
            raise ValueError(f"{folder / SUMS}: has no digest of {name}; one of them is damaged")
        if sha256_file(path) != known[name]:
            raise ValueError(
                f"{path}: damaged, or changed since it was written: {SUMS} has another digest; "
                f"restore it, or delete {folder / SUMS} to use the file as it is"
            )
