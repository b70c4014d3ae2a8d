"""Evaluate one encoder under several protocols at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.crops import CroppedSet
from bcl.evaluation.features import (
    Encode,
    FeatureCache,
    ImageDataset,
    Progress,
    extract_features,
)
from bcl.evaluation.finetune import SETTINGS, fine_tune
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.layers import layer_encoder
from bcl.evaluation.measures import representation_measures, tail_discovery
from bcl.evaluation.metrics import class_accuracy, group_accuracy
from bcl.evaluation.probe.draws import by_class
from bcl.evaluation.probe.linear import absence_notes, check_probe_data, fit_heads, score
from bcl.evaluation.probe.options import ProbeOptions, ProbeResult
from bcl.evaluation.protocols import Protocol, parse_protocols
from bcl.evaluation.results import Draw, Estimate, ProbeReport, ProtocolResult
from bcl.evaluation.samples import extreme_images, score_change
from bcl.evaluation.shots import GROUPINGS, ShotGroups, shot_groups

VIEWED = 1024  # test images whose two views give the alignment


@dataclass(frozen=True)
class EvaluationOptions:
    """How `bcl.evaluate` measures.

    Attributes:
        grouping: the main grouping, ``"thirds"`` or ``"thresholds"``; the data's if None. The
            report holds both.
        layer: which layer is read, see `bcl.evaluation.layers.layer_encoder`.
        measures: also compute uniformity, alignment and class spread.
        batch_size: images encoded per batch.
        device: where to encode and fit.
        autocast: reduced precision for the encoder.
        cache: keeps the features on disk; its key must name the weights and the layer.
        probe: penalties, learning rates, epochs, selection and seed of the linear probes; the
            protocol names the solver. The seed also decides crops and fine-tuning.
        finetune_epochs: 20 for the whole set and 60 for a share if None.

    Raises:
        InputError: a value out of its range.
    """

    grouping: str | None = None
    layer: str = "pooled"
    measures: bool = True
    batch_size: int = 512
    device: str | torch.device = "cpu"
    autocast: torch.dtype | None = None
    cache: FeatureCache | None = None
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    finetune_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.grouping is not None:
            check_choice("grouping", self.grouping, GROUPINGS)
        check_count("batch_size", self.batch_size)
        if self.finetune_epochs is not None:
            check_count("finetune_epochs", self.finetune_epochs)


def evaluate(
    encode: Encode | nn.Module,
    data: Any,
    protocols: str | Sequence[str] = ("full", "knn"),
    options: EvaluationOptions = EvaluationOptions(),
    *,
    tracker: Any = None,
    earlier_scores: Tensor | None = None,
    record: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> ProbeReport:
    """Extract the features once and measure the representation under all protocols.

    With a process group, the ranks share the extraction; the report is the same on every rank and
    equal to that of one process.

    Args:
        encode: a method, or its ``encode``, or any function from (B, 3, H, W) uint8 images to
            (B, D) features. Fine-tuning and layers other than the pooled one need a method.
        data: a datamodule that is set up: ``probe_set()``, ``test_set()``, ``train_set()``,
            ``few_shot(shots, draw)``, ``class_counts``, ``class_names``, ``num_classes``.
        protocols: names, see `bcl.evaluation.protocols.parse_protocols`.
        options: how to measure.
        tracker: the run's `bcl.MemorizationTracker`, if it has one.
        earlier_scores: (N,) memorization scores of an earlier epoch; the report then shows the
            samples that moved most.
        record: what was run, copied into the report.
        progress: called with a name, steps done and steps in total.

    Returns:
        The report.

    Raises:
        InputError: unknown protocol or layer, labels missing, features not finite, too few images
            for a few-shot protocol, a tracker of another data set, fine-tuning without a method.

    Example:
        >>> from datamodules import DigitsLT
        >>> pixels = lambda images: images[:, 0, ::2, ::2].flatten(1).float()
        >>> report = evaluate(pixels, DigitsLT(), "knn@10")
        >>> report.protocol("knn@10").accuracy.mean > 0.9
        True
        >>> list(report.groups), report.measures["alignment"] > 0
        (['thirds', 'thresholds'], True)
    """
    begin = time.perf_counter()
    wanted = parse_protocols(protocols)
    method, encode = _method_and_encode(encode, options.layer, wanted)

    # Which sets do the protocols need? Refuse what cannot be measured before any work.
    sets = _needed_sets(data, wanted, options.probe.seed)
    run = Run(data, sets, method, options, progress)
    subsets = {protocol.name: _subsets(protocol, run) for protocol in wanted}
    change = score_change(tracker, earlier_scores)
    discovery = None if tracker is None else _tail_discovery(tracker, run)

    # Each image goes through the encoder once.
    for name, images in sets.items():
        run.features[name] = extract_features(
            encode, images, batch_size=options.batch_size, device=options.device,
            autocast=options.autocast, cache=options.cache, progress=progress, name=name,
        ).to(options.device)  # fmt: skip
    extracted = time.perf_counter() - begin

    # Each protocol sees features and labels alone.
    results: dict[str, ProtocolResult] = {}
    predictions = {"labels": run.labels["test"].cpu()}
    for done, protocol in enumerate(wanted):
        run.tell("protocols", done, len(wanted))
        for name, description, draws in RUNNERS[protocol.kind](
            protocol, run, subsets[protocol.name]
        ):
            if name not in results:  # knn and knn@10 share one
                results[name] = _result(name, protocol.kind, description, draws, run.groups)
                predictions[name] = torch.stack([draw.predictions for draw in draws])

    # What else is known of the representation and of the samples?
    measures = None
    if options.measures:
        features, labels = run.features["test"], run.labels["test"]
        views = _two_views(encode, run) if hasattr(data, "image_size") else None
        measures = representation_measures(features, labels, run.main_groups, views)
    shown = []
    if tracker is not None:
        shown = extreme_images(tracker, data.train_set(), run.class_names, change)
    run.tell("protocols", len(wanted), len(wanted))
    return ProbeReport(
        record={
            **(record or {}),
            "layer": options.layer,
            "probe_seed": options.probe.seed,
            "extraction_seconds": extracted,
            "evaluation_seconds": time.perf_counter() - begin,
        },
        data=_provenance(run),
        groups=run.groups,
        protocols=list(results.values()),
        measures=measures,
        tracker=discovery,
        images=shown,
        predictions=predictions,
    )


class Run:
    """What the protocols of one evaluation share.

    Attributes:
        data: the datamodule.
        sets: name to image set.
        labels: name to (N,) labels, on the device.
        features: name to (N, D) features, on the device; filled by the extraction.
        groups: grouping to classes, the main one first.
    """

    def __init__(
        self,
        data: Any,
        sets: dict[str, ImageDataset],
        method: nn.Module | None,
        options: EvaluationOptions,
        progress: Progress | None,
    ) -> None:
        self.data, self.sets, self.method, self.options = data, sets, method, options
        self.progress = progress
        self.num_classes = int(data.num_classes)
        self.counts = torch.as_tensor(data.class_counts).cpu()
        self.class_names = [
            str(name) for name in getattr(data, "class_names", range(self.num_classes))
        ]
        self.labels = {
            name: _labels(images, name, self.num_classes).to(options.device)
            for name, images in sets.items()
        }
        self.features: dict[str, Tensor] = {}
        possible = GROUPINGS if self.num_classes >= 3 else ("thresholds",)
        main = options.grouping or getattr(data, "grouping", possible[0])
        names = sorted({main, *possible}, key=lambda name: name != main)
        self.groups = {name: shot_groups(self.counts, name) for name in names}

    @property
    def main_groups(self) -> ShotGroups:
        """The main grouping."""
        return next(iter(self.groups.values()))

    def tell(self, name: str, done: int, total: int) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(name, done, total)

    def fit(self, protocol: Protocol, subsets: list[Tensor]) -> list[ProbeResult]:
        """Linear probes of a protocol, one per draw."""
        x, y = self.features[protocol.source], self.labels[protocol.source]
        test_x, test_y = self.features["test"], self.labels["test"]
        check_probe_data(x, y, test_x, test_y, self.num_classes)
        options = replace(
            self.options.probe, solver=protocol.solver, few_shot=protocol.shots is not None
        )
        return fit_heads(
            x, y, subsets, test_x, test_y, num_classes=self.num_classes, options=options
        )


Measured = Iterator[tuple[str, str, list[ProbeResult]]]  # name, description, one entry per draw


def _run_linear(protocol: Protocol, run: Run, subsets: list[Tensor]) -> Measured:
    yield protocol.name, protocol.description, run.fit(protocol, subsets)


def _run_knn(protocol: Protocol, run: Run, _: list[Tensor]) -> Measured:
    metric, test_y = protocol.solver, run.labels["test"]
    x, y = run.features[protocol.train], run.labels[protocol.train]
    predicted = knn_predict(
        x, y, run.features["test"], protocol.neighbors, metric=metric, num_classes=run.num_classes
    )
    present = torch.bincount(y, minlength=run.num_classes) > 0
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
        yield f"{protocol.name}@{k}", description, [result]


def _run_finetune(protocol: Protocol, run: Run, subsets: list[Tensor]) -> Measured:
    assert run.method is not None  # checked before the extraction
    epochs = run.options.finetune_epochs or (20 if protocol.shots is None else 60)
    test_y, results = run.labels["test"].cpu(), []
    for probe, indices in zip(run.fit(protocol, subsets), subsets, strict=True):
        logits = fine_tune(
            run.method, run.sets["probe"], indices, run.sets["test"], (probe.weight, probe.bias),
            epochs=epochs, seed=run.options.probe.seed, device=run.options.device,
            progress=run.progress,
        )  # fmt: skip
        settings = SETTINGS.format(epochs)
        chosen = {"solver": "finetune", "train_images": len(indices), "settings": settings}
        results.append(score(logits, test_y, chosen, probe.weight, probe.bias))
    yield protocol.name, protocol.description, results


RUNNERS: dict[str, Callable[[Protocol, Run, list[Tensor]], Measured]] = {
    "linear": _run_linear,
    "knn": _run_knn,
    "finetune": _run_finetune,
}


def _method_and_encode(
    encode: Encode | nn.Module, layer: str, wanted: list[Protocol]
) -> tuple[nn.Module | None, Encode]:
    """The method, if there is one, and the function that reads its layer."""
    method = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    if isinstance(method, nn.Module):
        return method, layer_encoder(method, layer)
    needy = [protocol.name for protocol in wanted if protocol.kind == "finetune"]
    if layer != "pooled" or needy:
        what = f"'{needy[0]}' trains the encoder" if needy else f"layer '{layer}' is of a method"
        raise InputError(f"{what}: pass the method in place of a function.")
    return None, encode


def _needed_sets(data: Any, wanted: list[Protocol], seed: int) -> dict[str, ImageDataset]:
    """The sets of images to encode, by name."""
    sets: dict[str, ImageDataset] = {"probe": data.probe_set(), "test": data.test_set()}
    if any(protocol.train == "long-tailed" for protocol in wanted):
        sets["long-tailed"] = data.train_set()
    for protocol in wanted:
        if protocol.cropped:
            sets.setdefault(protocol.source, CroppedSet(sets[protocol.train], seed))
    return sets


def _labels(images: Any, name: str, num_classes: int) -> Tensor:
    """The labels of a set, one for each image."""
    labels = getattr(images, "labels", None)
    if labels is None or labels.numel() != len(images):
        raise InputError(
            f"the {name} set has no label for each of its {len(images)} images; a probe needs "
            "them. Use a labeled set."
        )
    labels = torch.as_tensor(labels).cpu().to(torch.int64)
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten().tolist()
    if outside:
        raise InputError(
            f"image {outside[0]} of the {name} set has label {int(labels[outside[0]])}, outside 0 "
            f"to {num_classes - 1}; a probe needs a label for every image."
        )
    return labels


def _subsets(protocol: Protocol, run: Run) -> list[Tensor]:
    """Positions of each draw's training images."""
    labels = run.labels[protocol.source]
    if protocol.shots is None:
        return [torch.arange(labels.numel(), device=labels.device)]
    if protocol.shots == 0:
        return [_as_rarest(labels, draw) for draw in range(protocol.draws)]
    found = []
    for draw in range(protocol.draws):
        rows = torch.as_tensor(run.data.few_shot(protocol.shots, draw)).to(labels.device)
        counts = torch.bincount(labels[rows], minlength=run.num_classes)
        if isinstance(protocol.shots, int) and int(counts.min()) < protocol.shots:
            raise InputError(
                f"'{protocol.name}' needs {protocol.shots} images of every class, but class "
                f"{int(counts.argmin())} has {int(counts.min())} in the probe set; take fewer."
            )
        found.append(rows)
    return found


