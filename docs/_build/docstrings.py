"""Prepare docstrings for the site: formulas and references."""

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).resolve().parents[1] / "api"


@cache
def documented() -> dict[str, str]:
    """Every name by which a docstring may mention something in the API reference.

    Returns:
        Full names, and their last parts where those are unique, to the full name.
    """
    found = re.findall(
        r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in PAGES.glob("*.md")), re.M
    )
    names = {name: name for name in found}
    last: dict[str, list[str]] = {}
    for name in found:
        last.setdefault(name.rpartition(".")[2], []).append(name)
    names.update({short: full[0] for short, full in last.items() if len(full) == 1})
    return names


def for_the_site(text: str) -> str:
    """Rewrite reST formulas for arithmatex, and link names that are in the reference.

    Example:
        >>> for_the_site("with :math:`x`")
        'with \\\\(x\\\\)'
    """
    text = re.sub(
        r"^( *)\.\. math::[ ]?(.*(?:\n(?:\1 +\S.*|[ ]*))*)", _block, text, flags=re.MULTILINE
    )
    text = re.sub(
        r"^Example:$", "Examples:", text, flags=re.MULTILINE
    )  # a section that griffe knows
    text = re.sub(r":math:`([^`]+)`", lambda m: rf"\({m[1]}\)", text)

    def link(match: re.Match[str]) -> str:
        name = match[1]
        full = documented().get(name) or documented().get(name.rpartition(".")[2])
        if full is None or not _same(name, full):
            return match[0]
        return f"[`{name}`][{full}]"

    return re.sub(r"(?<![`\w])`([A-Za-z_][\w.]*)`(?!`)", link, text)


def _same(name: str, full: str) -> bool:
    """Whether a dotted name means the documented one: same top package, same last part."""
    parts, whole = name.split("."), full.split(".")
    return len(parts) == 1 or (parts[0] == whole[0] and parts[-1] == whole[-1])


def _block(match: re.Match[str]) -> str:
    indent, body = match[1], match[2]
    first, _, rest = body.partition("\n")
    lines = textwrap.dedent(rest).strip("\n").splitlines()
    formula = " ".join(line.strip() for line in [first, *lines] if line.strip())
    return f"{indent}\\[{formula}\\]\n\n"  # a paragraph of its own


class SiteDocstrings(griffe.Extension):
    """Rewrites every docstring once, after it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = for_the_site(obj.docstring.value)
