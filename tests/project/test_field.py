"""The presets that compare all methods, and the page of their tables."""

import json
import statistics

import cells
import collect
import field_page
import preset as presets
import pytest
import results_page
import summary
import torch
import yaml
from preset_files import fake, write

from bcl.cli.configuration import parts
from bcl.core.errors import InputError
from bcl.core.instantiate import instantiate
from bcl.evaluation.protocols import parse_protocols

NAMES = ("field", "field-gpu", "field-gpu-gh")
FIRST = {"simclr", "sdclr", "bcl_i", "ts", "gh", "bcl_gh", "isogclr", "pruned"}
# By another signal than the loss: docs/signals.md compares these.
STEERED = {"bcl_i_isolation", "bcl_i_misalignment", "bcl_i_neighbors", "bcl_i_tailness"}


@pytest.fixture
def root(tmp_path):
    """A folder with the names of the images."""
    for name in ("cifar100-webp.zip", "tiny-imagenet-lt.zip"):
        (tmp_path / name).touch()
    return tmp_path


def read(name, root, **changes):
    arguments = {"runs": None, "seeds": None, "changes": {}} | changes
    (part,) = cells.read_parts(name, str(root), root / "out", **arguments)
    return part


@pytest.mark.parametrize("name", NAMES)
def test_the_presets_have_every_method_and_pair_it(name, root):
    preset = presets.read_preset(name)
    assert {run["method"] for run in preset["runs"].values()} == set(parts("methods")) - STEERED
    assert {*preset["runs"]} == {key for pair in preset["compare"] for key in pair}
    part = read(name, root)
    order = collect.to_do([collect.Results(part, "command")])
    assert len(order) == 5 * len(preset["runs"])
    assert {cell.key for cell in order[:24]} == FIRST
    assert [cell.seed for cell in order[:24]] == [0] * 8 + [1] * 8 + [2] * 8
    assert {cell.seed for cell in order[: 3 * len(preset["runs"])]} == {0, 1, 2}


@pytest.mark.parametrize("name", NAMES)
def test_what_differs_besides_the_method_is_on_the_page(name, root):
    table = read(name, root, seeds=[1]).cells
    configs = {cell.key: yaml.safe_load(cell.config) for cell in table}
    models = {key: config["model"]["init_args"] for key, config in configs.items()}
    others = {
        (part, option): {key for key, args in models.items() if option in args.get(part, {})}
        for part, option in (
            ("schedule", "restart"), ("optimizer", "weight_decay"),
            ("optimizer", "decay_norm_and_bias"), ("projector", "features"),
        )
    }  # fmt: skip
    on_cpu, alike = name == "field", name != "field-gpu"
    assert others["schedule", "restart"] == {"gh", "bcl_gh", "sdclr_gh", "cacr_gh"}
    decayed = {"ts", "pruned", "sdclr", "bcl_d", "sdclr_gh", "sdclr_straight"}
    assert others["optimizer", "weight_decay"] == (set(models) if alike else decayed)
    assert {args["optimizer"].get("weight_decay") for args in models.values()} == (
        {5e-4} if alike else {1e-4, None}
    )
    assert others["optimizer", "decay_norm_and_bias"] == {"cacr_mocov3"}
    assert others["projector", "features"] == {"cacr_mocov3"}
    projectors = {key: args.get("projector") for key, args in models.items()}
    other = {key for key, value in projectors.items() if value != projectors["simclr"]}
    assert other == ({"cacr_moco", "cacr_mocov3"} if on_cpu else {"cacr_mocov3"})
    for key in ("isogclr", "sogclr"):
        assert models[key]["loss"]["init_args"]["temperature"] == 0.1
    watching = {key for key, args in models.items() if args["memory"].get("loss")}
    assert watching == {"ts", "gh", "bcl_gh", "sdclr_gh", "cacr_gh", "colt", "bcl_colt"}
    for config in configs.values():
        args = config["model"]["init_args"]
        args["views"]["init_args"].pop("boost", None)
        args["views"]["init_args"].pop("chain", None)  # CACR names SimCLR's
        if not alike:
            args["optimizer"].pop("weight_decay", None)
        for key in ("sharpness", "decay_norm_and_bias"):  # of rwSAM, and of MoCo v3
            args["optimizer"].pop(key, None)
        for key in ("restart", "restart_learning_rate"):  # of GH
            args["schedule"].pop(key, None)
        config["data"]["init_args"].pop("selection", None)
    for path in (("data",), ("trainer",)):
        assert (
            len({json.dumps(config[path[0]], sort_keys=True) for config in configs.values()}) == 1
        )
    for part in ("encoder", "optimizer", "schedule"):
        values = {
            key: json.dumps(config["model"]["init_args"][part], sort_keys=True)
            for key, config in configs.items()
        }
        assert len(set(values.values())) == 1, values
    views = [instantiate(config["model"]["init_args"]["views"]) for config in configs.values()]
    assert {each.num_views for each in views} == {2}
    assert configs["simclr"]["data"]["init_args"]["split_seed"] == 1


