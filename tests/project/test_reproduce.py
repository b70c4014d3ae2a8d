"""The table of methods and seeds that the evidence comes from."""

import dataclasses
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import cells
import collect
import preset as presets
import pytest
import reproduce
import results_page
import summary
import yaml
from commands import Command
from places import ROOT
from preset_files import SMALL, fake, write

import bcl
from bcl.augment import ChainSettings
from bcl.core.errors import InputError
from bcl.core.instantiate import instantiate
from bcl.evaluation.results import ProbeReport

BENCHMARKS = ROOT / "benchmarks"
NAMES = presets.preset_names()
TABLES = [name for name in NAMES if not name.startswith(("signals", "field"))]
PARTS = [name for name in NAMES if "parts" not in presets.read_preset(name)]
METHODS = {"simclr", "focal", "sdclr", "bcl_i", "bcl_d", "cacr", "cacr_k4", "bcl_cacr"}


@pytest.mark.parametrize("name", TABLES)
def test_presets_change_what_they_say(name, tmp_path):
    preset = presets.read_preset(name)
    root = str(tmp_path) if preset.get("root") else None
    table = cells.table(preset, tmp_path, root, list(preset["runs"]), [3], {})
    configs = {cell.key: yaml.safe_load(cell.config) for cell in table}
    arguments = {key: config["model"]["init_args"] for key, config in configs.items()}
    boost = {
        key: args["views"]["init_args"]["boost"]["init_args"]
        for key, args in arguments.items()
        if "boost" in args["views"]["init_args"]
    }
    assert set(configs) >= {*METHODS, "bcl_i_monotone", "bcl_d_monotone"}
    assert preset["seeds"] == [0, 1, 2]
    assert configs["simclr"]["seed_everything"] == 3
    decay = {k: a.get("optimizer", {}).get("weight_decay", 5e-4) for k, a in arguments.items()}
    assert len({decay[key] for key in decay if not key.startswith(("sdclr", "bcl_d"))}) == 1
    widths = {key for key in arguments if key.endswith(("_w16", "_w32", "_w64"))}
    assert len({json.dumps(arguments[key]["encoder"]) for key in set(arguments) - widths}) == 1
    assert len({args["encoder"]["name"] for args in arguments.values()}) == 1
    lengths = {key: c["trainer"].pop("max_epochs") for key, c in configs.items()}
    assert len({json.dumps(c["trainer"]) for c in configs.values()}) == 1
    for key, epochs in lengths.items():
        named = key.rpartition("_e")[2]  # in the name, where it is not that of the others
        assert epochs == (int(named) if named.isdigit() else lengths["simclr"]), key
    rates = {args.get("optimizer", {}).get("learning_rate") for args in arguments.values()}
    assert len(rates) == 1
    for key in ("projector", "schedule"):
        assert len({json.dumps(args.get(key)) for args in arguments.values()}) == 1, key
    chains = [args["views"]["init_args"].get("chain", {}) for args in arguments.values()]
    assert len({ChainSettings(**chain) for chain in chains}) == 1
    assert boost["bcl_i_monotone"]["policy"] == "monotone"
    usual = {"bcl-i": 1, "imagenet": 2}[boost["bcl_i"]["scheme"]]
    other = boost[f"bcl_i_k{3 - usual}"]
    assert other == {**boost["bcl_i"], "num_ops": 3 - usual}
    assert f"bcl_i_k{usual}" not in configs  # it would be bcl_i itself
    assert arguments["cacr_k4"]["views"]["init_args"]["num_views"] == 5
    assert arguments["bcl_cacr"]["views"]["init_args"]["num_views"] == 2
    assert {pair for pairs in preset["compare"] for pair in pairs} <= set(preset["runs"])


