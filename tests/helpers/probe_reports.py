"""Probe reports of made-up runs: of encoders that see more or less through noise."""

import copy
import functools
from dataclasses import replace

import torch
from fakes import QUICK, FakeData, encode

import bcl
from bcl.evaluation import ProbeReport, ProbeResult, shot_groups
from bcl.evaluation.results import ProtocolResult

__all__ = ["by_hand", "recorded", "replace", "strong_and_weak"]


def built_once(build):
    """Build for the first caller of a session; each caller gets a copy."""
    kept = functools.cache(build)
    return functools.wraps(build)(lambda *arguments: copy.deepcopy(kept(*arguments)))


def noisy(seed, strength):
    """An encoder with noise on its features."""

    def noisy_encode(images):
        x = encode(images)
        return x + strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    return noisy_encode


@built_once
def strong_and_weak():
    """Three seeds of two runs, the weaker first."""
    return [
        bcl.evaluate(
            noisy(seed, strength),
            FakeData(),
            "full,10-shot",
            QUICK,
            record={"name": name, "seed": seed},
        )
        for name, strength in (("weak_one", 0.35), ("strong|one", 0.1))
        for seed in range(3)
    ]


@built_once
def recorded(name, seed, strength):
    """A report with all that a page can show: history, tracker, images, configuration."""
    tracker = bcl.MemorizationTracker(128)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for epoch in range(4):
        tracker.update(torch.arange(128), 3 + torch.rand(128, generator=generator))
        tracker.refresh()
        bins = torch.histc(tracker.scores, 20, 0, 1).int().tolist()
        history.append(
            {
                "epoch": epoch, "loss": 3 - epoch / 4, "score_mean": 0.5, "score_histogram": bins,
                "online_linear/all": 0.2 + epoch / 10, "online_linear/few": 0.1,
                "online_knn/all": 0.3 if epoch else None, "online_linear/strange": 0.5,
                "features/effective_rank": 4.0 + epoch if epoch != 1 else None,
                "features/neighbors_kept": epoch / 4 if epoch else None,
            }
        )  # fmt: skip
    record = {
        "name": name, "seed": seed, "history": history, "config": {"x": "</script>"},
        "versions": {"torch": "2"}, "wall_seconds": 1.0, "commit": "abc", "hardware": "cpu",
    }  # fmt: skip
    return bcl.evaluate(
        noisy(seed, strength),
        FakeData(),
        protocols="full,10-shot,knn",
        record=record,
        tracker=tracker,
        earlier_scores=torch.rand(128, generator=generator),
    )


def by_hand(
    name, seed, shares, protocols=("full",), counts=(60, 30, 20, 10, 5, 3), grouping="thirds"
):
    """A report of given class accuracies; the first images of each class are the right ones.

    ``shares`` holds one accuracy per class, or one such row per draw.
    """
    classes, tested = len(counts), 20
    truth = torch.arange(classes).repeat_interleave(tested)
    groups = {grouping: shot_groups(counts, grouping)}
    rows = torch.tensor(shares, dtype=torch.float64).view(-1, classes)
    place = torch.arange(len(truth)) % tested
    predictions = torch.stack(
        [
            torch.where(place < (row * tested).round()[truth], truth, (truth + 1) % classes)
            for row in rows
        ]
    )
    draws = [
        ProbeResult(
            accuracy=float(row.mean()), top5=1.0, per_class_accuracy=row, predictions=answers,
            chosen={"solver": "lbfgs", "train_images": 10 * classes, "tried": []},
            weight=torch.empty(0), bias=torch.empty(0), notes=[],
        )
        for row, answers in zip(rows, predictions, strict=True)
    ]  # fmt: skip
    data = {
        "recipe": "made by hand", "content_hash": "c", "probe_hash": "p", "test_hash": "t",
        "num_classes": classes, "class_names": [f"class {c}" for c in range(classes)],
        "class_counts": list(counts), "train_images": sum(counts), "probe_images": 10 * classes,
        "test_images": len(truth), "test_counts": [tested] * classes, "feature_dimensions": 4,
    }  # fmt: skip
    results = [ProtocolResult.of(p, "linear", "by hand", draws, groups) for p in protocols]
    answers = {"labels": truth, **dict.fromkeys(protocols, predictions)}
    record = {"name": name, "seed": seed}
    return ProbeReport(record, data, groups, results, predictions=answers)