@pytest.mark.filterwarnings("default::bcl.core.errors.InputWarning")  # of a batch below clusters
@pytest.mark.slow
def test_every_run_is_built_and_stepped(root):
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    for cell in read("field", root, seeds=[0]).cells:
        spec = yaml.safe_load(cell.config)["model"]
        spec["init_args"]["num_samples"] = 8
        spec["init_args"]["encoder"]["compile"] = False  # half a minute for each
        method = instantiate(spec)
        scores = None if method.views.boost is None else torch.linspace(0, 1, 8)
        views = method.views(images, scores=scores, ids=torch.arange(8), epoch=0)
        losses, watched = method.sample_losses(views, torch.arange(8))
        losses.mean().backward()
        assert losses.shape == (8,), cell.key
        steps = {"loss", "isolation", "tailness"} if "_moco" not in cell.key else {"loss"}
        assert steps <= set(watched), cell.key
        assert all(each.isfinite().all() for each in watched.values()), cell.key


def test_external_images_are_found_beside_the_others(root):
    table = {cell.key: yaml.safe_load(cell.config) for cell in read("field", root, seeds=[0]).cells}
    data = {key: config["data"]["init_args"] for key, config in table.items()}
    assert {each["root"] for each in data.values()} == {str(root / "cifar100-webp.zip")}
    chosen = {
        key: each["selection"].get("root") for key, each in data.items() if "selection" in each
    }
    pool = str(root / "tiny-imagenet-lt.zip")
    assert chosen == {
        "balanced": None, "random_external": pool, "colt": pool, "mak": pool, "bcl_colt": pool,
    }  # fmt: skip
    some = {"runs": ["simclr", "colt"], "seeds": [0]}
    before = [cell.settings for cell in read("field", root, **some).cells]
    (root / "tiny-imagenet-lt.zip").rename(root / "tiny-imagenet-lt")
    assert [cell.settings for cell in read("field", root, **some).cells] == before
    (root / "tiny-imagenet-lt").rename(root / "elsewhere")
    assert len(read("field", root, runs=["simclr"]).cells) == 5  # needs none
    with pytest.raises(InputError, match="tiny-imagenet-lt"):
        read("field", root, **some)


def test_a_protocol_with_several_results_is_done_when_all_are_there(root):
    cell = read("field", root, runs=["simclr"], seeds=[0]).cells[0]
    names = [name for each in parse_protocols(cell.protocols) for name in each.results]
    assert "long-tailed-knn@10" in names
    cell.report.mkdir(parents=True)
    for count in (len(names) - 1, len(names)):
        content = {"protocols": [{"name": name} for name in names[:count]]}
        (cell.report / "report.json").write_text(json.dumps(content))
        assert collect.is_probed(cell) == (count == len(names))


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"knn@7": {"source": "x", "runs": {"a": [1.0]}}}, "protocol in published"),
        ({"full": {"source": "x", "runs": {"z": [1.0]}}}, "run in published"),
        ({"full": {"source": "x", "runs": {"a": [1.0, 2.0]}}}, "All, Many"),
    ],
)
def test_published_numbers_name_what_is_there(published, message, tmp_path):
    with pytest.raises(InputError, match=message):
        presets.read_preset(write(tmp_path / "x.yaml", published=published))


