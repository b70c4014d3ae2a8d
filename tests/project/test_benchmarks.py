"""The benchmarks run at toy size, and `make bench` keeps what it has."""

import doctest
import importlib
import importlib.util
import json
import runpy
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def jobs():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("run").JOBS
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.slow
@pytest.mark.parametrize("job", jobs(), ids=lambda job: job.name)
def test_runs_at_toy_size(job, module, monkeypatch, tmp_path):
    if "packed" in job.name and importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed: pip install 'bcl-cacr[datasets]'")
    words = shlex.split(job.quick)
    path = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", [str(FOLDER / words[0]), *words[1:], "--json", str(path)])
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    status = None
    try:
        runpy.run_path(str(FOLDER / words[0]), run_name="__main__")
    except SystemExit as end:
        status = end.code
    finally:
        torch.set_num_threads(threads)
    assert not status
    found = module("results").load(path)
    assert found["command"] == f"python benchmarks/{job.quick}"
    assert found["rows"]
    assert {"commit", "date", "hardware", "versions", "seed", "clock", "threads"} <= found.keys()
    assert all(row["low"] <= row["median"] <= row["high"] for row in found["rows"])
    assert any(row["ours"] for row in found["rows"])
    assert not any("did not run" in note for note in found["notes"])
    assert module("page").table([found]).count("\n") == 1 + sum(
        not r["ours"] for r in found["rows"]
    )


def test_all_jobs_name_options_that_their_benchmark_has():
    for job in jobs():
        text = (FOLDER / job.full.split()[0]).read_text(encoding="utf-8")
        for word in job.full.split() + job.quick.split():
            if word.startswith("--"):
                assert f'"{word}"' in text, f"{job.name}: {word}"


def test_ratios_are_round_by_round(module):
    values = {"ours": [1.0, 2.0, 4.0], "other": [3.0, 6.0, 12.0], "once": [8.0]}
    rows = module("results").compare("case", "ms", values, ours="ours")
    assert [row["contender"] for row in rows] == ["ours", "other", "once"]
    assert rows[1]["ratio"] == rows[1]["ratio_low"] == rows[1]["ratio_high"] == 3.0
    assert rows[2]["ratio"] == 4.0  # of the medians, as the rounds do not pair
    rates = module("results").compare("case", "1/s", values, ours="ours", better="higher")
    assert rates[1]["ratio"] == pytest.approx(1 / 3)


def test_a_failure_costs_no_other_result(module, monkeypatch, tmp_path, capsys):
    run, results = module("run"), module("results")
    good = "import results\nresults.save(__import__('sys').argv[2], 'good', results.compare("
    good += "'case', 'ms', {'ours': [1.0], 'other': [2.0]}, ours='ours'))"
    (tmp_path / "good.py").write_text(f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\n{good}")
    (tmp_path / "bad.py").write_text("raise SystemExit('the reason')")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(
        run, "JOBS", (run.Job("bad", "bad.py", "bad.py"), run.Job("good", "good.py", "good.py"))
    )
    monkeypatch.setattr(run, "commit", lambda: "abc")
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out")])
    assert run.main() == 1
    said = capsys.readouterr()
    assert "the reason" in said.err
    assert "| case | ours: 1.00 ms | other: 2.00 ms | **2.00** |" in said.out
    assert "1 of 2 results" in said.out
    # A second call runs what has failed alone, as long as commit and command are the same.
    kept = tmp_path / "out" / "good.json"
    content = results.load(kept)
    kept.write_text(json.dumps({**content, "commit": "abc"}))
    assert run.main() == 1
    assert "good: already done" in capsys.readouterr().out
    # One that was ended between two rounds is made again.
    partial = [f"{results.PARTIAL}1 of 3"]
    kept.write_text(json.dumps({**content, "commit": "abc", "notes": partial}))
    run.main()
    assert "good: already done" not in capsys.readouterr().out
    # One that lacks a contender is made again where that one can run.
    lacking = {**content, "commit": "abc", "notes": results.left_out({"LightlyTrain": []})}
    for place, again in ((None, False), ("python", True)):
        kept.write_text(json.dumps(lacking))
        if place:
            monkeypatch.setenv("LIGHTLY_TRAIN", place)
        run.main()
        assert ("good: already done" not in capsys.readouterr().out) == again


def test_a_job_that_takes_too_long_ends_with_all_that_it_started(module, monkeypatch, tmp_path):
    run = module("run")
    started = tmp_path / "started"
    child = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(60)"
    (tmp_path / "slow.py").write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    monkeypatch.setattr(run, "HERE", tmp_path)
    problem = run.run(run.Job("slow", "slow.py", "slow.py", minutes=4 / 60), tmp_path, False)
    assert problem is not None
    assert "not done after" in problem
    assert started.exists()
    status = Path("/proc", (tmp_path / "slow.log").read_text().strip(), "stat")
    for _ in range(50):  # until it has been collected
        if not status.exists() or ") Z " in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


@pytest.mark.parametrize("content", ["", "{x", "[]", "{}", "[{}]"])
def test_damaged_published_results_are_refused_before_a_job_runs(
    module, monkeypatch, tmp_path, capsys, content
):
    run = module("run")
    published = tmp_path / "results.json"
    published.write_text(content)
    monkeypatch.setattr(run, "PUBLISHED", published)
    monkeypatch.setattr(run, "run", None)
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out"), "--publish"])
    with pytest.raises(SystemExit):
        run.main()
    assert "results.json is damaged" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(published)])
    with pytest.raises(SystemExit):
        run.main()
    assert "cannot be a folder of results" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "{x", '{"schema": "bcl-cacr/benchmark"}'])
