"""Names that others chose, on a terminal."""

import pytest

from bcl.core.text import shown, shown_lines


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a b/\udcff.jpg", "a b/\\udcff.jpg"),
        ("\x1b]0;title\x07.png", "\\x1b]0;title\\x07.png"),
        ("a\r\nb", "a\\r\\nb"),
        ("gpj\u202e.png", "gpj\\u202e.png"),
        ("\x9b2J", "\\x9b2J"),
        ("Käfer 甲虫 🐜 א", "Käfer 甲虫 🐜 א"),
    ],
)
def test_names_cannot_move_a_cursor(name, safe):
    assert shown(name) == safe
    assert shown(name).isprintable()


def test_lines_stay_lines():
    assert shown_lines("one\ntwo\x1b[1A") == "one\ntwo\\x1b[1A"
