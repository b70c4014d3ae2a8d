"""The documentation: complete, right about names, commands and figures, readable offline.

`make docs` builds the site with warnings as errors; here is what a build does not notice.
"""

import dataclasses
import functools
import importlib
import inspect
import re
import sys
import typing
from keyword import iskeyword

import figures
import pytest
import pytorch_lightning as pl
from places import ROOT

from bcl.cli import COMMANDS
from bcl.cli.configuration import config_names, find_config
from bcl.cli.fit import SHORT

DOCS = ROOT / "docs"
PAGES = {  # with their figures filled in: a call that does not resolve fails here
    str(path.relative_to(DOCS)): figures.expand(path.read_text(encoding="utf-8"))
    for path in DOCS.rglob("*.md")
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
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r"([\w/-]+\.md)$", site.partition("\nnav:\n")[2], re.MULTILINE)
    assert sorted([*pages, "package.md"]) == sorted(PAGES)  # of which one is the wheel's


@pytest.mark.parametrize("package", ["bcl", "cacr", "datamodules"])
def test_every_public_name_is_in_the_reference(package):
    names = importlib.import_module(package).__all__
    assert names
    assert {f"{package}.{name}" for name in names} <= documented()


@pytest.mark.parametrize("package", ["bcl.augment", "bcl.methods", "bcl.evaluation"])
def test_public_names_of_the_rooms_are_in_the_reference(package):
    module = importlib.import_module(package)
    own = {n for n, value in vars(module).items() if n[0] != "_" and type(value) is not type(sys)}
    names = getattr(module, "__all__", None) or own
    short = {name.rpartition(".")[2] for name in documented()}
    exempt = {"OPS", "POLICIES", "SCHEMES"}  # plain tables, which the guide has
    assert set(names) - exempt - short == set()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        ('{{ medean("losses", "*", "bcl") }}', "no such figure"),
        ('{{ median("loses", "*", "bcl") }}', "no job"),
        ('{{ median("losses", "NT-Xent, *", "bcl") }}', "4 rows"),
        ('{{ median("losses", "NT-Xent, 1 sample", "bcl") }}', "0 rows"),
        ('{{ ratio("losses", "NT-Xent, 128 samples", "bcl") }}', "ratio"),
        ('{{ benchmark("losses", 1) }}', "argument"),
        ('{{ config("digits_lt/simclr", "model.wait_decay") }}', "wait_decay"),
        ('{{ recipes("bcl_i", "trainer.max_epochs", "7") }}', "7"),
    ],
)
def test_a_figure_that_fits_nothing_fails_the_build(call, word):
    with pytest.raises(LookupError, match=word):
        figures.expand(call)


def test_figures_are_those_of_the_results(monkeypatch):
    rows = [{"case": "a, 1", "contender": "ours", "median": 1234.5, "unit": "ms", "extra": "2 MB"}]
    rows.append({"case": "a, 1", "contender": "other", "ratio": 0.25})
    monkeypatch.setattr(figures, "benchmarks", lambda: [{"job": "j", "rows": rows}])
    page = '{{ amount("j", "a*", "ours") }} or {{ inverse("j", "*", "oth*") }}'
    assert figures.expand(page) == "1,230 ms, 2 MB or 4.00"


def test_commands_and_configurations_in_the_pages_exist():
    text = "\n".join(PAGES.values())
    for command in re.findall(r"^(?:    )?bcl (\w+)", text, re.MULTILINE):
        assert command in COMMANDS, command
    for name in re.findall(r"--config ([\w/]+)(?=[\s`])", text):
        assert name in config_names() or name == "my", name


README = (ROOT / "README.md").read_text(encoding="utf-8")
# Commands that go on in the next line become one line.
SHOWN = re.sub(r"\\\n\s*", " ", "\n".join([*PAGES.values(), README]))
OPTION = r"(?<![\w-])--[a-z][\w.-]*\w"
CLI = ROOT / "bcl" / "cli"
# Of jsonargparse and LightningCLI.
EVERY_FIT = {"--config", "--seed_everything", "--help", "--print_config", "--model", "--data"}