def test_a_file_that_is_no_result_is_made_again(module, tmp_path, content):
    run = module("run")
    (tmp_path / "views.json").write_text(content)
    assert not run.is_done(run.Job("views", "views.py", "views.py"), tmp_path, False)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345.6, "12,300"), (0.01234, "0.0123"), (1.5, "1.50"), (99.95, "100"),
     (0.9996, "1.00"), (7.046, "7.05")],
)  # fmt: skip
def test_numbers_have_three_digits(module, value, text):
    assert module("page").number(value) == text


def test_publishing_some_jobs_keeps_the_others(module, monkeypatch, tmp_path, capsys):
    run, results = module("run"), module("results")
    for name in ("old", "new"):
        rows = results.compare("case", "ms", {"ours": [1.0], name: [2.0]}, ours="ours")
        results.save(tmp_path / f"{name}.json", name, rows)
    published = tmp_path / "results.json"
    first = {"job": "old", **results.load(tmp_path / "old.json")}
    card = {**first, "job": "card"}  # made on another machine, which had a GPU
    published.write_text(json.dumps([first, card]))
    (tmp_path / "new.py").write_text(
        f"import shutil, sys\nshutil.copy({str(tmp_path / 'new.json')!r}, sys.argv[2])"
    )
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "PUBLISHED", published)
    monkeypatch.setattr(
        run,
        "JOBS",
        tuple(run.Job(n, f"{n}.py", f"{n}.py", gpu=n == "card") for n in ("new", "old", "card")),
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["run.py", "--out", str(tmp_path / "out"), "--only", "new", "card", "--publish"]
    monkeypatch.setattr(sys, "argv", words)
    assert run.main() == 0
    found = json.loads(published.read_text())
    assert [each["job"] for each in found] == ["new", "old", "card"]
    assert [each["rows"][0]["median"] for each in found] == [1.0] * 3
    assert found[2]["rows"][1] == {
        "case": "case", "contender": "old", "ours": False, "unit": "ms", "median": 2.0,
        "ratio": 2.0, "ratio_low": 2.0, "ratio_high": 2.0,
    }  # fmt: skip
    assert found[1] == {**found[2], "job": "old"}
    assert "no GPU here; left out: card\n" in capsys.readouterr().out
    assert "| other" not in module("page").section(found)
    assert module("page").section(found).count("**2.00**") == 3


def test_formulas_have_the_check_values(module):
    rows = module("check_values").deviations()
    assert len(rows) >= 35
    for name, difference, half in rows:
        assert difference <= 2 * half, name


def test_a_formula_that_gives_nan_is_beyond(module, monkeypatch, capsys):
    checks = module("check_values")
    monkeypatch.setattr(checks, "deviations", lambda: [("a", float("nan"), 1.0), ("b", 0.0, 1.0)])
    assert checks.main() == 1
    assert "beyond one unit: a\n" in capsys.readouterr().out


def test_growth_is_that_of_the_larger_half(module, monkeypatch):
    growth = module("growth")

    def point(words, **_):
        n = json.loads(words[-1])["images"]
        cost = max(n / 1000, 1.0)  # small ones are fixed cost
        found = {"wall": cost, "processor": cost**2, "megabytes": cost}
        return subprocess.CompletedProcess(words, 0, json.dumps(found), "")

    monkeypatch.setattr(growth.subprocess, "run", point)
    for sizes in ((100, 1000, 10_000), (10, 100, 1000, 10_000), (1000, 10_000)):
        rows, note = growth.grow("discover", "images", sizes)
        assert "time as n^2.00, memory as n^1.00" in note
        assert "10,000,000 would take 1,200 days of processor time and 10 GB" in note
        assert [row["median"] for row in rows][-2:] == [1.0, 100.0]


def test_what_more_images_take_grows_at_least_with_the_final_exponent(module):
    found = [{"processor": n**1.5, "megabytes": 5.0} for n in (1e4, 1e5, 1e6)]
    note = module("growth").describe("pairs", 2.0, (10_000, 100_000, 1_000_000), found)
    last, step = found[-1]["processor"], found[-1]["processor"] - found[-2]["processor"]
    days = (last + 100 * step) / 86400
    assert "time as n^1.50" in note
    assert f"10,000,000 would take {float(f'{days:.2g}'):,g} days of processor time" in note


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("growth.py --sizes 300", "--sizes is 300; growth needs two different ones"),
        ("growth.py --only embed --over classes", "--over is classes; embed can grow over images"),
        ("growth.py --only probe embed --over classes", "embed can grow over images"),
        ("peers.py --epochs 1", "--epochs is 1; give 2 or more"),
        ("peers.py --size 4", "--size is 4; give 8 or more"),
        ("peers.py --rounds 0", "--rounds is 0; give 1 or more"),
        ("peers.py --images 4", "--images is 4; give at least one batch, 128"),
        ("peers.py --encoder resnet1", "--encoder is resnet1, no model of timm"),
        ("peers.py", "LIGHTLY_TRAIN is 'no/python', no program"),
        ("losses.py --without bcl", "argument --without: invalid choice: 'bcl'"),
        ("losses.py --threads 0", "--threads is 0; give 1 or more"),
        ("losses.py --sizes 100", "no case has these --loss, --sizes and --views"),
        ("views.py --alone --only v3", "--only is v3, which chooses none of ours"),
        ("views.py --batch 0", "--batch is 0; give 1 or more"),
        ("views.py --threads 8 --batch 4", "--threads is 8; give from 1 to 4"),
        ("billion.py --root no/folder", "--root is no/folder, which holds no .jpg"),
        ("embedding.py --rounds 0", "--rounds is 0; give 1 or more"),
        ("embedding.py --only plain", "--only needs ours"),
        ("embedding.py", "LIGHTLY_TRAIN is 'no/python', no program"),
    ],
)
def test_bad_input_is_one_clear_error(module, monkeypatch, capsys, words, said):
    script, *options = words.split()
    monkeypatch.setenv("LIGHTLY_TRAIN", "no/python")
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as end:
        module(script.removesuffix(".py")).main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_steps_that_grow_draw_no_order_of_all_images(module, monkeypatch):
    work = module("growth").train(images=20, batch=4, views=2, width=8)
    monkeypatch.setattr("torch.randperm", None)  # it would cost more than a step of ten million
    work()


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted(FOLDER.glob("*.py")) if ">>>" in path.read_text("utf-8")]
)
def test_examples_hold(module, name):
    found = doctest.testmod(module(name))
    assert found.attempted
    assert not found.failed