@pytest.mark.parametrize("name", PARTS)
def test_presets_name_settings_that_exist(name, tmp_path):
    preset = presets.read_preset(name)
    known = set(inspect.signature(bcl.SimCLR.__init__).parameters)
    root = str(tmp_path) if preset.get("root") else None
    for cell in cells.table(preset, tmp_path, root, list(preset["runs"]), [0], {}):
        config = yaml.safe_load(cell.config)
        own = inspect.signature(find_class(config["model"]["class_path"]).__init__).parameters
        assert set(config["model"]["init_args"]) <= known | set(own), cell.key
        for part in ("views", "loss", "memory"):
            if part in config["model"]["init_args"]:
                instantiate(config["model"]["init_args"][part])
        assert instantiate(config["data"]).batch_size == config["data"]["init_args"]["batch_size"]


def test_the_cpu_preset_takes_cifar_from_torchvision_too(tmp_path):
    changes = {"data": {"class_path": "datamodules.CIFAR10LT"}}
    preset = presets.read_preset("cpu")
    (cell,) = cells.table(preset, tmp_path, str(tmp_path), ["bcl_i"], [4], changes)
    data = instantiate(yaml.safe_load(cell.config)["data"])
    assert (data.root, data.max_per_class, data.split_seed) == (str(tmp_path), 258, 4)


def find_class(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_run_of_the_cpu_preset_can_be_built(tmp_path):
    preset = presets.read_preset("cpu")
    for cell in cells.table(preset, tmp_path, str(tmp_path), list(preset["runs"]), [0], {}):
        method = instantiate(yaml.safe_load(cell.config)["model"])
        width = int(cell.key[-2:]) if cell.key.endswith(("_w16", "_w64")) else 32
        assert method.encoder.num_features == 4 * width, cell.key


def run(*words, folder):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "reproduce.py"), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


class Forked(types.SimpleNamespace):
    """What the benchmark takes from subprocess: its commands need not import all again."""

    Popen, STDOUT = Command, subprocess.STDOUT

    @staticmethod
    def run(words, check):
        command = Command(words)
        command.wait()
        return command


