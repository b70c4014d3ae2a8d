"""Text that others wrote, for a terminal or a report."""

import re

# Control characters, line and paragraph ends, changes of direction, and bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    r"""A name on one line; what could move a terminal's cursor or hide text becomes ``\x1b``.

    Example:
        >>> shown("cat\x1b[2J.png"), shown("Käfer 甲虫.png")
        ('cat\\x1b[2J.png', 'Käfer 甲虫.png')
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_lines(text: str) -> str:
    """Lines of text, each as `shown` gives it."""
    return "\n".join(map(shown, text.split("\n")))
