"""Presets of small runs, and reports of runs that were never made."""

import statistics

import yaml

from bcl.evaluation.results import Draw, Estimate, ProbeReport, ProtocolResult
from bcl.evaluation.shots import shot_groups

SMALL = {
    "about": "digits",
    "recipe": "digits_lt",
    "seeds": [0, 1],
    "protocols": "full",
    "runs": {"a": {"label": "A", "method": "simclr"}, "b": {"label": "B", "method": "bcl_i"}},
}


def write(path, **changes):
    """A preset file with these changes; None leaves a key out."""
    preset = {key: value for key, value in (SMALL | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(preset))
    return str(path)


def fake(tmp_path, name, seed, values):
    """A saved report with these accuracies of three classes."""
    mean = Estimate.of([sum(values) / 3])
    groups = zip(("many", "medium", "few"), (Estimate.of([v]) for v in values), strict=True)
    groups = {**dict(groups), "std_sample": Estimate.of([statistics.stdev(values)])}
    draws = [Draw(mean.mean, mean.mean, values, {})]
    entry = ProtocolResult(
        "full", "linear", "all", draws, values, mean, mean, {"thirds": groups}, []
    )
    counts = [3, 2, 1]
    data = {
        "recipe": "r",
        "test_hash": "t",
        "test_images": 3,
        "num_classes": 3,
        "test_counts": [1] * 3,
    }
    report = ProbeReport(
        {
            "name": name,
            "seed": seed,
            "history": [{"loss": 1.0}],
            "epochs": 1,
            "commit": "c",
            "versions": {"torch": "2"},
        },
        data | {"class_names": ["a", "b", "c"], "class_counts": counts},
        {"thirds": shot_groups(counts)},
        [entry],
    )
    report.save(tmp_path / f"{name}-{seed}")
    return tmp_path / f"{name}-{seed}"
