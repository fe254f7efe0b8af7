"""No secret of an address remains in a text that is shown or kept."""

import logging
import sys

import pytest

from lmlib.redaction import RedactingFormatter, has_secret, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a.txt", "https://host/a.txt"),
        ("http://me:pw@host:80/a", "http://***@host:80/a"),
        ("http://me@host", "http://***@host"),
        ("http://me:p@w@host/a", "http://***@host/a"),
        ("HTTPS://u:p@h", "HTTPS://***@h"),
        ("s3://bucket/a?versionId=T", "s3://bucket/a?versionId=***"),
        ("https://h/a?X-Amz-Signature=a%2Fb&x=1#f", "https://h/a?X-Amz-Signature=***&x=***#***"),
        ("https://h/a?TOKEN", "https://h/a?***"),
        ("https://h/a#TOKEN", "https://h/a#***"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+psycopg2://***@h/db"),
        ("http://me:p%40w/x#y@host/a", "http://***@host/a"),
        ("http://me:8x?y/@host", "http://***@host"),
        ("http://h:80/a@b, http://h:80", "http://h:80/a@b, http://h:80"),
        ("https://h/a@b", "https://h/a@b"),
        ("http://[::1]:80/a?t=T", "http://[::1]:80/a?t=***"),
        ("zip://a.txt::https://u:p@h/a.zip?t=T", "zip://a.txt::https://***@h/a.zip?t=***"),
        ("get 'http://u:p@h/x?t=1': not found", "get 'http://***@h/x?t=***': not found"),
        ("https://a:b@c, https://d:e@f", "https://***@c, https://***@f"),
        ("[https://h/a?t=T], [s3://b/a?t=T#f], x", "[https://h/a?t=***], [s3://b/a?t=***#***], x"),
        ("{a: https://h/a?t=T], b: 1}", "{a: https://h/a?t=***], b: 1}"),
        ("https://h/a?t=T]#T, b", "https://h/a?t=***#***, b"),
        ("https://h/a?t=T],T", "https://h/a?t=***"),
        ("no address: me@host, a?b=c, x#y", "no address: me@host, a?b=c, x#y"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown
    assert has_secret(text) == (text != shown)


def test_log_records_and_their_tracebacks() -> None:
    try:
        raise ValueError("http://u:PW@h/?t=T")
    except ValueError:
        record = logging.LogRecord(
            "lmlib", logging.INFO, "", 1, "at %s", ("ftp://u:PW@h",), sys.exc_info()
        )
    text = RedactingFormatter("%(message)s").format(record)
    assert text.startswith("at ftp://***@h\nTraceback")
    assert "ValueError: http://***@h/?t=***" in text
    assert "PW" not in text
