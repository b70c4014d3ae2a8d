"""Evaluate one encoder under several protocols at once."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError, unknown_name
from bcl.core.random import permutation
from bcl.evaluation.crops import CroppedSet
from bcl.evaluation.features import (
    Encode,
    FeatureCache,
    ImageDataset,
    Progress,
    extract_features,
    layer_encoder,
)
from bcl.evaluation.finetune import DEFAULT_EPOCHS, fine_tune
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.measures import representation_measures, tail_discovery
from bcl.evaluation.metrics import class_accuracy, confidence_interval, group_accuracy
from bcl.evaluation.probe.linear import (
    ProbeOptions,
    ProbeResult,
    absence_notes,
    check_features,
    fit_heads,
    judge,
    values,
)
from bcl.evaluation.probe.presets import GRADIENT_SOLVERS
from bcl.evaluation.protocols import Protocol, parse_protocols
from bcl.evaluation.results import ProbeReport
from bcl.evaluation.shots import RULES, ShotGroups, shot_groups

NEIGHBORS = {"probe": (1, 10, 200), "long-tailed": (1, 10)}
SHOWN = 16  # images at either end of the scores
VIEWED = 1024  # test images whose two views give the alignment


class _Evaluation:
    """What the protocols of one evaluation share."""

    def __init__(
        self, data: Any, encode: Encode, method: nn.Module | None, main: str | None
    ) -> None:
        self.data, self.encode, self.method = data, encode, method
        self.num_classes = int(data.num_classes)
        self.counts = torch.as_tensor(data.class_counts).cpu()
        rule = main or default_rule(data)
        self.groups = {rule: shot_groups(self.counts, rule)}
        if self.num_classes >= 3:
            for name in RULES:
                self.groups.setdefault(name, shot_groups(self.counts, name))
        self.sets: dict[str, ImageDataset] = {}
        self.labels: dict[str, Tensor] = {}
        self.features: dict[str, Tensor] = {}

    @property
    def main_groups(self) -> ShotGroups:
        return next(iter(self.groups.values()))


def evaluate(
    encode: Encode,
    data: Any,
    *,
    protocols: str | Sequence[str] = ("full", "knn"),
    rule: str | None = None,
    record: dict[str, Any] | None = None,
    tracker: Any = None,
    earlier_scores: Tensor | None = None,
    method: nn.Module | None = None,
    layer: str = "pooled",
    measures: bool = True,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    autocast: torch.dtype | None = None,
    cache: FeatureCache | None = None,
    l2: float | Sequence[float] | None = None,
    learning_rate: float | Sequence[float] | None = None,
    epochs: int | None = None,
    finetune_epochs: int | None = None,
    selection: str = "last",
    seed: int = 0,
    progress: Progress | None = None,
) -> ProbeReport:
    """Extract the features once and measure the representation under all protocols.

    With a process group, the ranks share the extraction; the report is the same on every rank and
    equal to that of one process.

    Args:
        encode: (B, 3, H, W) uint8 images to (B, D) features; a method's ``encode``.
        data: a datamodule that is set up: ``probe_set()``, ``test_set()``, ``train_set()``,
            ``few_shot(shots, draw)``, ``class_counts``, ``class_names``, ``num_classes``.
        protocols: names, see `bcl.evaluation.protocols.parse_protocols`.
        rule: main grouping rule, ``"thirds"`` or ``"thresholds"``; the data's ``group_rule`` if
            not given. Both are in the report.
        record: what was run, copied into the report.
        tracker: the run's `bcl.MemorizationTracker`, if it has one.
        earlier_scores: (N,) memorization scores of an earlier epoch; the report then shows the
            samples that moved most.
        method: the module that ``encode`` belongs to, for fine-tuning and other layers; found by
            itself if ``encode`` is a method of it.
        layer: which layer is read, see `bcl.evaluation.features.layer_encoder`.
        measures: also compute uniformity, alignment and class spread.
        batch_size: images encoded at a time.
        device: where to encode and fit.
        autocast: reduced precision for the encoder.
        cache: keep the features on disk; its key must name the weights and the layer.
        l2: penalty of lbfgs and ridge, or several to choose from on a validation part; searched if
            not given.
        learning_rate: of adam, sgd and cacr, or several to choose from likewise; the protocol's if
            not given.
        epochs: other than the protocol's, for adam, sgd and cacr.
        finetune_epochs: 20 for the whole set and 60 for a share if not given.
        selection: ``"last"``, or ``"best_test"`` for adam, sgd and cacr, flagged in the report.
        seed: of validation parts, orders and fine-tuning.
        progress: called with a name, steps done and steps in all.

    Returns:
        The report.

    Raises:
        InputError: unknown protocol, rule or layer, labels missing, features not finite, too few
            images for a few-shot protocol, a tracker of another data set, fine-tuning without a
            method.

    Example:
        >>> from datamodules import DigitsLT
        >>> pixels = lambda images: images[:, 0, ::2, ::2].flatten(1).float()
        >>> report = evaluate(pixels, DigitsLT(), protocols="knn@10")
        >>> report.protocol("knn@10")["summary"]["accuracy"]["mean"] > 0.9
        True
        >>> list(report.groups), report.measures["alignment"] > 0
        (['thirds', 'thresholds'], True)
    """
    begin = time.perf_counter()
    wanted = parse_protocols(protocols)
    if selection not in ("last", "best_test"):
        raise unknown_name("selection", selection, ("last", "best_test"))
    for name, number in (("batch_size", batch_size), ("finetune_epochs", finetune_epochs)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number}.")
    owner = getattr(encode, "__self__", None)
    method = method if method is not None else owner if isinstance(owner, nn.Module) else None
    if layer != "pooled":
        if method is None:
            raise InputError(f"layer '{layer}' needs the method: pass method=.")
        encode = layer_encoder(method, layer)
    tuned = [protocol.name for protocol in wanted if protocol.kind == "finetune"]
    if tuned and method is None:
        raise InputError(f"'{tuned[0]}' trains the encoder: pass method=, not only encode.")
    run = _Evaluation(data, encode, method, rule)
    tracked = None if tracker is None else _tracked(tracker, data, run.counts, run.num_classes)
    moved = _moved(earlier_scores, tracker)

    run.sets = {"probe": data.probe_set(), "test": data.test_set()}
    if any(protocol.train == "long-tailed" for protocol in wanted):
        run.sets["long-tailed"] = data.train_set()
    for source in sorted({protocol.source for protocol in wanted if protocol.cropped}):
        run.sets[source] = CroppedSet(run.sets[source.partition("+")[0]], seed)
    for name, dataset in run.sets.items():
        run.labels[name] = _labels(dataset, name, run.num_classes).to(device)
    subsets = {protocol.name: _subsets(protocol, run) for protocol in wanted}
    for name, dataset in run.sets.items():
        run.features[name] = extract_features(
            encode, dataset, batch_size=batch_size, device=device, autocast=autocast,
            cache=cache, progress=progress, name=name,
        ).to(device)  # fmt: skip
    extracted = time.perf_counter() - begin

    entries: list[dict[str, Any]] = []
    predictions: dict[str, Tensor] = {"labels": run.labels["test"].cpu()}
    for position, protocol in enumerate(wanted):
        if progress is not None:
            progress("protocols", position, len(wanted))
        options = ProbeOptions(
            solver=protocol.solver,
            l2=values(l2) if protocol.solver in ("lbfgs", "ridge") else None,
            learning_rate=values(learning_rate) if protocol.solver in GRADIENT_SOLVERS else None,
            epochs=epochs if protocol.solver in GRADIENT_SOLVERS else None,
            selection="best_test" if selection == "best_test" else "last",
            few_shot=protocol.shots is not None,
            seed=seed,
        )
        if protocol.kind == "knn":
            found = _run_knn(protocol, run)
        elif protocol.kind == "finetune":
            found = _run_finetune(protocol, run, subsets[protocol.name], finetune_epochs, options,
                                  device, progress)  # fmt: skip
        else:
            found = _run_linear(protocol, run, subsets[protocol.name], options)
        for entry, predicted in found:
            if entry["name"] not in predictions:  # knn@10 is one of knn, asked for twice
                entries.append(entry)
                predictions[entry["name"]] = predicted
    measured: dict[str, Any] = {}
    if measures:
        views = _views(run, batch_size, device, autocast)
        measured = representation_measures(
            run.features["test"], run.labels["test"], run.main_groups, views
        )
    if progress is not None:
        progress("protocols", len(wanted), len(wanted))

    names = [str(name) for name in getattr(data, "class_names", range(run.num_classes))]
    images_shown = [] if tracker is None else _images(tracker, data, names, moved)
    return ProbeReport(
        record={
            **(record or {}),
            "layer": layer,
            "probe_seed": seed,
            "extraction_seconds": extracted,
            "evaluation_seconds": time.perf_counter() - begin,
        },
        data=_data(run, names),
        groups={
            name: {
                "description": group.description,
                **{key: ids.tolist() for key, ids in group.as_dict().items()},
            }
            for name, group in run.groups.items()
        },
        protocols=entries,
        measures=measured,
        tracker=tracked,
        images=images_shown,
        predictions=predictions,
    )


def default_rule(data: Any) -> str:
    """The data set's own ``group_rule``, or else what the literature uses on data of its kind.

    Args:
        data: the datamodule.

    Returns:
        A name of `bcl.evaluation.shots.RULES`.
    """
    if getattr(data, "group_rule", None) is not None:
        return str(data.group_rule)
    small = int(getattr(data, "image_size", 32)) <= 32 and 3 <= int(data.num_classes) <= 100
    return "thirds" if small else "thresholds"


def _data(run: _Evaluation, names: list[str]) -> dict[str, Any]:
    data, labels = run.data, run.labels["test"].cpu()
    return {
        "recipe": str(getattr(data, "recipe", "")),
        "content_hash": str(getattr(data, "content_hash", "")),
        "probe_hash": str(run.sets["probe"].content_hash),
        "test_hash": str(run.sets["test"].content_hash),
        # Of the images' bytes: the hashes above know image files by their names.
        "images_hash": str(getattr(data, "images_hash", "")),
        "test_images_hash": str(getattr(run.sets["test"], "images_hash", "")),
        "num_classes": run.num_classes,
        "class_names": names,
        "class_counts": run.counts.tolist(),
        "train_images": int(run.counts.sum()),
        "probe_images": len(run.sets["probe"]),
        "test_images": len(run.sets["test"]),
        "test_counts": torch.bincount(labels, minlength=run.num_classes).tolist(),
        "feature_dimensions": run.features["test"].shape[1],
        "notes": [str(note) for note in getattr(data, "notes", [])],
    }


def _labels(dataset: Any, name: str, num_classes: int) -> Tensor:
    labels = getattr(dataset, "labels", None)
    if labels is None or labels.numel() != len(dataset):
        raise InputError(
            f"the {name} set has no label for each of its {len(dataset)} images; a probe needs "
            "them. Use a labeled set."
        )
    labels = torch.as_tensor(labels).cpu().to(torch.int64)
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise InputError(
            f"image {at} of the {name} set has label {int(labels[at])}, outside 0 to "
            f"{num_classes - 1}; a probe needs a label for every image."
        )
    return labels


def _subsets(protocol: Protocol, run: _Evaluation) -> list[Tensor]:
    """Positions of each draw's training images; refused before anything is encoded."""
    labels = run.labels[protocol.source]
    if protocol.shots is None:
        return [torch.arange(labels.numel(), device=labels.device)]
    found = []
    for draw in range(protocol.draws):
        if protocol.shots == 0:
            found.append(_as_rarest(labels, draw))
        else:
            rows = torch.as_tensor(run.data.few_shot(protocol.shots, draw)).to(labels.device)
            counts = torch.bincount(labels[rows], minlength=run.num_classes)
            if isinstance(protocol.shots, int) and int(counts.min()) < protocol.shots:
                poorest = int(counts.argmin())
                raise InputError(
                    f"'{protocol.name}' needs {protocol.shots} images of every class, but class "
                    f"{poorest} has {int(counts[poorest])} in the probe set; take fewer shots."
                )
            found.append(rows)
    return found


