import re

from places import ROOT

from bcl.cli import COMMANDS
from bcl.cli.configuration import config_names

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_loop_of_ones_own_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    variables = {}
    exec(compile(code, "README.md", "exec"), variables)
    assert variables["tracker"].seen.all()
    assert variables["tracker"].scores.any()


def test_commands_and_configurations_exist():
    commands = set(re.findall(r"^bcl (\w+)", README, re.MULTILINE))
    assert "fit" in commands
    assert commands <= set(COMMANDS)
    names = set(re.findall(r"--config ([\w/]+)", README))
    assert "digits_lt/bcl_i" in names
    assert names <= set(config_names())
