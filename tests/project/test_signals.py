"""Presets of presets, results of other machines, and the page on signals."""

import json
import re
import time

import cells
import collect
import preset as presets
import pytest
import reproduce
import results_page
import signals_page
import summary
import yaml
from preset_files import fake, write

from bcl.core.errors import InputError
from bcl.memorization.signals import SIGNALS


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Two small presets in one."""
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    late = {"label": "B", "method": "bcl_i", "stage": 2}
    runs = {"a": {"label": "A", "method": "simclr"}, "b": late}
    write(tmp_path / "one.yaml", runs=runs)
    write(tmp_path / "two.yaml", runs=runs, seeds=[0])
    both = {"about": "both", "root": "all images", "parts": {"one": "cifar10", "two": "cifar100"}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    for name in ("cifar10-jpeg.zip", "cifar100"):
        (tmp_path / name).mkdir()
    return tmp_path


def read(folder, **changes):
    arguments = {"runs": None, "seeds": None, "changes": {}} | changes
    return cells.read_parts("both", str(folder), folder / "out", **arguments)


def test_stages_come_first_then_seeds_then_parts(parts):
    found = read(parts)
    results = [collect.Results(part, "command") for part in found]
    order = [(cell.part, cell.key, cell.seed) for cell in collect.to_do(results)]
    assert order == [
        ("one", "a", 0), ("two", "a", 0), ("one", "a", 1),
        ("one", "b", 0), ("two", "b", 0), ("one", "b", 1),
    ]  # fmt: skip
    roots = {part.name: part.root for part in found}
    assert roots == {
        "one": str(parts / "cifar10-jpeg.zip"),
        "two": str(parts / "cifar100"),
    }
    assert found[0].cells[0].folder == parts / "out" / "one" / "runs" / "a-0"
    assert [cell.key for part in read(parts, runs=["b"]) for cell in part.cells] == ["b"] * 3


def test_images_of_a_part_must_be_there_once(parts):
    (parts / "cifar10-png").mkdir()
    with pytest.raises(InputError, match="one 'cifar10'"):
        read(parts)
    (parts / "cifar10").mkdir()  # the plain name comes first
    assert read(parts)[0].root == str(parts / "cifar10")
    with pytest.raises(InputError, match="nothing of that name"):
        cells.find_images(str(parts), "tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"about": "x", "parts": {"one": "cifar10"}}, "about, root and parts"),
        ({"about": "x", "root": "y", "parts": {"both": "cifar10"}}, "has parts itself"),
        ({"about": "x", "root": "y", "parts": ["one"]}, "maps"),
    ],
)
def test_mistakes_in_a_preset_of_presets_are_refused(parts, content, message):
    (parts / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        presets.read_preset("wrong")


def test_what_another_machine_has_finished_is_not_repeated(parts):
    (one, _) = read(parts)
    for cell in one.cells:
        cell.report.parent.mkdir(parents=True, exist_ok=True)
        fake(parts, cell.key, cell.seed, [0.1, 0.2, 0.3]).rename(cell.report)
    first = collect.Results(one, "command")
    first.write()
    written = summary.read(one.out / "results.json")
    assert [(run["run"], run["seed"]) for run in written["runs"]] == [
        ("a", 0), ("b", 0), ("a", 1), ("b", 1),
    ]  # fmt: skip
    kept = parts / "evidence"
    kept.mkdir()
    written["runs"] = written["runs"][1:3]
    written["runs"][1]["settings"] = "of another recipe"
    summary.write(kept / "one.json", written)
    (again, _) = cells.read_parts("both", str(parts), parts / "new", None, None, {})
    results = collect.Results(again, "command", kept)
    assert [cell.name for cell in results.to_do()] == ["a-0", "a-1", "b-1"]
    results.write()  # nothing is done here, and nothing is lost
    runs = summary.read(again.out / "results.json")["runs"]
    assert runs == written["runs"][:1]
    cell = again.cells[0]
    cell.report.parent.mkdir(parents=True)
    fake(parts, "a", 0, [0.5, 0.5, 0.5]).rename(cell.report)
    results.write()
    assert [run["run"] for run in summary.read(again.out / "results.json")["runs"]] == ["a", "b"]


def test_settings_do_not_depend_on_where_the_images_are(parts):
    (here, *_) = read(parts)
    (parts / "cifar10").mkdir()
    (there, *_) = read(parts)
    assert [c.settings for c in here.cells] == [c.settings for c in there.cells]
    (longer, *_) = read(parts, changes={"trainer": {"max_epochs": 7}})
    assert {c.settings for c in here.cells}.isdisjoint(c.settings for c in longer.cells)
    assert len({c.settings for c in here.cells}) == 4


def test_time_ends_the_runs_like_an_interrupt(parts, monkeypatch):
    runner = reproduce.Runner(read(parts)[0].cells[:1], 1, 1)
    monkeypatch.setattr(runner, "attempt", lambda _: time.sleep(0.3))
    start = time.monotonic()
    assert not runner.all(minutes=0.05 / 60)
    assert time.monotonic() - start < 5
    assert runner.stopped


def test_an_interrupted_run_is_trained_to_its_end(parts, monkeypatch):
    (cell, *_) = read(parts)[0].cells
    steps = []

    def command(cell, words, step):
        steps.append((step, "--ckpt_path" in words))
        (cell.folder / "run.json").touch()  # as a run writes that a signal ends
        (cell.folder / "checkpoints").mkdir(exist_ok=True)
        (cell.folder / "checkpoints" / "last.ckpt").touch()
        return len(steps) == 2

    for _ in range(3):
        runner = reproduce.Runner([cell], 1, 1)
        monkeypatch.setattr(runner, "command", command)
        runner.run(cell)
    assert [step for step, _ in steps] == ["fit", "fit", "probe", "probe"]
    assert [resumed for step, resumed in steps if step == "fit"] == [False, True]


def evidence(monkeypatch, tmp_path, aucs, gains=None):
    """Published SimCLR runs with these AUCs, by preset, signal and seed.

    With gains, runs of these accuracies over SimCLR's, by run and seed.
    """
    monkeypatch.setattr(signals_page, "EVIDENCE", tmp_path)
    for name, signals in aucs.items():
        runs = [
            {
                "run": "simclr", "label": "SimCLR", "seed": seed, "commit": "c", "recipe": "r",
                "epochs": 1, "wall_seconds": 1.0,
                "accuracy": {"full": dict.fromkeys(summary.COLUMNS, 1.0)},
                "signals": {
                    signal: {"auc": [values[seed], 0.1, 0.9], "phi": [1.0, 0.5, 2.0]}
                    for signal, values in signals.items()
                },
            }
            for seed in range(len(next(iter(signals.values()))))
        ]  # fmt: skip
        runs += [
            runs[seed] | {
                "run": key, "label": key,
                "accuracy": {"full": dict.fromkeys(summary.COLUMNS, 1.0 + gain)},
            }
            for key, values in (gains or {}).items()
            for seed, gain in enumerate(values)
        ]  # fmt: skip
        content = {
            "schema": summary.SCHEMA, "schema_version": summary.SCHEMA_VERSION, "preset": name,
            "about": name, "command": "x", "hardware": "cpu", "versions": {"torch": "2"},
            "descriptions": {"full": "all"}, "groups": "thirds: x", "runs": runs,
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(content))


def outcomes(rows):
    return [row.split(" | ")[-1].strip(" |") for row in rows]


def test_a_prediction_is_open_while_its_interval_holds_chance(monkeypatch, tmp_path):
    loss, isolation = [0.50, 0.60, 0.55, 0.5, 0.45], [0.4, 0.7, 0.6, 0.5, 0.4]
    aucs = {"signals-cifar10": {"loss": loss, "isolation": isolation}}
    five = {"bcl_i_loss": [-1.0, -1.1, -0.9, -1, -1], "bcl_i_isolation": [0.5, -2.6, 0, 0, -1]}
    evidence(monkeypatch, tmp_path, aucs, five)
    rows = signals_page.predictions().splitlines()[2:]
    half, none = (f"open: {value} is within the interval" for value in ("0.5", "0"))
    assert outcomes(rows[:4]) == [half, half, *["open: 0 of 5 seeds"] * 2]
    assert outcomes(rows[4:8]) == [none] * 4
    four = {"bcl_i_loss": [-1.0, -1.1, -0.9, -1], "bcl_i_isolation": [-0.4, -0.6, -0.5, -0.5]}
    evidence(monkeypatch, tmp_path, aucs, four)
    rows = signals_page.predictions().splitlines()[2:]
    assert outcomes(rows[4:8]) == ["open: 4 of 5 seeds"] * 4
    assert "BCL-I by isolation - BCL-I by the loss, All | above 0 | +0.500 ± 0.130" in rows[4]
    evidence(monkeypatch, tmp_path, aucs, {key: [*each, each[-1]] for key, each in four.items()})
    rows = signals_page.predictions().splitlines()[2:]
    assert outcomes(rows[4:8]) == ["held"] * 4


def test_the_page_says_what_became_of_the_predictions(monkeypatch, tmp_path):
    evidence(
        monkeypatch, tmp_path,
        {
            "signals-cifar10": {
                "loss": [0.40, 0.42, 0.41, 0.41, 0.41],
                "isolation": [0.70, 0.72, 0.71, 0.71, 0.71],
            },
            "signals-cifar100": {"loss": [0.40, 0.42, 0.41, 0.41, 0.41]},
        },
    )  # fmt: skip
    rows = signals_page.predictions().splitlines()[2:]
    assert outcomes(rows) == ["held", "held", "failed", *["open: 0 of 5 seeds"] * 9]
    assert "0.410 ± 0.009 (5 seeds)" in rows[0]
    assert "not run yet" in rows[3]
    tables = signals_page.found()
    assert "| isolation | 0.710 ± 0.009 | +0.300 ± 0.000 | 0.70 [0.10, 0.90] |" in tables
    assert "| loss | 0.410 ± 0.009 | – | 0.40 [0.10, 0.90] |" in tables
    assert signals_page.steering() == "*Not run yet.*"  # there is one run only
    monkeypatch.setattr(signals_page, "EVIDENCE", tmp_path / "nothing")
    assert signals_page.found() == signals_page.networks() == "*Not run yet.*"


def test_each_steering_signal_is_a_question_of_its_own(monkeypatch, tmp_path):
    aucs = {"signals-cifar10": {"loss": [0.40] * 5}}
    # p = 0.008: 0.03 after the correction over a signal's four rows, 0.07 over those of two.
    isolation, neighbors = [0.5, 0.7, 1.1, 1.7, 1.0], [1.0, -1.1, 0.2, 0, 0]

    def tables(**gains):
        evidence(monkeypatch, tmp_path, aucs, gains)
        return re.findall(r"(?:^\|.*\n?)+", signals_page.steering(), re.MULTILINE)[1:]

    first, second = tables(bcl_i_isolation=isolation, bcl_i_neighbors=neighbors)
    assert "| bcl_i_isolation | SimCLR | **+1.00 ± 0.57** |" in first
    assert "bcl_i_neighbors | SimCLR" in second
    assert "**" not in second
    (first,) = tables(bcl_i_isolation=[1.0, 1.1, 0.9, 1.0])
    assert "**" not in first  # four seeds
    (first,) = tables(bcl_i_isolation=[0.3, 0.8, 1.1, 2.2, 0.6])  # p = 0.04
    assert "| bcl_i_isolation | SimCLR | +1.00 ± 0.91 |" in first  # rows not done count, too


def test_a_seed_counts_once(monkeypatch, tmp_path):
    evidence(monkeypatch, tmp_path, {"signals-tiny": {"loss": [0.5, 0.6]}})
    path = tmp_path / "signals-tiny.json"
    content = json.loads(path.read_text())
    for run in content["runs"]:
        run["commit"] = "another"
    (tmp_path / "more.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="several commits"):
        signals_page.predictions()


def test_the_overview_of_results_needs_both_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(results_page, "SIGNALS", tmp_path)
    evidence(monkeypatch, tmp_path, {"signals-tiny": {"loss": [0.5, 0.6]}})
    assert "Tiny" not in results_page.table()  # SimCLR alone
    gains = {"bcl_i": [0.5, 0.6]}
    evidence(monkeypatch, tmp_path, {"signals-tiny": {"loss": [0.5, 0.6]}}, gains)
    path = tmp_path / "signals-tiny.json"
    content = json.loads(path.read_text())
    for run in content["runs"]:
        run["tracker"] = {"spearman_classes": 0.25}
    path.write_text(json.dumps(content))
    (row,) = (line for line in results_page.table().splitlines() if "Tiny" in line)
    assert "| 2 | +0.55 ± 0.64 | +0.55 ± 0.64 | – | +0.25 |" in row


def test_other_networks_stand_beside_the_first_paired_by_class_order(monkeypatch, tmp_path):
    aucs = {
        "signals-cifar10": {"loss": [0.40, 0.42, 0.41], "isolation": [0.70, 0.72, 0.71]},
        "signals-networks": {"loss": [0.50, 0.60, 0.70], "isolation": [0.61, 0.70, 0.80]},
    }
    evidence(monkeypatch, tmp_path, aucs)
    path = tmp_path / "signals-networks.json"
    content = json.loads(path.read_text())
    short = [run | {"run": "epochs_50", "label": "short"} for run in content["runs"]]
    content["runs"] = short + [run | {"run": "epochs_400", "label": "long"} for run in short[1:]]
    path.write_text(json.dumps(content))
    text = signals_page.networks()
    assert "| isolation | 0.703 ± 0.236 | 0.710 ± 0.025 | 0.750 ± 0.635 | – | – |" in text
    short = "ResNet-8, 50 epochs: AUC of isolation - of the loss"
    assert f"{short} | above 0 | +0.103 ± 0.014 (3 seeds) |" in text
    assert text.count("not run yet") == 2  # two networks
    assert "400 epochs - 50 epochs | above 0 | +0.000 ± 0.000 (2 seeds)" in text
    assert "epochs_400" not in signals_page.steering()


@pytest.mark.parametrize("name", ["signals", "signals-gpu"])
def test_the_presets_watch_signals_that_exist_and_pair_what_they_compare(name):
    for part in presets.read_preset(name)["parts"]:
        preset = presets.read_preset(part)
        assert len(preset["seeds"]) >= 5
        assert set(preset["settings"]["model"]["init_args"]["memory"]["watch"]) <= {*SIGNALS}
        if part == "signals-networks":
            assert {*preset["runs"], "simclr"} == {*signals_page.NETWORKS}
            continue
        stages = {key: run.get("stage", 1) for key, run in preset["runs"].items()}
        assert stages["simclr"] == stages["bcl_i"] == (2 if part == "signals-gpu-cifar100" else 1)
        assert stages.get("bcl_i_isolation", 2) == 2  # Tiny-ImageNet-LT has none
        assert {*preset["runs"]} == {key for pair in preset["compare"] for key in pair}
