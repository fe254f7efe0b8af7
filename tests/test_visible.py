"""lmlib/visible.py: control characters are shown."""

from lmlib.visible import visible


def test_control_characters_are_spelt_out() -> None:
    assert visible("a\x00\x1b[31m\x7f\x85\x9b\r\n\tb") == r"a\x00\x1b[31m\x7f\x85\x9b\x0d" "\n\tb"
    assert visible("\u202ea\u2066\u200f\u061c\u2028\u2029") == (
        r"\u202ea\u2066\u200f\u061c\u2028\u2029"
    )
    others = "é中👩\u200d👧 \u00a0\u0301 \\x1b"
    assert visible(others) == others