def _as_rarest(labels: Tensor, draw: int) -> Tensor:
    """As many images of each class as the rarest class has (classes without any aside)."""
    counts = torch.bincount(labels)
    least = int(counts[counts > 0].min())
    order = permutation(labels.numel(), draw, 0xBA1A, device=labels.device)
    order = order[torch.sort(labels[order], stable=True).indices]
    place = torch.arange(labels.numel(), device=labels.device)
    rank = place - (counts.cumsum(0) - counts)[labels[order]]
    return order[rank < least].sort().values


def _run_linear(
    protocol: Protocol, run: _Evaluation, subsets: list[Tensor], options: ProbeOptions
) -> list[tuple[dict[str, Any], Tensor]]:
    x, y = run.features[protocol.source], run.labels[protocol.source]
    test_x, test_y = run.features["test"], run.labels["test"]
    check_features(x, y, test_x, test_y, run.num_classes)
    results = fit_heads(x, y, subsets, test_x, test_y, num_classes=run.num_classes, options=options)
    entry = _entry(protocol.name, "linear", protocol.description, results, run.groups)
    return [(entry, torch.stack([result.predictions for result in results]))]


def _run_knn(protocol: Protocol, run: _Evaluation) -> list[tuple[dict[str, Any], Tensor]]:
    test_y, found = run.labels["test"], []
    metric, ks = protocol.solver, protocol.neighbors or NEIGHBORS[protocol.train]
    predicted = knn_predict(
        run.features[protocol.train], run.labels[protocol.train], run.features["test"],
        ks, metric=metric, num_classes=run.num_classes,
    )  # fmt: skip
    present = torch.bincount(run.labels[protocol.train], minlength=run.num_classes) > 0
    for k, labels in predicted.items():
        per_class = class_accuracy(labels, test_y, run.num_classes)
        result = ProbeResult(
            accuracy=float((labels == test_y).double().mean()),
            top5=float("nan"),
            per_class_accuracy=per_class,
            predictions=labels.cpu(),
            chosen={"solver": "knn", "k": k, "metric": metric},
            weight=torch.empty(0),
            bias=torch.empty(0),
            notes=absence_notes(present, per_class),
        )
        description = f"{k} nearest in the {protocol.description}, {metric}, equal votes"
        entry = _entry(f"{protocol.name}@{k}", "knn", description, [result], run.groups)
        found.append((entry, result.predictions[None]))
    return found


