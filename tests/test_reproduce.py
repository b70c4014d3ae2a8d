"""The table of methods and seeds that the evidence comes from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reproduce
import results_page
import summary
import yaml

from bcl.errors import InputError
from bcl.evaluation.results import ProbeReport
from bcl.instantiate import instantiate

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.parametrize("name", reproduce.preset_names())
def test_presets_change_what_they_say(name, tmp_path):
    preset = reproduce.read_preset(name)
    root = str(tmp_path) if preset.get("root") else None
    cells = reproduce.table(preset, tmp_path, root, list(preset["runs"]), [3], {})
    configs = {cell.key: yaml.safe_load(cell.config) for cell in cells}
    arguments = {key: config["model"]["init_args"] for key, config in configs.items()}
    boost = {
        key: args["views"]["init_args"]["boost"]["init_args"]
        for key, args in arguments.items()
        if "boost" in args["views"]["init_args"]
    }
    assert configs["simclr"]["seed_everything"] == 3
    assert len({args["encoder"] for args in arguments.values()}) == 1
    assert len({json.dumps(c["trainer"]) for c in configs.values()}) == 1
    shared = ("learning_rate", "warmup_epochs", "projector_layers", "milestones", "image_size")
    for key in shared:
        assert len({json.dumps(args.get(key)) for args in arguments.values()}) == 1, key
    for key in ("scale", "jitter", "jitter_probability"):
        default = {"jitter": [0.4, 0.4, 0.4, 0.1], "jitter_probability": 0.8, "scale": [0.1, 1.0]}
        own = [args["views"]["init_args"].get(key, default[key]) for args in arguments.values()]
        assert len({json.dumps(each) for each in own}) == 1, key
    assert boost["bcl_i_monotone"]["policy"] == "monotone"
    assert boost["bcl_i_k2"]["num_ops"] == 2
    assert arguments["cacr_k4"]["views"]["init_args"]["num_views"] == 5
    assert arguments["bcl_cacr"]["views"]["init_args"]["num_views"] == 2
    assert {pair for pairs in preset["compare"] for pair in pairs} <= set(preset["runs"])


def test_every_run_of_the_cpu_preset_can_be_built(tmp_path):
    preset = reproduce.read_preset("cpu")
    for cell in reproduce.table(preset, tmp_path, str(tmp_path), list(preset["runs"]), [0], {}):
        learner = instantiate(yaml.safe_load(cell.config)["model"])
        assert learner.encoder.num_features == 128, cell.key


def run(*words, folder):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "reproduce.py"), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_runs_a_table_goes_on_and_reports_a_failure(tmp_path):
    preset = {
        "about": "digits",
        "recipe": "digits_lt",
        "seeds": [1],
        "protocols": "full",
        "settings": {
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
            "model": {"init_args": {"encoder_args": {"width": 4}}},
        },
        "runs": {
            "a": {"label": "A", "method": "simclr"},
            "b": {"label": "B", "method": "bcl_i"},
            "bad": {
                "label": "Bad",
                "method": "simclr",
                "settings": {"model": {"init_args": {"learning_rate": "fast"}}},
            },
        },
        "compare": [["b", "a"], ["bad", "a"]],
    }
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(preset))
    words = ["--preset", str(path), "--out", "out", "--jobs", "2"]
    first = run(*words, folder=tmp_path)
    assert first.returncode == 1, first.stderr
    assert "failed: bad-1: fit" in first.stderr
    assert "learning_rate" in first.stderr
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["run"] for row in result["runs"]] == ["a", "b"]
    assert result["command"] == f"python benchmarks/reproduce.py --preset {path}"
    expected = ProbeReport.load(tmp_path / "out" / "probe" / "b-1").protocol("full")
    found = result["means"]["b"]["full"]["all"]["mean"]
    assert found == pytest.approx(100 * expected["summary"]["accuracy"]["mean"])
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    page = results_page.page([result], "")
    assert f"| A | 1 | {result['means']['a']['full']['all']['mean']:.2f} |" in page
    # Again: what is done is not done again.
    stamp = (tmp_path / "out" / "runs" / "a-1" / "run.json").stat().st_mtime_ns
    again = run(*words, "--runs", "a,b", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "runs" / "a-1" / "run.json").stat().st_mtime_ns == stamp
    # Other settings do not mix with it.
    other = run(*words, "--set", "trainer.max_epochs=2", folder=tmp_path)
    assert other.returncode == 2
    assert "has other settings" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "cpuu"], "did you mean 'cpu'"),
        (["--preset", "cpu"], "needs --root"),
        (["--preset", "cpu", "--root", "nowhere"], "nothing at nowhere"),
        (["--preset", "cifar10-lt", "--runs", "simclrr"], "did you mean 'simclr'"),
        (["--preset", "cifar10-lt", "--seeds", "one"], "takes integers"),
        (["--preset", "cifar10-lt", "--set", "trainer.max_epochs"], "PATH=VALUE"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    assert reproduce.main() == 2
    assert said in capsys.readouterr().err


def fake(tmp_path, name, seed, values):
    """A saved report with these accuracies of three classes."""
    entry = {
        "name": "full",
        "description": "all",
        "kind": "linear",
        "notes": [],
        "per_class": values,
        "draws": [],
        "summary": {
            "accuracy": {"mean": sum(values) / 3, "ci95": None},
            "thirds": {
                key: {"mean": value, "ci95": None}
                for key, value in zip(("many", "medium", "few"), values, strict=True)
            },
        },
    }
    report = ProbeReport(
        {"name": name, "seed": seed, "history": [{"loss": 1.0}], "epochs": 1, "commit": "c"},
        {"recipe": "r"},
        {"thirds": {"description": "thirds", "many": [0], "medium": [1], "few": [2]}},
        [entry],
    )
    report.save(tmp_path / f"{name}-{seed}")
    return tmp_path / f"{name}-{seed}"


def test_differences_are_paired_by_seed(tmp_path):
    old = {0: [0.5, 0.4, 0.3], 1: [0.6, 0.5, 0.4], 2: [0.4, 0.3, 0.2]}
    gains = {0: 0.02, 1: 0.03, 2: 0.01}
    paths = {("a", s): fake(tmp_path, "a", s, v) for s, v in old.items()}
    for seed, values in old.items():
        new = [values[0], values[1], values[2] + gains[seed]]
        paths["b", seed] = fake(tmp_path, "b", seed, new)
    paths["b", 7] = fake(tmp_path, "b", 7, [0.9, 0.9, 0.9])  # has no partner
    result = summary.summarise(paths, {"a": "A", "b": "B"}, [("b", "a")], {"about": "x"})
    (row,) = result["differences"]["full"]
    assert row["few"]["by_seed"] == pytest.approx([2.0, 3.0, 1.0])
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.3027.
    assert row["few"]["mean"] == pytest.approx(2.0)
    assert row["few"]["ci95"] == pytest.approx(4.3027 / 3**0.5, rel=1e-3)
    assert row["few"]["p"] == pytest.approx(0.0742, abs=1e-3)
    assert row["few"]["seeds"] == 3
    assert row["many"]["mean"] == pytest.approx(0.0)
    assert result["means"]["b"]["full"]["all"]["seeds"] == 4


def test_a_foreign_file_is_no_result(tmp_path):
    path = tmp_path / "reproduce-x.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="no result of"):
        results_page.read(path)


def test_the_published_page_holds_the_committed_results():
    assert results_page.PAGE.read_text(encoding="utf-8") == results_page.page(
        *results_page.published()
    )
