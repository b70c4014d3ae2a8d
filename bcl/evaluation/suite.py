"""Evaluate one encoder under several protocols at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.features import (
    Encode,
    FeatureCache,
    Progress,
    extract_features,
)
from bcl.evaluation.finetune import SETTINGS, fine_tune
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.layers import layer_encoder
from bcl.evaluation.measures import representation_measures
from bcl.evaluation.metrics import class_accuracy, group_accuracy
from bcl.evaluation.probe.linear import absence_notes, check_probe_data, fit_heads, score
from bcl.evaluation.probe.options import ProbeOptions, ProbeResult
from bcl.evaluation.protocols import Protocol, parse_protocols
from bcl.evaluation.results import Draw, Estimate, ProbeReport, ProtocolResult
from bcl.evaluation.samples import discover_tail, extreme_images, score_change
from bcl.evaluation.sets import Sets
from bcl.evaluation.shots import GROUPINGS, ShotGroups

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
    sets = Sets(data, wanted, options.grouping, options.probe.seed, options.device)
    subsets = [sets.subsets(protocol) for protocol in wanted]
    change = score_change(tracker, earlier_scores)
    discovery = None if tracker is None else discover_tail(tracker, sets)

    # Each image goes through the encoder once.
    for name, images in sets.images.items():
        sets.features[name] = extract_features(
            encode, images, batch_size=options.batch_size, device=options.device,
            autocast=options.autocast, cache=options.cache, progress=progress, name=name,
        ).to(options.device)  # fmt: skip
    extracted = time.perf_counter() - begin

    # Each protocol sees features and labels alone.
    run, results = Run(sets, options, method, progress), dict[str, ProtocolResult]()
    predictions = {"labels": sets.labels["test"].cpu()}
    for done, (protocol, rows) in enumerate(zip(wanted, subsets, strict=True)):
        if progress is not None:
            progress("protocols", done + 1, len(wanted))
        for name, description, draws in RUNNERS[protocol.kind](protocol, rows, run):
            if name not in results:  # knn and knn@10 share one
                results[name] = _result(name, protocol.kind, description, draws, sets.groups)
                predictions[name] = torch.stack([draw.predictions for draw in draws])

    # What else is known of the representation and of the samples?
    measures, shown = None, []
    if options.measures:
        views = _two_views(encode, run) if hasattr(data, "image_size") else None
        features, labels = sets.features["test"], sets.labels["test"]
        measures = representation_measures(features, labels, sets.main_groups, views)
    if tracker is not None:
        shown = extreme_images(tracker, data.train_set(), sets.class_names, change)
    return ProbeReport(
        record={
            **(record or {}),
            "layer": options.layer,
            "probe_seed": options.probe.seed,
            "extraction_seconds": extracted,
            "evaluation_seconds": time.perf_counter() - begin,
        },
        data=sets.provenance(),
        groups=sets.groups,
        protocols=list(results.values()),
        measures=measures,
        tracker=discovery,
        images=shown,
        predictions=predictions,
    )


class Run(NamedTuple):
    """What a protocol's runner works with."""

    sets: Sets
    options: EvaluationOptions
    method: nn.Module | None
    progress: Progress | None


Measured = Iterator[tuple[str, str, list[ProbeResult]]]  # name, description, one entry per draw


def _run_linear(protocol: Protocol, subsets: list[Tensor], run: Run) -> Measured:
    yield protocol.name, protocol.description, _probes(protocol, subsets, run)


def _probes(protocol: Protocol, subsets: list[Tensor], run: Run) -> list[ProbeResult]:
    """Linear probes, one per draw."""
    features, labels, num_classes = run.sets.features, run.sets.labels, run.sets.num_classes
    train = features[protocol.source], labels[protocol.source]
    test = features["test"], labels["test"]
    check_probe_data(*train, *test, num_classes)
    options = replace(
        run.options.probe, solver=protocol.solver, few_shot=protocol.shots is not None
    )
    return fit_heads(*train, subsets, *test, num_classes=num_classes, options=options)


def _run_knn(protocol: Protocol, _: list[Tensor], run: Run) -> Measured:
    features, labels, num_classes = run.sets.features, run.sets.labels, run.sets.num_classes
    x, y, test_y = features[protocol.train], labels[protocol.train], labels["test"]
    found = knn_predict(
        x, y, features["test"], protocol.neighbors, metric=protocol.solver, num_classes=num_classes
    )
    present = torch.bincount(y, minlength=num_classes) > 0
    for k, predictions in found.items():
        per_class = class_accuracy(predictions, test_y, num_classes)
        result = ProbeResult(
            accuracy=float((predictions == test_y).double().mean()),
            top5=float("nan"),
            per_class_accuracy=per_class,
            predictions=predictions.cpu(),
            chosen={"solver": "knn", "k": k, "metric": protocol.solver},
            weight=torch.empty(0),
            bias=torch.empty(0),
            notes=absence_notes(present, per_class),
        )
        where = f"{k} nearest in the {protocol.description}, {protocol.solver}, equal votes"
        yield f"{protocol.name}@{k}", where, [result]


def _run_finetune(protocol: Protocol, subsets: list[Tensor], run: Run) -> Measured:
    assert run.method is not None  # checked before the extraction
    options, images = run.options, run.sets.images
    epochs = options.finetune_epochs or (20 if protocol.shots is None else 60)
    results = []
    for probe, rows in zip(_probes(protocol, subsets, run), subsets, strict=True):
        logits = fine_tune(
            run.method, images["probe"], rows, images["test"], (probe.weight, probe.bias),
            epochs=epochs, seed=options.probe.seed, device=options.device, progress=run.progress,
        )  # fmt: skip
        settings = SETTINGS.format(epochs)
        chosen = {"solver": "finetune", "train_images": len(rows), "settings": settings}
        test_y = run.sets.labels["test"].cpu()
        results.append(score(logits, test_y, chosen, probe.weight, probe.bias))
    yield protocol.name, protocol.description, results


RUNNERS: dict[str, Callable[[Protocol, list[Tensor], Run], Measured]] = {
    "linear": _run_linear,
    "knn": _run_knn,
    "finetune": _run_finetune,
}


def _method_and_encode(
    encode: Encode | nn.Module, layer: str, wanted: list[Protocol]
) -> tuple[nn.Module | None, Encode]:
    """The method, if there is one, and the function that reads its layer."""
    if isinstance(encode, nn.Module):
        return encode, layer_encoder(encode, layer)
    owner = getattr(encode, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner, encode if layer == "pooled" else layer_encoder(owner, layer)
    needy = [protocol.name for protocol in wanted if protocol.kind == "finetune"]
    if layer != "pooled" or needy:
        what = f"'{needy[0]}' trains the encoder" if needy else f"layer '{layer}' is of a method"
        raise InputError(f"{what}: pass the method in place of a function.")
    return None, encode


def _two_views(encode: Encode, run: Run) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that returns the features of two SimCLR views of some test images."""
    options, images = run.options, run.sets.images["test"]
    device, autocast = torch.device(options.device), options.autocast

    @torch.no_grad()
    def views() -> tuple[Tensor, Tensor]:
        from bcl.augment import ContrastiveViews

        make, rows = ContrastiveViews(int(run.sets.data.image_size)), []
        some = permutation(len(images), 0, 0xA116)[:VIEWED]
        for ids in torch.split(some, options.batch_size):
            pair = make(images.images(ids).to(device), ids=ids.to(device))  # (2, B, 3, S, S)
            pair = (pair * 255).round().to(torch.uint8)  # bytes, as encoders of images take them
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
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