def _run_finetune(
    protocol: Protocol,
    run: _Evaluation,
    subsets: list[Tensor],
    epochs: int | None,
    options: ProbeOptions,
    device: str | torch.device,
    progress: Progress | None,
) -> list[tuple[dict[str, Any], Tensor]]:
    assert run.method is not None  # checked before the extraction
    x, y = run.features["probe"], run.labels["probe"]
    test_x, test_y = run.features["test"], run.labels["test"]
    probes = fit_heads(x, y, subsets, test_x, test_y, num_classes=run.num_classes, options=options)
    epochs = epochs or DEFAULT_EPOCHS["full" if protocol.shots is None else "share"]
    results = []
    for probe, indices in zip(probes, subsets, strict=True):
        logits = fine_tune(
            run.method, run.sets["probe"], indices, run.sets["test"], (probe.weight, probe.bias),
            epochs=epochs, seed=options.seed, device=device, progress=progress,
        )  # fmt: skip
        chosen = {
            "solver": "finetune",
            "train_images": int(indices.numel()),
            "settings": f"SGD 0.01 cosine, momentum 0.9, batch 128, {epochs} epochs, crops and "
            "flips, head from the linear probe, last epoch",
        }
        results.append(
            judge(logits, test_y.cpu(), run.num_classes, chosen, probe.weight, probe.bias)
        )
    entry = _entry(protocol.name, "finetune", protocol.description, results, run.groups)
    return [(entry, torch.stack([result.predictions for result in results]))]


