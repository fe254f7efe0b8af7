"""Identify a file by its first bytes, and refuse what is not text."""

import re

HEAD_BYTES = 1 << 16  # how much of a file is examined

# how a file begins, what it is, and what to do with it
_BEGINNINGS = (
    (rb"\x1f\x8b", "gzip", "end its name with .txt.gz or .jsonl.gz"),
    (rb"PAR1\W", "parquet", "end its name with .parquet"),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32", "convert it: `iconv -f UTF-32 -t UTF-8`"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16", "convert it: `iconv -f UTF-16 -t UTF-8`"),
    (rb"version https://git-lfs\.", "a git-lfs pointer", "run `git lfs pull`"),
    (rb"/annex/objects/", "a git-annex pointer", "run `git annex get`"),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive", "unpack it"),
    (rb"BZh[1-9]1AY&SY", "bzip2", "unpack it: `bunzip2`"),
    (rb"\xfd7zXZ\0", "xz", "unpack it: `unxz`"),
    (rb"\x28\xb5\x2f\xfd", "Zstandard", "unpack it: `unzstd`"),
    (rb"\x04\x22\x4d\x18", "lz4", "unpack it: `unlz4`"),
    (rb"\x1f\x9d", "compress", "unpack it: `uncompress`"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (rb"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (rb"%PDF-", "PDF", "extract its text: `pdftotext`"),
    (rb"\{\\rtf", "RTF", "save it as plain text"),
    (
        rb"(?is)(\xef\xbb\xbf|\s|<\?xml[^>]*>|<!--.*?-->)*+<(!doctype\s+html|html[\s>])",
        "a web page (HTML)",
        "check its address, or save its text",
    ),
    (rb"(?s).*?\0", "binary or UTF-16 (it has NUL bytes)", "convert it to UTF-8 text"),
    (rb"", "text", "give it the right name"),
)
_NAMES = {"text": "plain text", "gzip": "gzip data", "parquet": "a parquet file"}


def check_kind(head: bytes, expected: str, where: str) -> None:
    """Raise ValueError if a file that begins with `head` is not text, gzip or parquet, as expected.

    `head` has the first HEAD_BYTES; an empty file passes as any kind. Text is a file of no other
    kind and without NUL bytes; it need not be valid UTF-8.
    """
    kind, advice = next((k, a) for pattern, k, a in _BEGINNINGS if re.match(pattern, head))
    if head and kind != expected:
        raise ValueError(
            f"{where} is {_NAMES.get(kind, kind)}, not {_NAMES[expected]}; {advice}, or leave it "
            "out"
        )