def test_published_groups_make_up_their_mean():
    for name in ("field-gpu", "field-gpu-gh"):
        for entry in presets.read_preset(name)["published"].values():
            for values in entry["runs"].values():
                whole, groups = values[0], values[1:4]
                if groups:
                    mean = sum(
                        share * each for share, each in zip((34, 33, 33), groups, strict=True)
                    )
                    assert mean / 100 == pytest.approx(whole, abs=0.05)
                for std in values[4:]:
                    assert statistics.stdev(groups) == pytest.approx(std, abs=0.02)


def test_the_page_shows_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(field_page, "EVIDENCE", tmp_path)
    assert field_page.tables() == "*Not run yet.*"
    reports = {}
    for run, values in {"simclr": [0.5, 0.4, 0.3], "gh": [0.5, 0.5, 0.4]}.items():
        for seed in (0, 1):
            reports[run, seed] = fake(tmp_path, run, seed, [each + 0.01 * seed for each in values])
    labels = {"simclr": "SimCLR", "gh": "GH"}
    about = {"preset": "field", "about": "a table", "command": "x"}
    summary.write(tmp_path / "field.json", summary.summarize(reports, labels, about))
    text = field_page.tables()
    assert "| SimCLR | 2 | 40.50 ± 6.35 | 50.50 ± 6.35 |" in text
    assert "| 10.00 ± 0.00 |" in text  # Std of 50, 40 and 30
    assert "No published number is of this protocol" in text
    assert "| GH | SimCLR |" in text
    assert "hours by the clock, pauses and other work included" in text
    assert "counts all 9 comparisons of the stage" in text
    assert "3.1 times its printed" in text
    assert "stage 2" not in text  # none of its runs is there
    (tmp_path / "field.json").unlink()
    # One run of one seed, of a preset with published numbers of another protocol.
    one = {("simclr", 0): reports["simclr", 0]}
    about["preset"] = "field-gpu"
    found = summary.summarize(one, labels, about)
    summary.write(tmp_path / "field-gpu.json", found)
    assert "No run of a method with published numbers is done yet" in field_page.tables()
    found["runs"][0]["accuracy"]["100-shot:adam"] = found["runs"][0]["accuracy"]["full"]
    summary.write(tmp_path / "field-gpu.json", found)
    text = field_page.tables()
    assert "| SimCLR | SimCLR | All | 46.53 | 40.00 |" in text
    assert "| SimCLR | SimCLR | Std | 2.36 | 10.00 |" in text
    assert "51.95" not in text  # of a method that was not run


def test_stages_are_families_of_comparisons_whether_run_or_not():
    found = field_page.stages(presets.read_preset("field"))
    assert [len(pairs) for pairs in found.values()] == [9, 14, 6]
    assert {run for pair in found[1] for run in pair} == FIRST
    # Of the largest of m differences with n seeds, t(1 - 0.025 / m) over t(0.975) is needed.
    assert field_page.threshold(9, 3) == pytest.approx(3.11, abs=0.01)


def test_differences_are_bold_by_the_whole_family_and_from_three_seeds(tmp_path):
    gains = {0: 0.10, 1: 0.11, 2: 0.115}
    reports = {}
    for seed, gain in gains.items():
        for run, more in (("simclr", 0), ("gh", gain)):
            reports[run, seed] = fake(tmp_path, run, seed, [0.5 + more, 0.5 + more, 0.5 + more])
    labels = {"simclr": "SimCLR", "gh": "GH"}

    def shown(seeds, family):
        chosen = {key: path for key, path in reports.items() if key[1] in seeds}
        result = summary.summarize(chosen, labels, {})
        pairs = [["gh", "simclr"]] + [["ts", "simclr"]] * (family - 1)
        text, *_ = field_page.differences({**result, "pairs": pairs}, 1, "full", [])[1:]
        other = field_page.gains_by_protocol({**result, "pairs": pairs}, ["full"])
        assert ("**" in text) == ("**" in other)
        return "**" in text

    assert shown({0, 1, 2}, 9)  # p is 0.002
    assert not shown({0, 1, 2}, 50)  # as many comparisons, none but this one done
    assert not shown({0, 1}, 1)


