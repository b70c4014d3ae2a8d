import re
from pathlib import Path

from bcl.cli import COMMANDS
from bcl.configuration import config_names

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_loop_of_ones_own_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    variables = {}
    exec(compile(code, "README.md", "exec"), variables)
    assert variables["tracker"].seen.all()
    assert variables["tracker"].scores.any()


def test_commands_and_configurations_exist():
    for command in re.findall(r"^bcl (\w+)", README, re.MULTILINE):
        assert command in COMMANDS
    for name in re.findall(r"--config ([\w/]+)", README):
        assert name in config_names()
