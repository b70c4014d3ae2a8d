import re

import pytest
from places import ROOT

from bcl.cli import COMMANDS
from bcl.cli.configuration import config_names

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = [README, (ROOT / "docs" / "package.md").read_text(encoding="utf-8")]


@pytest.mark.parametrize("text", TEXTS)
def test_the_loop_of_ones_own_runs(text):
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    variables = {}
    exec(compile(code, "README.md", "exec"), variables)
    tracker = variables["tracker"]
    assert tracker.seen.sum() == 64
    assert tracker.momentum_loss.any()
    assert tracker.scores.any() == ("refresh" in text)


@pytest.mark.parametrize("text", TEXTS)
def test_commands_and_configurations_exist(text):
    commands = set(re.findall(r"^bcl (\w+)", text, re.MULTILINE))
    assert "fit" in commands
    assert commands <= set(COMMANDS)
    names = set(re.findall(r"--config ([\w/]+)", text))
    assert "images/bcl_i" in names
    assert names <= set(config_names())