@pytest.mark.slow
def test_runs_a_table_goes_on_and_reports_a_failure(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(reproduce, "subprocess", Forked)
    monkeypatch.setattr(collect, "subprocess", Forked)

    def run(*more):
        words = ["reproduce.py", "--preset", path, "--out", "out", "--jobs", "2", *more]
        monkeypatch.setattr(sys, "argv", words)
        return reproduce.main(), capfd.readouterr().err

    fast = {"model": {"init_args": {"optimizer": {"learning_rate": "fast"}}}}
    path = write(
        tmp_path / "digits.yaml",
        seeds=[1],
        settings={
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
            "model": {"init_args": {"encoder": {"args": {"width": 4}}}},
        },
        runs={**SMALL["runs"], "bad": {"label": "Bad", "method": "simclr", "settings": fast}},
        compare=[["b", "a"], ["bad", "a"]],
    )
    status, said = run()
    assert status == 1, said
    assert "failed: bad-1: fit" in said
    assert "learning_rate" in said
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["run"] for row in result["runs"]] == ["a", "b"]
    assert result["command"] == f"python benchmarks/reproduce.py --preset {path}"
    expected = ProbeReport.load(tmp_path / "out" / "probe" / "b-1").protocol("full")
    found = summary.mean(result, "b", "full")["all"]["mean"]
    assert found == pytest.approx(100 * expected.accuracy.mean)
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    section = results_page.section(result | {"pairs": [("b", "a")]})
    assert f"| A | 1 | {summary.mean(result, 'a', 'full')['all']['mean']:.2f} |" in section
    # Again: what is done is not done again.
    stamp = (tmp_path / "out" / "runs" / "a-1" / "run.json").stat().st_mtime_ns
    status, said = run("--runs", "a,b")
    assert status == 0, said
    assert (tmp_path / "out" / "runs" / "a-1" / "run.json").stat().st_mtime_ns == stamp
    # Other settings do not mix with it.
    status, said = run("--set", "trainer.max_epochs=2")
    assert status == 2
    assert "has other settings" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "cpuu"], "'cpu'"),
        (["--preset", "cpu"], "--root"),
        (["--preset", "cpu", "--root", "nowhere"], "nowhere"),
        (["--preset", "cifar10-lt", "--runs", "simclrr"], "'simclr'"),
        (["--preset", "cifar10-lt", "--seeds", "one"], "integers"),
        (["--preset", "cifar10-lt", "--set", "trainer.max_epochs"], "PATH=VALUE"),
        (["--preset", "cifar10-lt", "--seeds", "0,1,0"], "names 0"),
        (["--preset", "cifar10-lt", "--runs", "bcl_i,bcl_i"], "names bcl_i"),
        (["--preset", "cifar10-lt", "--jobs", "0"], "--jobs"),
        (["--preset", "cifar10-lt", "--threads", "-2"], "--threads"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    assert reproduce.main() == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"setings": {}}, "'settings'"),
        ({"runs": {"a": {"label": "A", "method": "simclr", "seting": {}}}}, "'settings'"),
        ({"runs": {"a": {"label": "A"}}}, "no method"),
        ({"runs": {"a": "simclr"}}, "mapping"),
        ({"runs": {"a": {"label": "A", "method": "simcl"}}}, "digits_lt/simclr"),
        ({"about": None}, "no about"),
        ({"compare": [["b", "aa"]]}, "'aa'"),
        ({"compare": [["b"]]}, "pairs"),
        ({"protocols": "ful"}, "'full'"),
        ({"extends": "basee"}, "'basee'"),
        ({"extends": "preset.yaml"}, "itself"),
    ],
)
def test_mistakes_in_a_preset_are_refused_before_anything_runs(
    changes, said, tmp_path, monkeypatch, capsys
):
    path = write(tmp_path / "preset.yaml", **changes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--preset", path])
    assert reproduce.main() == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_preset_extends_another_beside_it(tmp_path, monkeypatch):
    write(tmp_path / "first.yaml", compare=[["b", "a"]])
    second = {
        "extends": "first.yaml",
        "about": "more",
        "runs": {"c": {"label": "C", "method": "focal"}},
        "compare": [["c", "a"]],
    }
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    preset = presets.read_preset(str(tmp_path / "second.yaml"))
    assert (preset["about"], list(preset["runs"])) == ("more", ["a", "b", "c"])
    assert preset["compare"] == [["b", "a"], ["c", "a"]]
    second["runs"]["b"] = None
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    preset = presets.read_preset(str(tmp_path / "second.yaml"))
    assert list(preset["runs"]) == ["a", "c"]
    assert preset["compare"] == [["c", "a"]]
    assert presets.read_preset(write(tmp_path / "plain.yaml"))["compare"] == []


# Stands for `bcl`: says that it runs, has a child of its own, and takes its time.
SLEEPER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
pathlib.Path(f"begun-{os.getpid()}-{child.pid}").touch()
time.sleep(120)
"""


@pytest.fixture
def sleeping(tmp_path):
    """A command whose two runs at a time, of four, go on until they are ended."""
    path = write(tmp_path / "my preset.yaml")
    script = (
        # Where the tests run in the background, both are ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import reproduce\n"
        f"reproduce.PROGRAM = (sys.executable, '-c', {SLEEPER!r}); reproduce.PATIENCE = 2.0\n"
        f"sys.argv = ['reproduce.py', '--preset', {path!r}, '--out', 'my out', '--jobs', '2']\n"
        "sys.exit(reproduce.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    yield process
    process.kill()
    process.wait()
    process.stderr.close()
    for number in begun(tmp_path):
        if alive(number):
            os.kill(number, signal.SIGKILL)


def begun(folder):
    return [int(word) for path in folder.glob("begun-*") for word in path.name.split("-")[1:]]


def alive(number):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_runs_and_begins_no_others(sleeping, number, tmp_path):
    sleeping.send_signal(number)
    assert sleeping.wait(30) == 130
    assert "run the same command again" in sleeping.stderr.read()
    until(lambda: not any(alive(each) for each in begun(tmp_path)))
    assert len(list(tmp_path.glob("begun-*"))) == 2


@linux
@pytest.mark.slow
def test_two_commands_do_not_share_a_folder(sleeping, tmp_path):
    def refused():
        preset = str(tmp_path / "my preset.yaml")
        answer = run("--preset", preset, "--out", "my out", folder=tmp_path)
        return answer.returncode == 2 and "is writing to my out" in answer.stderr

    assert refused()
    sleeping.kill()  # its runs live on, and hold the folder
    sleeping.wait()
    assert refused()


def test_an_unexpected_error_costs_the_other_runs_nothing(tmp_path, monkeypatch):
    preset = presets.read_preset(write(tmp_path / "preset.yaml"))
    table = cells.table(preset, tmp_path, None, ["a", "b"], [0], {})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a-0").write_text("a file where the folder should be")
    runner = reproduce.Runner(table, 1, 1)
    monkeypatch.setattr(runner, "command", lambda *_: True)
    monkeypatch.setattr(reproduce, "accuracy", lambda _: "")
    assert runner.all()
    assert list(runner.failed) == ["a-0"]
    assert "FileExistsError" in runner.failed["a-0"]
    assert runner.done == 1


def test_a_report_without_the_protocols_asked_for_is_not_done(tmp_path):
    preset = presets.read_preset(write(tmp_path / "preset.yaml"))
    (cell,) = cells.table(preset, tmp_path, None, ["a"], [0], {})
    assert not collect.is_probed(cell)
    cell.report.parent.mkdir()
    fake(tmp_path, "x", 0, [0.1, 0.2, 0.3]).rename(cell.report)
    assert collect.is_probed(cell)
    assert not collect.is_probed(dataclasses.replace(cell, protocols="full,knn"))


def result(tmp_path, values, **about):
    """The summary of made-up runs: run and seed to the accuracies of three classes."""
    paths = {(run, seed): fake(tmp_path, run, seed, v) for (run, seed), v in values.items()}
    return summary.summarize(paths, {run: run.upper() for run, _ in values}, about)


HALF = [0.5, 0.5, 0.5]


def test_differences_are_paired_by_seed(tmp_path):
    values = {("a", 0): [0.5, 0.4, 0.3], ("a", 1): [0.6, 0.5, 0.4], ("a", 2): [0.4, 0.3, 0.2]}
    for seed, gain in enumerate((0.02, 0.03, 0.01)):
        many, medium, few = values["a", seed]
        values["b", seed] = [many, medium, few + gain]
    values["b", 7] = [0.9, 0.9, 0.9]  # has no partner
    found = result(tmp_path, values)
    (row,) = summary.differences(found, [("b", "a")], "full")
    few = row["few"]
    assert few["by_seed"] == pytest.approx([2.0, 3.0, 1.0])
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.3027.
    assert few["mean"] == pytest.approx(2.0)
    assert few["ci95"] == pytest.approx(4.3027 / 3**0.5, rel=1e-3)
    assert few["p"] == pytest.approx(0.0742, abs=1e-3)
    assert few["seeds"] == 3
    assert row["many"]["mean"] == pytest.approx(0.0)
    assert summary.mean(found, "b", "full")["all"]["seeds"] == 4


def test_rounding_is_no_spread(tmp_path):
    # Three equal gains of a third of a ten-thousandth, as six decimals hold them.
    values = {("a", seed): HALF for seed in range(3)}
    for seed, few in enumerate((0.533333, 0.533334, 0.533333)):
        values["b", seed] = [0.5, 0.5, few]
    (row,) = summary.differences(result(tmp_path, values), [("b", "a")], "full")
    assert row["few"]["p"] is None


def test_holm_counts_the_pairs_of_the_table(tmp_path):
    gains = {"b": (0.10, 0.11, 0.12), "c": (0.10, 0.11, 0.12), "d": (0.1, -0.1, 0.05)}
    values = {("a", seed): HALF for seed in range(3)}
    for run_, row in gains.items():
        values |= {(run_, seed): [0.5, 0.5, 0.5 + gain] for seed, gain in enumerate(row)}
    pairs = [(key, "a") for key in "bcde"]  # e was not run
    rows = summary.differences(result(tmp_path, values), pairs, "full")
    p, corrected = ([row["few"][key] for row in rows] for key in ("p", "p_holm"))
    assert p[0] == p[1] < p[2]
    assert corrected == pytest.approx([3 * p[0], 3 * p[0], p[2]])
    # Of five comparisons, two that are not there count as well.
    rows = summary.differences(result(tmp_path, values), pairs, "full", family=5)
    corrected = [row["few"]["p_holm"] for row in rows]
    assert corrected == pytest.approx([5 * p[0], 5 * p[0], min(1, 3 * p[2])])


def test_two_seeds_are_too_few_for_significance(tmp_path):
    values = {("a", seed): HALF for seed in range(2)}
    values |= {("b", seed): [0.5, 0.5, few] for seed, few in enumerate((0.6, 0.6001))}
    (row,) = summary.differences(result(tmp_path, values), [("b", "a")], "full")
    assert row["few"]["p"] < 0.01
    assert row["few"]["p_holm"] is None


def test_runs_without_a_common_seed_are_plain_json(tmp_path):
    found = result(tmp_path, {("a", 0): HALF, ("b", 1): HALF})
    (row,) = summary.differences(found, [("b", "a")], "full")
    assert json.loads(json.dumps(row, allow_nan=False))["all"]["mean"] is None


def test_a_part_does_not_take_the_place_of_the_whole(tmp_path):
    preset = presets.read_preset("digits")
    two = cells.table(preset, tmp_path, None, ["simclr", "bcl_i"], [0], {})
    runs = [{"run": "simclr", "seed": 0}, {"run": "bcl_i", "seed": 0}]
    collect.check_whole(two, tmp_path)  # no results yet
    (tmp_path / "results.json").write_text(json.dumps({"runs": runs}))
    collect.check_whole(two, tmp_path)
    with pytest.raises(InputError, match="'simclr' with seed 0"):
        collect.check_whole(two[1:], tmp_path)


def test_results_of_one_preset_are_one_table(tmp_path):
    old, about = [0.50, 0.52, 0.54], {"preset": "x", "about": "x"}
    a, b, c = (
        {(key, seed): [v + gain] * 3 for seed, v in enumerate(old)}
        for key, gain in (("a", 0.0), ("b", 0.1), ("c", 0.2))
    )
    whole = result(tmp_path, a | b | c, **about, command="one")
    first = result(tmp_path, a | b, **about, command="one")
    second = result(tmp_path, c, **about, command="two")
    command = "one  # commit c\ntwo  # commit c"
    assert summary.merge([first, second]) == {**whole, "command": command}
    with pytest.raises(InputError, match="'c' with seed 0"):
        summary.merge([first, second, second])
    second["runs"][0]["recipe"] = "other images"
    with pytest.raises(InputError, match="two training sets"):
        summary.merge([first, second])
    with pytest.raises(InputError, match="groups"):
        summary.merge([first, {**second, "groups": "halves"}])


def test_results_are_read_as_written(tmp_path):
    values = {("a", seed): [0.1, 0.2, 0.3] for seed in (0, 1)}
    found = result(tmp_path, values, preset="x", about="µ", command="c")
    path = tmp_path / "x.json"
    summary.write(path, found)
    assert summary.read(path) == found
    assert sum('"run"' in line for line in path.read_text().splitlines()) == 2
    path.write_text("{}")
    with pytest.raises(InputError, match="no result"):
        summary.read(path)


def test_the_reading_quotes_the_tables():
    """Every "mean ± interval" in the words is in a table, bold exactly where it is there."""
    reading = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("## ")[2]
    quoted = re.findall(r"\*{0,2}[-+]?\d+\.\d\d ± \d+\.\d\d\*{0,2}", reading)
    tables = results_page.page() + results_page.table()
    assert len(quoted) > 30
    for figure in quoted:
        assert f"| {figure} |" in tables, figure