def _entry(
    name: str,
    kind: str,
    description: str,
    results: list[ProbeResult],
    groups: dict[str, ShotGroups],
) -> dict[str, Any]:
    """A protocol's entry: its draws, and means with 95 % intervals over them."""
    summary: dict[str, Any] = {
        "accuracy": _mean([result.accuracy for result in results]),
        "top5": _mean([result.top5 for result in results]),
    }
    for rule, group in groups.items():
        rows = [group_accuracy(result.per_class_accuracy, group) for result in results]
        summary[rule] = {key: _mean([row[key] for row in rows]) for key in rows[0]}
    return {
        "name": name,
        "kind": kind,
        "description": description,
        "draws": [
            {
                "accuracy": result.accuracy,
                "top5": result.top5,
                "per_class": result.per_class_accuracy,
                "chosen": result.chosen,
            }
            for result in results
        ],
        "per_class": torch.stack([result.per_class_accuracy for result in results]).mean(0),
        "summary": summary,
        "notes": sorted({note for result in results for note in result.notes}),
    }


def _mean(values: list[float]) -> dict[str, float]:
    mean, half = confidence_interval(values)
    return {"mean": mean, "ci95": half}


def _tracked(tracker: Any, data: Any, counts: Tensor, num_classes: int) -> dict[str, Any]:
    labels = _labels(data.train_set(), "long-tailed training", num_classes)
    loss = tracker.momentum_loss.detach().cpu()
    if loss.numel() != labels.numel():
        raise InputError(
            f"the tracker has {loss.numel()} samples, the training set {labels.numel()}; evaluate "
            "a run with the data it was trained on."
        )
    return tail_discovery(loss, tracker.scores.detach().cpu(), tracker.seen.cpu(), labels, counts)