def _as_rarest(labels: Tensor, draw: int) -> Tensor:
    """As many images of each class as the rarest class that has any."""
    counts = torch.bincount(labels)
    order, rank = by_class(labels, draw, 0xBA1A)
    return order[rank < counts[counts > 0].min()].sort().values


def _tail_discovery(tracker: Any, run: Run) -> Any:
    labels = _labels(run.data.train_set(), "long-tailed training", run.num_classes)
    loss = tracker.momentum_loss.detach().cpu()
    if loss.numel() != labels.numel():
        raise InputError(
            f"the tracker has {loss.numel()} samples, the training set {labels.numel()}; evaluate "
            "a run with the data it was trained on."
        )
    scores, seen = tracker.scores.detach().cpu(), tracker.seen.cpu()
    return tail_discovery(loss, scores, seen, labels, run.counts)


def _two_views(encode: Encode, run: Run) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that returns the features of two SimCLR views of some test images."""
    options, images = run.options, run.sets["test"]

    @torch.no_grad()
    def views() -> tuple[Tensor, Tensor]:
        from bcl.augment import ContrastiveViews

        device = torch.device(options.device)
        make, rows = ContrastiveViews(int(run.data.image_size)), []
        some = permutation(len(images), 0, 0xA116)[:VIEWED]
        for ids in torch.split(some, options.batch_size):
            pair = make(images.images(ids).to(device), ids=ids.to(device))  # (2, B, 3, S, S)
            pair = (pair * 255).round().to(torch.uint8)  # bytes, as encoders of images take them
            with torch.autocast(
                device.type, options.autocast, enabled=options.autocast is not None
            ):
                rows.append(torch.stack([encode(view).float() for view in pair]))
        first, second = torch.cat(rows, 1)
        return first, second

    return views


def _result(
    name: str, kind: str, description: str, draws: list[ProbeResult], groups: dict[str, ShotGroups]
) -> ProtocolResult:
    """A protocol's draws, and means with 95 % intervals over them."""
    means = {}
    for grouping, group in groups.items():
        rows = [group_accuracy(draw.per_class_accuracy, group) for draw in draws]
        means[grouping] = {key: Estimate.of([row[key] for row in rows]) for key in rows[0]}
    per_class = torch.stack([draw.per_class_accuracy for draw in draws])  # (draws, C)
    return ProtocolResult(
        name=name,
        kind=kind,
        description=description,
        draws=[
            Draw(draw.accuracy, draw.top5, draw.per_class_accuracy.tolist(), draw.chosen)
            for draw in draws
        ],
        per_class=per_class.mean(0).tolist(),
        accuracy=Estimate.of([draw.accuracy for draw in draws]),
        top5=Estimate.of([draw.top5 for draw in draws]),
        groups=means,
        notes=sorted({note for draw in draws for note in draw.notes}),
    )


def _provenance(run: Run) -> dict[str, Any]:
    """Which images the numbers are of."""
    data, test = run.data, run.sets["test"]
    return {
        "recipe": str(getattr(data, "recipe", "")),
        "content_hash": str(getattr(data, "content_hash", "")),
        "probe_hash": str(run.sets["probe"].content_hash),
        "test_hash": str(test.content_hash),
        # Of the images' bytes; the hashes above know image files by their names.
        "images_hash": str(getattr(data, "images_hash", "")),
        "test_images_hash": str(getattr(test, "images_hash", "")),
        "num_classes": run.num_classes,
        "class_names": run.class_names,
        "class_counts": run.counts.tolist(),
        "train_images": int(run.counts.sum()),
        "probe_images": len(run.sets["probe"]),
        "test_images": len(test),
        "test_counts": torch.bincount(run.labels["test"].cpu(), minlength=run.num_classes).tolist(),
        "feature_dimensions": run.features["test"].shape[1],
        "notes": [str(note) for note in getattr(data, "notes", [])],
    }
