"""Show text of others without obeying it."""

import re

# C0 and C1 but tab and newline, line and paragraph separators, and what changes the direction
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]")


def visible(text: str) -> str:
    r"""Return the text with control characters spelt out, as \x1b or \u202e: to show, not to obey.

    Tabs and newlines stay.
    """

    def spelt(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return CONTROLS.sub(spelt, text)
