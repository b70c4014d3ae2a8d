"""The documentation: complete, true about names and commands, and without a network at view time.

`make docs` builds the site with warnings as errors; here is what a build does not notice.
"""

import importlib
import json
import re
import sys
from keyword import iskeyword
from pathlib import Path

import pytest

from bcl.cli import COMMANDS
from bcl.configuration import config_names

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")
}
SITE = ROOT / "site"


def entries():
    pages = "\n".join(text for name, text in PAGES.items() if name.startswith("api/"))
    return re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)


def documented():
    return set(entries())


def test_nothing_stands_twice_in_reference_or_navigation():
    found = entries()
    assert sorted(found) == sorted(set(found))
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = re.findall(r"([\w/-]+\.md)$", nav, re.MULTILINE)
    assert sorted(pages) == sorted(PAGES)


@pytest.mark.parametrize("package", ["bcl", "cacr", "datamodules"])
def test_every_public_name_is_in_the_reference(package):
    names = importlib.import_module(package).__all__
    assert names
    assert {f"{package}.{name}" for name in names} <= documented()


@pytest.mark.parametrize("package", ["bcl.augment", "bcl.learners", "bcl.evaluation"])
def test_public_names_of_the_rooms_are_in_the_reference(package):
    module = importlib.import_module(package)
    own = {n for n, value in vars(module).items() if n[0] != "_" and type(value) is not type(sys)}
    names = getattr(module, "__all__", None) or own
    short = {name.rpartition(".")[2] for name in documented()}
    exempt = {"OPS", "POLICIES", "RULES"}  # plain tables, which the guide has
    assert set(names) - exempt - short == set()


def test_commands_configurations_and_options_in_the_pages_exist():
    text = "\n".join(PAGES.values())
    for command in re.findall(r"^(?:    )?bcl (\w+)", text, re.MULTILINE):
        assert command in COMMANDS, command
    for name in re.findall(r"--config ([\w/]+)(?=[\s`])", text):
        assert name in config_names() or name == "my", name
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {"bcl ": ROOT / "bcl" / "cli", "python benchmarks/": ROOT / "benchmarks"}
    asked = r"(bcl |python benchmarks/)(\w+)(?:\.py)?([^\n`#]*)"
    for before, command, rest in re.findall(asked, f"{text}\n{readme}"):
        path = folders[before] / f"{command}{'_' * iskeyword(command)}.py"
        if not path.is_file() or path.name == "fit.py":  # prose; LightningCLI's options
            continue
        shared = (ROOT / "bcl" / "cli" / "output.py", ROOT / "benchmarks" / "results.py")
        code = "".join(each.read_text(encoding="utf-8") for each in (path, *shared))
        for option in re.findall(r"(?<=\s)--[a-z][\w-]*(?![\w.-])", rest):
            assert f'"{option}"' in code, f"{before}{command} has no {option}"


def test_code_in_the_pages_of_the_methods_runs():
    for name, text in PAGES.items():
        if name.startswith("methods/"):
            for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
                exec(compile(code, name, "exec"), {})


def test_figures_say_what_they_show():
    figures = sorted((DOCS / "images").glob("*.svg"))
    assert figures
    for path in figures:
        text = path.read_text(encoding="utf-8")
        assert 'role="img"' in text, path
        assert re.search(r"<title id=\"t\">.{5,}</title>\n<desc id=\"d\">.{20,}</desc>", text), path
        assert not re.search(r"(?:href|src)=\"?http", text), path
    for name, text in PAGES.items():
        assert not re.search(r"!\[\s*\]\(", text), f"{name} has a picture without a description"


def test_benchmarks_page_is_that_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("page")
    path = ROOT / "benchmarks" / "results.json"
    if not path.exists():
        pytest.skip("no `make bench ARGS=--publish` has been committed yet")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert PAGES["benchmarks.md"] == page.page(found, page.kept_results())


def test_the_built_site_asks_for_nothing_from_a_network():
    pages = sorted(SITE.rglob("*.html"))
    if not pages:
        pytest.skip("the site is not built; `make docs` builds it")
    for path in [*pages, *SITE.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text)
        # Names of things (canonical pages, namespaces) are no requests.
        asking = [t for t in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", t)]
        assert not asking, (path, asking)
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", text), path
        if path.suffix != ".html":
            continue
        shown = re.sub(
            r"<code\b.*?</code>|<pre\b.*?</pre>|alttext=\"[^\"]*\"", "", text, flags=re.DOTALL
        )
        raw = re.search(r"arithmatex|\\(?:frac|text|mathrm|sum|log|alpha|beta|tau|pi)\b|--8", shown)
        assert not raw, (
            f"{path}: {shown[max(0, raw.start() - 80) : raw.end() + 80]} is not rendered"
        )
