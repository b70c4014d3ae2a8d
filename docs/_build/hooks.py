"""Build hooks of the site: figures from results, formulas as MathML, links to files."""

import html
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_build"))

from figures import expand  # noqa: E402

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_WHOLE = re.compile(r'--8<-- "([A-Z]+\.md)"')
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in figures, and turn links to files that are not part of the site into their paths."""
    if include := _WHOLE.fullmatch(markdown.strip()):  # its links are those of the top level
        text = (ROOT / include[1]).read_text(encoding="utf-8")
        markdown = text.replace("](docs/", "](").replace("](../", "](")
    markdown = expand(markdown)
    folder = posixpath.dirname(page.file.src_uri)

    def inside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which does not exist")
        return match[1] if match[1].strip("`") == target else f"{match[1]} (`{target}`)"

    return _LINK.sub(inside, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Render the formulas, which arithmatex left as LaTeX, as MathML."""
    content = _BLOCK.sub(lambda match: _mathml(match[1], "block"), content)
    return _INLINE.sub(lambda match: _mathml(match[1], "inline"), content)


def _mathml(latex: str, display: str) -> str:
    latex = html.unescape(latex).strip()
    if "\\\\" in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    # Only an operator name places subscripts correctly; \text would treat it as a word.
    latex = re.sub(r"\\mathrm\{(softmax|softmin)\}", r"\\operatorname{\1}", latex)
    math = convert(latex, display=display)
    label = html.escape(" ".join(latex.split()), quote=True)
    math = math.replace("<math ", f'<math alttext="{label}" ', 1)
    return f'<div class="formula">{math}</div>' if display == "block" else math


@event_priority(-100)  # when the search plugin has written its index
def on_post_build(config: Any, **_: Any) -> None:
    """Write the search index as a script too: a page from disk may load a script, but not JSON."""
    index = Path(config["site_dir"]) / "search" / "search_index.json"
    content = index.read_text(encoding="utf-8")
    index.with_suffix(".js").write_text(f"var __index = {content}\n", encoding="utf-8")
