"""Hide the secrets in addresses, wherever a text with addresses is shown or kept."""

import logging
import re

from lmlib.visible import visible

HIDDEN = "***"

_ADDRESS = re.compile(
    r"""
    (?P<scheme>\b[a-z][a-z0-9+.-]{0,30}://)
    (?P<user>[^\s/?\#"'<>`]*@                      # a password may hold / ? and #: no port looks so
      | [^\s/?\#"'<>`@:\[]*:(?!:|\d*(?:[/?\#\s"'<>`\],)}]|::|$))[^\s"'<>`]*@)?
    (?P<place>(?:(?!::[a-z][a-z0-9+.-]*://)[^\s?\#"'<>`])*)  # fsspec joins addresses with ::
    (?P<query>\?[^\s\#"'<>`]*?)?
    (?P<fragment>\#[^\s"'<>`]*?)?
    (?=[\],)}]{0,8}(?:[\s"'<>`]|::|$))          # brackets at its end belong to the text around it
    """,
    re.IGNORECASE | re.VERBOSE,
)
_VALUE = re.compile(r"(?<=[?&;])(?P<name>[^=&;]*=)?(?P<value>[^&;]+)")


def redact(text: str) -> str:
    """Return a text with `***` for what is secret in the addresses (URLs) within it.

    That is the user name and the password, the values of the query, and the fragment:
    `https://me:pw@host/a.txt?token=T#part` becomes `https://***@host/a.txt?token=***#***`.
    """
    return _ADDRESS.sub(_hide, text)


def _hide(found: re.Match[str]) -> str:
    hidden = found["scheme"] + (f"{HIDDEN}@" if found["user"] else "") + found["place"]
    if found["query"]:
        hidden += _VALUE.sub(lambda value: (value["name"] or "") + HIDDEN, found["query"])
    if found["fragment"]:
        hidden += f"#{HIDDEN}"
    return hidden


def has_secret(address: str) -> bool:
    """Return whether an address has parts that `redact` hides."""
    return redact(address) != address


class RedactingFormatter(logging.Formatter):
    """Format log records, tracebacks included, without secrets in addresses or control characters.

    A name of a file, for example, may have both.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return visible(redact(super().format(record)))