def declared(*paths):
    """Options that files declare."""
    code = "".join(path.read_text(encoding="utf-8") for path in paths)
    return set(re.findall(r'"(--[a-z][\w.-]*)"', code))


def arguments(made):
    """Names that a class takes, with those that it hands to its parents."""
    parents = [each for each in made.__mro__ if "__init__" in vars(each) and each is not object]
    return {name for each in parents for name in inspect.signature(each.__init__).parameters}


def named_class(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def takes(node, words):
    """Whether a part of a configuration, {class_path, init_args}, has an option."""
    words = [word for word in words if word != "init_args"]
    if not words or words == ["class_path"]:
        return True
    if words[0] not in arguments(named_class(node["class_path"])):
        return False
    below = node.get("init_args", {}).get(words[0])
    if isinstance(below, dict) and "class_path" in below:
        return takes(below, words[1:])
    return len(words) == 1 or words[1] in settings(node["class_path"], words[0])


def settings(class_path, argument):
    """Names of the fields of the settings dataclass that an argument takes, if it takes one."""
    made = named_class(class_path).__mro__  # options are handed on to parents
    hint = next(
        h[argument]
        for h in map(typing.get_type_hints, (each.__init__ for each in made))
        if argument in h
    )
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


def fit_takes(option, configs):
    """Whether ``bcl fit`` with one of these configurations has an option."""
    first, *rest = option[2:].split(".")
    if first == "trainer":
        return len(rest) == 1 and rest[0] in inspect.signature(pl.Trainer).parameters
    if rest and first in {"model", "data"}:
        return any(takes(config[first], rest) for config in configs)
    return option in declared(CLI / "fit.py") | EVERY_FIT


@functools.cache
def composed():
    return {name: find_config(name) for name in config_names()}


def wrong_fit_options(command):
    """Options of one line with ``bcl fit`` that do not exist; of a file, any method's may be."""
    named = re.findall(r"--config[ =]([\w/]+)(?=\s|$)", command)
    configs = [composed()[name] for name in named if name in composed()]
    options = [SHORT.get(each, each) for each in re.findall(OPTION, command)]
    return [each for each in options if not fit_takes(each, configs or composed().values())]


def test_options_of_fit_exist():
    lines = re.findall(r"\bbcl(?:\.cli)? fit\b([^\n`#]*)", SHOWN)
    assert sum("--trainer." in line for line in lines) > 3
    assert any("--ckpt_path" in line and "--save.every_minutes" in line for line in lines)
    for line in lines:
        assert not wrong_fit_options(line), line


def test_wrong_options_of_fit_are_found():
    for wrong in (
        "--config digits_lt/bcl_i --data.root DIR",
        "--config digits_lt/bcl_i --model.repulsion 1",
        "--config digits_lt/bcl_i --model.optimizer.lerning_rate 1",
        "--config cifar100_lt/bcl_i --model.views.init_args.boost.init_args.polizy monotone",
        "--config my.yaml --trainer.device 8",
        "--save.every_n_minutes 10",
        "--ckpt-path last",
    ):
        assert len(wrong_fit_options(wrong)) == 1, wrong


def test_options_of_the_other_commands_exist():
    folders = {"bcl ": CLI, "bcl.cli ": CLI, "python benchmarks/": ROOT / "benchmarks"}
    asked = r"(bcl |bcl\.cli |python benchmarks/)(\w+)(?:\.py)?([^\n`#]*)"
    checked = 0
    for before, command, rest in re.findall(asked, SHOWN):
        path = folders[before] / f"{command}{'_' * iskeyword(command)}.py"
        if not path.is_file() or path == CLI / "fit.py":  # prose; looked at above
            continue
        found = declared(path, CLI / "output.py", ROOT / "benchmarks" / "results.py")
        for option in re.findall(OPTION, rest):
            assert option in found, f"{before}{command} has no {option}"
            checked += 1
    assert checked > 50


def test_options_in_running_text_exist():
    known = declared(*CLI.glob("*.py"), *(ROOT / "benchmarks").glob("*.py"))
    prose = re.sub(r"^```.*?^```", "", SHOWN, flags=re.M | re.DOTALL)
    spans = re.findall(r"`(--[^`\n]+)`", prose)
    slurm = {"--nodes", "--ntasks-per-node", "--signal"}
    assert len(spans) > 30
    for span in spans:
        for option in re.findall(OPTION, span):
            found = option in known | slurm or fit_takes(option, composed().values())
            assert found, option


# What the code of a page takes for granted, and what must hold after it.
BEFORE = {
    "augmentation.md": """
from PIL import Image
image = Image.new("RGB", (48, 40), "teal")
""",
    "encoders.md": """
from bcl.models.encoders import create_encoder
from bcl.models.exported import save_encoder
save_encoder(create_encoder("resnet8", 16), "encoder", [0.5] * 3, [0.2] * 3)
""",
    "evaluation.md": """
import torch, bcl
from datamodules import DigitsLT
method = bcl.BCL("resnet8", views=16, num_samples=417)
method.eval()
data = DigitsLT(image_size=16)
train_features, train_labels = torch.randn(60, 8), torch.arange(60) % 3
test_features, test_labels = torch.randn(30, 8), torch.arange(30) % 3
""",
    "logging.md": """
import torch, bcl
from bcl.memorization.history import write_epoch
tracker = bcl.MemorizationTracker(8)
tracker.update(torch.arange(6), torch.rand(6))
for epoch in (99, 199):
    write_epoch("outputs/cifar100_lt/bcl_i/tracker", epoch, tracker)
ids = [1, 5]
""",
    "losses.md": "import torch; z = torch.randn(2, 8, 16, requires_grad=True)",
}
AFTER = {
    "augmentation.md": "assert again.equal(out)",
    "encoders.md": """
import torch
images = torch.rand(2, 3, 16, 16)
assert encoder.eval()(images).equal(bcl.load_encoder("encoder").eval()(images))
""",
    "evaluation.md": "from pathlib import Path; assert Path('outputs/probe/report.json').is_file()",
    "logging.md": "assert history.epochs == [99, 199] and history.scores(ids).shape == (2, 2)",
    "losses.md": "assert losses.shape == (8,) and z.grad.isfinite().all()",
}
WITH_CODE = [name for name, text in PAGES.items() if "```python\n" in text]


def test_setups_are_of_pages_with_code():
    assert set(BEFORE) | set(AFTER) < set(WITH_CODE)
    assert sum(name.startswith("methods/") for name in WITH_CODE) > 5


@pytest.mark.parametrize("name", WITH_CODE)
def test_code_in_the_pages_runs(name, tmp_path, monkeypatch):
    if name == "encoders.md":
        pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BCL_CACHE", str(tmp_path / "cache"))
    variables = {}
    exec(BEFORE.get(name, ""), variables)
    for code in re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL):
        exec(compile(code, name, "exec"), variables)
    exec(AFTER.get(name, ""), variables)


def test_figures_say_what_they_show():
    figures = sorted((DOCS / "images").glob("*.svg"))
    assert figures
    for path in figures:
        text = path.read_text(encoding="utf-8")
        assert 'role="img"' in text, path
        assert re.search(r"<title id=\"t\">.{5,}</title>\n<desc id=\"d\">.{20,}</desc>", text), path
        assert not re.search(r"(?:href|src)=\"?http", text), path
    for name, text in PAGES.items():
        assert not re.search(r"!\[\s*\]\(", text), f"{name} has an image without a description"


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


def test_the_words_on_signals_quote_the_tables() -> None:
    stated = re.findall(
        r"[-+]?\d+\.\d\d+ ± \d+\.\d\d+", (DOCS / "signals.md").read_text(encoding="utf-8")
    )
    tables = {  # without bold and the number of seeds
        re.sub(r"\*\*| \(5 seeds\)", "", cell.strip())
        for line in PAGES["signals.md"].splitlines()
        if line.startswith("|")
        for cell in line.split("|")
    }
    assert stated
    assert {*stated} <= tables