def test_gains_of_other_protocols_are_paired(tmp_path):
    values = {"simclr": [0.4, 0.4, 0.4], "gh": [0.5, 0.5, 0.5]}
    reports = {(run, 0): fake(tmp_path, run, 0, row) for run, row in values.items()}
    result = summary.summarize(reports, {"simclr": "SimCLR", "gh": "GH"}, {})
    for each in result["runs"]:
        each["accuracy"]["knn"] = {"all": 20.0 if each["run"] == "gh" else 17.5}
    result["pairs"] = [["gh", "simclr"], ["ts", "simclr"]]
    parts = field_page.differences(result, 1, "full", ["knn"])
    assert "| GH | SimCLR | +2.50 |" in parts[-1]
    assert "TS" not in parts[-1]


def test_published_names_say_what_is_not_known(tmp_path):
    reports = {("bcl_i", 0): fake(tmp_path, "bcl_i", 0, [0.5, 0.5, 0.5])}
    result = summary.summarize(reports, {"bcl_i": "BCL-I"}, {})
    result["runs"][0]["accuracy"]["full+crop:adam"] = result["runs"][0]["accuracy"]["full"]
    published = presets.read_preset("field-gpu-gh")["published"]
    (entry,) = published.values()
    assert set(entry["names"]) <= set(entry["runs"])
    text = field_page.beside_published(result, published)
    assert "from memory, checked against its group means" in text
    assert "| BCL-I | BCL, variant not stated | All | 55.80 | 50.00 |" in text


def test_signals_that_were_recorded_are_shown():
    auc = {"loss": {"auc": [0.6]}, "isolation": {"auc": [0.55]}}
    result = {
        "runs": [
            {"run": "simclr", "label": "SimCLR", "signals": auc},
            {
                "run": "isogclr",
                "label": "iSogCLR",
                "signals": auc | {"temperature": {"auc": [0.4]}},
            },
        ]
    }
    text = field_page.discovery(result)
    assert "| method | loss watched | isolation | learned temperature |" in text
    assert "| SimCLR | 0.600 | 0.550 | – |" in text
    assert "| iSogCLR | 0.600 | 0.550 | 0.400 |" in text


def test_steps_say_how_they_were_measured(tmp_path):
    ratio = {"ratio": 0.934, "ratio_low": 0.921, "ratio_high": 1.08}
    rows = [
        {"contender": "simclr", "case": "a case", "median": 636.0, "unit": "ms", "extra": "50 MB"},
        {"contender": "ts", "median": 690.0, "unit": "ms", **ratio},
        {"contender": "cacr", "median": 2000.0, "unit": "ms", **ratio},
    ]
    about = {
        "command": "python x.py --threads 1", "commit": "c", "date": "d", "hardware": "h",
        "clock": "wall", "seed": 0, "versions": {"python": "3", "torch": "2"}, "notes": ["A note."],
    }  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"job": "methods", "rows": rows, **about}]))
    preset = presets.read_preset("field")
    runs = [{"run": run, "label": preset["runs"][run]["label"]} for run in ("simclr", "ts", "cacr")]
    text = "\n".join(field_page.costs({"preset": "field", "runs": runs}, preset, path))
    assert "a case" in text
    assert "python x.py --threads 1" in text
    assert "A note." in text
    assert "within the noise" in text
    assert "| SimCLR | 636 ms | 50 MB |" in text
    assert "| TS | 0.934 × SimCLR (0.921 to 1.08) | – |" in text
    assert "690" not in text  # beside SimCLR's time it would say another ratio
    assert "| CACR, K = 1 | – | – |" in text  # of five views, and here it has two
    (text,) = field_page.costs({"preset": "field-gpu", "runs": runs}, preset, path)
    assert "not measured yet" in text
    assert results_page.EVIDENCE in field_page.EVIDENCE.parents
