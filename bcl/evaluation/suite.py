"""Evaluate one encoder under several protocols at once."""

import io
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bcl.errors import InputError
from bcl.evaluation.features import Encode, Progress, extract_features
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.linear import ProbeResult, fit_heads
from bcl.evaluation.metrics import (
    auroc,
    class_accuracy,
    confidence_interval,
    group_accuracy,
    spearman,
)
from bcl.evaluation.protocols import Protocol, parse_protocols
from bcl.evaluation.results import ProbeReport
from bcl.shots import RULES, ShotGroups, shot_groups

NEIGHBOURS = (1, 10, 200)
SHOWN = 16  # pictures at either end of the scores


def evaluate(
    encode: Encode,
    data: Any,
    *,
    protocols: str | Sequence[str] = ("full", "knn"),
    rule: str | None = None,
    record: dict[str, Any] | None = None,
    tracker: Any = None,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ProbeReport:
    """Extract the features once and measure the representation under all protocols.

    Args:
        encode: (B, 3, H, W) uint8 pictures to (B, D) features; a learner's ``encode``.
        data: a datamodule that is set up: ``probe_set()``, ``test_set()``, ``train_set()``,
            ``few_shot(shots, draw)``, ``class_counts``, ``class_names``, ``num_classes``.
        protocols: names, see `bcl.evaluation.protocols.parse_protocols`.
        rule: main grouping rule, ``"thirds"`` or ``"thresholds"``; the data's ``group_rule`` if
            not given. Both are in the report.
        record: what was run, copied into the report.
        tracker: the run's `bcl.MemorizationTracker`, if it has one.
        batch_size: pictures encoded at a time.
        device: where to encode and fit.
        autocast: reduced precision for the encoder.
        seed: of the validation parts.
        progress: called with a name, steps done and steps in all.

    Returns:
        The report.

    Raises:
        InputError: unknown protocol or rule, labels missing, features not finite, too few pictures
            for a few-shot protocol, a tracker of another data set.
    """
    begin = time.perf_counter()
    wanted = parse_protocols(protocols)
    counts = torch.as_tensor(data.class_counts).cpu()
    num_classes = int(data.num_classes)
    main = rule or default_rule(data)
    first = shot_groups(counts, main)
    groups = {main: first}
    if num_classes >= 3:
        groups |= {name: shot_groups(counts, name) for name in RULES if name != main}
    tracked = None if tracker is None else _tracked(tracker, data, counts, num_classes)

    probe, test = data.probe_set(), data.test_set()
    sets = {"probe": probe, "test": test}
    if any(protocol.train == "long-tailed" for protocol in wanted):
        sets["long-tailed"] = data.train_set()
    labels = {name: _labels(pictures, name, num_classes) for name, pictures in sets.items()}
    features = {
        name: extract_features(
            encode, pictures, batch_size=batch_size, device=device, autocast=autocast,
            progress=progress, name=name,
        ).to(device)
        for name, pictures in sets.items()
    }  # fmt: skip
    labels = {name: value.to(device) for name, value in labels.items()}

    entries: list[dict[str, Any]] = []
    predictions: dict[str, Tensor] = {"labels": labels["test"].cpu()}
    for position, protocol in enumerate(wanted):
        if progress is not None:
            progress("probes", position, len(wanted))
        for entry, predicted in _run(protocol, data, features, labels, groups, num_classes, seed):
            entries.append(entry)
            predictions[entry["name"]] = predicted
    if progress is not None:
        progress("probes", len(wanted), len(wanted))

    names = [str(name) for name in getattr(data, "class_names", range(num_classes))]
    return ProbeReport(
        record={**(record or {}), "evaluation_seconds": time.perf_counter() - begin},
        data={
            "recipe": str(getattr(data, "recipe", "")),
            "content_hash": str(getattr(data, "content_hash", "")),
            "probe_hash": str(probe.content_hash),
            "test_hash": str(test.content_hash),
            "num_classes": num_classes,
            "class_names": names,
            "class_counts": counts.tolist(),
            "train_pictures": int(counts.sum()),
            "probe_pictures": len(probe),
            "test_pictures": len(test),
            "test_counts": torch.bincount(predictions["labels"], minlength=num_classes).tolist(),
            "feature_dimensions": features["test"].shape[1],
        },
        groups={
            name: {
                "description": group.description,
                **{key: ids.tolist() for key, ids in group.as_dict().items()},
            }
            for name, group in groups.items()
        },
        protocols=entries,
        tracker=tracked,
        pictures=[] if tracker is None else _pictures(tracker, data, names),
        predictions=predictions,
    )


def default_rule(data: Any) -> str:
    """The data set's own ``group_rule``, or else what the literature uses on data of its kind.

    Args:
        data: the datamodule.

    Returns:
        A name of `bcl.shots.RULES`.
    """
    if getattr(data, "group_rule", None) is not None:
        return str(data.group_rule)
    small = int(getattr(data, "image_size", 32)) <= 32 and 3 <= int(data.num_classes) <= 100
    return "thirds" if small else "thresholds"


def _labels(pictures: Any, name: str, num_classes: int) -> Tensor:
    labels = getattr(pictures, "labels", None)
    if labels is None or labels.numel() != len(pictures):
        raise InputError(f"the {name} set has no label for each of its {len(pictures)} pictures.")
    labels = torch.as_tensor(labels).cpu().to(torch.int64)
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise InputError(
            f"picture {at} of the {name} set has label {int(labels[at])}, outside 0 to "
            f"{num_classes - 1}; a probe needs a label for every picture."
        )
    return labels


def _run(
    protocol: Protocol,
    data: Any,
    features: dict[str, Tensor],
    labels: dict[str, Tensor],
    groups: dict[str, ShotGroups],
    num_classes: int,
    seed: int,
) -> list[tuple[dict[str, Any], Tensor]]:
    x, y = features[protocol.train], labels[protocol.train]
    test_x, test_y = features["test"], labels["test"]
    if protocol.kind == "knn":
        found = []
        for k, predicted in knn_predict(x, y, test_x, NEIGHBOURS, num_classes=num_classes).items():
            name = f"knn@{k}"
            per_class = class_accuracy(predicted, test_y, num_classes)
            draw = {
                "accuracy": float((predicted == test_y).double().mean()),
                "per_class": per_class,
                "chosen": {"solver": "knn", "k": k, "metric": "cosine"},
            }
            description = f"{k} nearest in the {protocol.description}, cosine, equal votes"
            entry = _entry(name, "knn", description, [draw], groups, [])
            found.append((entry, predicted[None].cpu()))
        return found
    if protocol.shots is None:
        subsets = [torch.arange(y.numel(), device=y.device)]
    else:
        subsets = [
            data.few_shot(protocol.shots, draw).to(y.device) for draw in range(protocol.draws)
        ]
    results = fit_heads(x, y, subsets, test_x, test_y, num_classes=num_classes, seed=seed)
    draws = [_draw(result) for result in results]
    notes = sorted({note for result in results for note in result.notes})
    entry = _entry(protocol.name, "linear", protocol.description, draws, groups, notes)
    return [(entry, torch.stack([result.predictions for result in results]))]


def _draw(result: ProbeResult) -> dict[str, Any]:
    return {
        "accuracy": result.accuracy,
        "top5": result.top5,
        "per_class": result.per_class_accuracy,
        "chosen": result.chosen,
    }


def _entry(
    name: str,
    kind: str,
    description: str,
    draws: list[dict[str, Any]],
    groups: dict[str, ShotGroups],
    notes: list[str],
) -> dict[str, Any]:
    """A protocol's entry: its draws, and means with 95 % intervals over them."""
    summary: dict[str, Any] = {"accuracy": _mean([draw["accuracy"] for draw in draws])}
    if "top5" in draws[0]:
        summary["top5"] = _mean([draw["top5"] for draw in draws])
    for rule, group in groups.items():
        rows = [group_accuracy(draw["per_class"], group) for draw in draws]
        summary[rule] = {key: _mean([row[key] for row in rows]) for key in rows[0]}
    per_class = torch.stack([draw["per_class"] for draw in draws]).mean(0)
    return {
        "name": name,
        "kind": kind,
        "description": description,
        "draws": draws,
        "per_class": per_class,
        "summary": summary,
        "notes": notes,
    }


def _mean(values: list[float]) -> dict[str, float]:
    mean, half = confidence_interval(values)
    return {"mean": mean, "ci95": half}


def _tracked(tracker: Any, data: Any, counts: Tensor, num_classes: int) -> dict[str, Any]:
    """Does the tracker find the tail? By class, and as rank correlation and AUROC."""
    labels = _labels(data.train_set(), "long-tailed training", num_classes)
    loss = tracker.momentum_loss.detach().cpu()
    if loss.numel() != labels.numel():
        raise InputError(
            f"the tracker has {loss.numel()} samples, the training set {labels.numel()}; evaluate "
            "a run with the data it was trained on."
        )
    seen, scores = tracker.seen.cpu(), tracker.scores.detach().cpu()
    frequency = counts[labels].double()  # (N,) pictures of the sample's class
    by_class: list[dict[str, Any]] = []
    for class_id in range(num_classes):
        own = seen & (labels == class_id)
        values = loss[own].double()
        if values.numel() == 0:
            by_class.append({"class": class_id, "mean": None, "low": None, "high": None})
            continue
        low, high = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=torch.float64))
        by_class.append(
            {
                "class": class_id,
                "mean": float(values.mean()),
                "low": float(low),
                "high": float(high),
                "score": float(scores[own].mean()),
            }
        )
    threshold = counts[counts > 0].double().median()
    there = torch.tensor([row["mean"] is not None for row in by_class])
    means = torch.tensor([row["mean"] or math.nan for row in by_class], dtype=torch.float64)
    return {
        "samples": int(loss.numel()),
        "seen": int(seen.sum()),
        "spearman_samples": spearman(loss[seen].double(), frequency[seen]),
        "spearman_classes": spearman(means[there], counts[there].double()),
        "auroc_tail": auroc(loss[seen], (frequency < threshold)[seen]),
        "score_histogram": torch.histc(scores[seen], 20, 0, 1).to(torch.int64).tolist(),
        "by_class": by_class,
    }


def _pictures(tracker: Any, data: Any, names: list[str]) -> list[dict[str, Any]]:
    """PNG of the samples at either end of the scores."""
    from PIL import Image

    train = data.train_set()
    seen = tracker.seen.cpu().nonzero()[:, 0]
    if seen.numel() == 0:
        return []
    scores = tracker.scores.detach().cpu()[seen]
    order = seen[torch.sort(scores, stable=True).indices]
    count = min(SHOWN, order.numel() // 2)
    found = []
    for which, ids in (("highest", order.flip(0)[:count]), ("lowest", order[:count])):
        images = train.pictures(ids)
        for place, (sample, image) in enumerate(zip(ids.tolist(), images, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "PNG")
            label = int(train.labels[sample])
            found.append(
                {
                    "which": which,
                    "id": sample,
                    "label": label,
                    "class_name": names[label],
                    "score": float(tracker.scores[sample]),
                    "file": f"pictures/{which}_{place:02d}.png",
                    "png": buffer.getvalue(),
                }
            )
    return found