def _moved(earlier: Tensor | None, tracker: Any) -> Tensor | None:
    """Change of every sample's score since an earlier epoch."""
    if earlier is None:
        return None
    if tracker is None or earlier.numel() != tracker.scores.numel():
        raise InputError(
            f"earlier_scores has {earlier.numel()} samples; it must have as many as the tracker of "
            "the run: take both from checkpoints of one run."
        )
    change: Tensor = tracker.scores.detach().cpu() - earlier.detach().cpu()
    return change


def _views(
    run: _Evaluation, batch_size: int, device: str | torch.device, autocast: torch.dtype | None
) -> Any:
    """Features of two SimCLR views of some test images, as a function to be called."""
    size = getattr(run.data, "image_size", None)
    if size is None:
        return None

    def views() -> tuple[Tensor, Tensor]:
        from bcl.augment import ContrastiveViews

        dataset = run.sets["test"]
        ids = permutation(len(dataset), 0, 0xA116)[:VIEWED]
        make, rows = ContrastiveViews(int(size)), []
        where = torch.device(device)
        for part in [ids[at : at + batch_size] for at in range(0, ids.numel(), batch_size)]:
            images = make(dataset.images(part).to(where), ids=part.to(where))  # (2, B, 3, S, S)
            with (
                torch.no_grad(),
                torch.autocast(where.type, autocast, enabled=autocast is not None),
            ):
                # In bytes, as every encoder of images takes them.
                views = [(view * 255).round().to(torch.uint8) for view in images]
                rows.append(torch.stack([run.encode(view).float() for view in views]))
        both = torch.cat(rows, 1)
        return both[0], both[1]

    return views


def _images(
    tracker: Any, data: Any, names: list[str], moved: Tensor | None
) -> list[dict[str, Any]]:
    """PNG of the samples at either end of the scores, and of those that moved most."""
    from PIL import Image

    train = data.train_set()
    seen = tracker.seen.cpu().nonzero()[:, 0]
    if seen.numel() == 0:
        return []
    scores = tracker.scores.detach().cpu()
    order = seen[torch.sort(scores[seen], stable=True).indices]
    count = min(SHOWN, order.numel() // 2)
    shown = [("highest", order.flip(0)[:count]), ("lowest", order[:count])]
    if moved is not None:
        by_change = seen[torch.sort(moved[seen], stable=True).indices]
        shown += [("risen", by_change.flip(0)[:count]), ("fallen", by_change[:count])]
    found = []
    for which, ids in shown:
        images = train.images(ids)
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
                    "score": float(scores[sample]),
                    "change": float(moved[sample]) if moved is not None else None,
                    "file": Path("images", f"{which}_{place:02d}.png").as_posix(),
                    "png": buffer.getvalue(),
                }
            )
    return found
