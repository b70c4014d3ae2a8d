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
def test_only_the_method_differs(name, root):
    table = read(name, root, seeds=[1]).cells
    configs = {cell.key: yaml.safe_load(cell.config) for cell in table}
    for config in configs.values():
        args = config["model"]["init_args"]
        args["views"]["init_args"].pop("boost", None)
        args["views"]["init_args"].pop("chain", None)  # CACR names SimCLR's
        if name != "field":
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
                if len(values) == 5:
                    whole, *groups, std = values
                    mean = sum(
                        share * each for share, each in zip((34, 33, 33), groups, strict=True)
                    )
                    assert mean / 100 == pytest.approx(whole, abs=0.05)
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
    assert "| SimCLR, All | 46.53 | 40.00 |" in text
    assert "| SimCLR, Std | 2.36 | 10.00 |" in text
    assert "51.95" not in text  # of a method that was not run


def test_steps_are_shown_beside_simclr(tmp_path):
    rows = [
        {"contender": "simclr", "median": 100.0, "unit": "ms", "extra": "50 MB"},
        {"contender": "rwsam", "median": 200.0, "unit": "ms", "ratio": 2.0},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"job": "methods", "rows": rows}, {"job": "x", "rows": []}]))
    assert field_page.steps(path) == {
        "simclr": ("100 ms", "50 MB"), "rwsam": ("200 ms (2.00 × SimCLR)", "–"),
    }  # fmt: skip
    assert results_page.EVIDENCE in field_page.EVIDENCE.parents
