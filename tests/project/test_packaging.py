"""The wheel, and what importing costs."""

import configparser
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest
from places import ROOT

import bcl
from bcl.cli import COMMANDS, main

HEAVY = {"pytorch_lightning", "lightning", "timm", "torchvision", "wandb", "sklearn", "datasets"}
LIGHT = """
import cacr, datamodules
from bcl import BoostedRandAugment, ContrastiveViews, InputError, MemorizationTracker
from bcl import NTXentLoss, Projector, TrackerHistory, create_encoder, nt_xent, shot_groups
create_encoder("resnet8")
from cacr import CACRLoss, MomentumQueue, cacr_terms
import json, sys
print(json.dumps(list(sys.modules)))
"""


def python(code, **settings):
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, **settings
    )
    return answer.stdout


def test_light_names_load_torch_alone():
    loaded = {name.partition(".")[0] for name in json.loads(python(LIGHT, cwd=ROOT))}
    assert "torch" in loaded
    assert not loaded & HEAVY


NO_TORCH = """
import sys
sys.modules |= dict.fromkeys(("torch", "numpy", "pytorch_lightning"))  # to import one fails
from bcl.cli import COMMANDS, main
for words in ([], *([name] for name in COMMANDS), ["split", "make"]):
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
main(["configs"])
"""


def test_help_of_every_command_loads_no_torch():
    assert python(NO_TORCH, cwd=ROOT).count("usage: bcl") == len(COMMANDS) + 2


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what git would carry."""
    source = tmp_path_factory.mktemp("source")
    for name in ("bcl", "cacr", "datamodules", "configs"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "docs/package.md"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    return next(out.glob("*.whl"))


def test_wheel_carries_configurations_types_and_template(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"bcl/configs/{path.relative_to(ROOT / 'configs')}" in names
    for path in [*ROOT.glob("*/py.typed"), *(ROOT / "bcl").rglob("*.j2")]:
        assert str(path.relative_to(ROOT)) in names
    for package in ("bcl", "cacr", "datamodules"):
        for path in (ROOT / package).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names, f"setup.cfg lacks the package of {path}"
    assert wheel.name.startswith(f"bcl_cacr-{bcl.__version__}-")
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_the_description_of_the_wheel_has_whole_links_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        head, _, text = archive.read(name).decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in head
    assert text.startswith("# bcl-cacr")
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=.([^\"']*)", text)
    assert targets
    assert all(link.startswith("https://") for pair in targets for link in pair if link)
    extras = set(re.findall(r"bcl-cacr\[(\w+)\]", text))
    offered = set(re.findall(r"^Provides-Extra: (\S+)", head, re.MULTILINE))
    assert extras == offered - {"dev", "docs", "bench", "examples"}


def test_versions_are_those_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    python = setup["options"]["python_requires"].removeprefix(">=")
    torch = re.search(r"^torch>=(.*)", setup["options"]["install_requires"], re.MULTILINE)[1]
    tools = (ROOT / "pyproject.toml").read_text()
    assert f'python_version = "{python}"' in tools
    assert f'target-version = "py{python.replace(".", "")}"' in tools
    assert setup["metadata"]["classifiers"].count(f":: {python}\n") == 1
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    floors = {"Python": python, "PyTorch": torch}
    for name, floor in floors.items():
        said = re.findall(
            rf"\b{name} (\d[\d.]*\d) (?:or newer|or later|and newer)|\b{name} ?(?:>=|≥) ?([\d.]+)",
            text,
        )
        assert {"".join(each) for each in said} == {floor}


def test_the_citation_is_of_the_newest_release():
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.*)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert cited == released[0]
    assert bcl.__version__ >= cited


@pytest.mark.slow
def test_quickstart_from_the_wheel_in_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = python("import bcl; print(bcl.__file__)", cwd=elsewhere, env=environment)
    assert where.startswith(str(site))
    command = [sys.executable, "-m", "bcl.cli", "quickstart", "--epochs", "1"]
    subprocess.run(command, cwd=elsewhere, env=environment, check=True, capture_output=True)
    assert (elsewhere / "outputs" / "quickstart" / "report.html").exists()


OTHER = """
import sys
from bcl.cli import main
{first}
status = main(["configs"])
import datamodules
print(status, datamodules.__file__)
"""


def test_a_folder_datamodules_of_ones_own_is_passed_by(tmp_path):
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "__init__.py").write_text("")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    answer = python(OTHER.format(first=""), cwd=tmp_path, env=paths)
    assert answer.split()[-2:] == ["0", str(ROOT / "datamodules" / "__init__.py")]
    code = OTHER.format(first="import datamodules")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=paths
    )
    assert done.stdout.split()[0] == "2"
    (line,) = done.stderr.splitlines()
    assert str(tmp_path) in line
    assert "in a process of its own" in line


def test_make_quickstart_installs_what_its_report_needs():
    rules = (ROOT / "Makefile").read_text().split("\n\n")
    install = next(rule for rule in rules if rule.startswith("$(VENV)/.installed:"))
    assert "[cli,report]" in install  # and what its last line tells to type


def test_quickstart_without_charts_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["quickstart", "--out", str(tmp_path / "out")]) == 2
    assert "[report]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_in_the_help_are_all_there_are(capsys):
    from bcl.augment.boost import SCHEMES
    from bcl.augment.policy import POLICIES
    from bcl.models.released import KINDS, NORMALIZATIONS
    from datamodules.packed import MOST_SHARD_MB

    known = {"augment": (*SCHEMES, *POLICIES), "import": (*KINDS, *NORMALIZATIONS)}
    for command, names in {**known, "pack": (str(MOST_SHARD_MB),)}.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert all(name in text for name in names)
