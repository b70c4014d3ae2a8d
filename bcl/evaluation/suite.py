"""Evaluate one encoder under several protocols at once."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bcl.core.checks import check_choice, check_count
from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.crops import CroppedSet, PartialSet, ViewedSet, view_features
from bcl.evaluation.features import Encode, FeatureCache, Progress, extract_features
from bcl.evaluation.finetune import SETTINGS, fine_tune
from bcl.evaluation.knn import knn_predict
from bcl.evaluation.layers import layer_encoder
from bcl.evaluation.measures import representation_measures
from bcl.evaluation.metrics import class_accuracy
from bcl.evaluation.probe.linear import Fresh, absence_notes, check_probe_data, fit_heads, score
from bcl.evaluation.probe.options import ProbeOptions, ProbeResult
from bcl.evaluation.protocols import Protocol, parse_protocols
from bcl.evaluation.results import ProbeReport, ProtocolResult
from bcl.evaluation.samples import inspect_samples, training_sample, wrong_images
from bcl.evaluation.sets import Sets
from bcl.evaluation.shots import GROUPINGS

VIEWED = 1024  # test images whose two views give the alignment


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `bcl.evaluate`.

    Attributes:
        grouping: the main grouping, ``"thirds"``, ``"thresholds"`` or ``"fifths"``; the data's if
            None. The report holds the first two beside it.
        layer: ``"pooled"`` (what ``encode`` returns), ``"projector"``, ``"class_token"`` or
            ``"mean"`` (of a ViT's patch tokens), or a submodule of the encoder such as
            SmallAlexNet's ``"fc7"``.
        measures: also compute uniformity, alignment and class spread.
        batch_size: images encoded per batch.
        device: where to encode and fit.
        autocast: reduced precision for the encoder.
        cache: keeps the features on disk; its key must name the weights and the layer.
        probe: penalties, learning rates, epochs, selection and seed of the linear probes; the
            protocol names the solver. The seed also decides crops and fine-tuning.
        finetune_epochs: epochs of fine-tuning; if None, 20 for the whole set and 60 for a share.

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
    history: str | Path | None = None,
    record: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> ProbeReport:
    """Extract the features once and measure the representation under all protocols.

    Args:
        encode: a method, its ``encode``, or any function from (B, 3, H, W) uint8 images to (B, D)
            features. Fine-tuning and layers other than the pooled one need a method.
        data: a datamodule that is set up: ``probe_set()``, ``test_set()``, ``train_set()``,
            ``few_shot(shots, draw)``, ``class_counts``, ``class_names``, ``num_classes``.
        protocols: names, see `bcl.evaluation.protocols.parse_protocols`.
        options: how to measure.
        tracker: the run's `bcl.MemorizationTracker`, or those of its signals by name, the one that
            steers first (``method.trackers``).
        earlier_scores: (N,) memorization scores of an earlier epoch; the report then shows the
            samples that moved most.
        history: the run's folder ``tracker/``, if it wrote one; the report then shows how well each
            signal found the tail by epoch.
        record: what was run, copied into the report.
        progress: called with a name, steps done and steps in total.

    Returns:
        The report, the same on every rank of a process group, which shares the extraction.

    Raises:
        InputError: unknown protocol or layer, labels missing, features not finite, too few images
            for a few-shot protocol, a tracker of another data set, fine-tuning without a method.

    Example:
        >>> from datamodules import DigitsLT
        >>> pixels = lambda images: images[:, 0, ::2, ::2].flatten(1).float()
        >>> report = evaluate(pixels, DigitsLT(), "knn@10")
        >>> report.protocol("knn@10").accuracy.mean > 0.9, report.measures["alignment"] > 0
        (True, True)
    """
    begin = time.perf_counter()
    wanted = parse_protocols(protocols)
    method, encode = _method_and_encode(encode, options.layer, wanted)
    sets = Sets(data, wanted, options.grouping, options.probe.seed, options.device)
    subsets = [sets.subsets(protocol) for protocol in wanted]
    trackers = tracker if isinstance(tracker, Mapping) else {"loss": tracker}
    trackers = {name: each for name, each in trackers.items() if each is not None}
    discovery, shown = inspect_samples(trackers, earlier_scores, sets, history)
    features = {
        name: extract_features(  # each image is encoded once
            encode, images, batch_size=options.batch_size, device=options.device,
            autocast=options.autocast, cache=options.cache, progress=progress, name=name,
        ).to(options.device)
        for name, images in sets.images.items()
    }  # fmt: skip
    extracted = time.perf_counter() - begin
    run = Run(sets, features, options, encode, method, progress)
    results = dict[str, ProtocolResult]()
    predictions = {"labels": sets.labels["test"].cpu()}
    for done, (protocol, rows) in enumerate(zip(wanted, subsets, strict=True)):
        if progress is not None:
            progress("protocols", done + 1, len(wanted))
        for name, text, draws in RUNNERS[protocol.kind](protocol, rows, run):
            if name not in results:  # knn and knn@10 share one
                results[name] = ProtocolResult.of(name, protocol.kind, text, draws, sets.groups)
                predictions[name] = torch.stack([draw.predictions for draw in draws])
    measures = _measures(encode, run) if options.measures else None
    report = ProbeReport(
        record={
            **(record or {}),
            "layer": options.layer,
            "probe_seed": options.probe.seed,
            "extraction_seconds": extracted,
            "evaluation_seconds": time.perf_counter() - begin,
        },
        data={**sets.provenance(), "feature_dimensions": features["test"].shape[1]},
        groups=sets.groups,
        protocols=list(results.values()),
        measures=measures,
        tracker=discovery,
        images=shown,
        predictions=predictions,
    )
    if report.protocols:
        report.images += wrong_images(predictions[report.main_protocol][0], sets)
    if options.measures:
        steering = next(iter(trackers.values()), None)
        report.sample = training_sample(encode, steering, sets, options)
    return report


class Run(NamedTuple):
    """What a protocol's runner works with."""

    sets: Sets
    features: dict[str, Tensor]  # of each set, (N, D)
    options: EvaluationOptions
    encode: Encode
    method: nn.Module | None
    progress: Progress | None


Measured = Iterator[tuple[str, str, list[ProbeResult]]]  # name, description, one entry per draw


def _run_linear(protocol: Protocol, subsets: list[Tensor], run: Run) -> Measured:
    weights = ", balanced class weights" if run.options.probe.balanced else ""
    yield protocol.name, run.sets.description(protocol) + weights, _probes(protocol, subsets, run)


def _probes(protocol: Protocol, subsets: list[Tensor], run: Run) -> list[ProbeResult]:
    """Linear probes, one per draw."""
    labels, C = run.sets.labels, run.sets.num_classes
    train = run.features[protocol.source], labels[protocol.source]
    test = run.features["test"], labels["test"]
    check_probe_data(*train, *test, C)
    few_shot = protocol.shots is not None
    options = replace(run.options.probe, solver=protocol.solver, few_shot=few_shot)
    fresh = _fresh(protocol, run) if protocol.fresh else None
    return fit_heads(*train, subsets, *test, num_classes=C, options=options, fresh=fresh)


def _fresh(protocol: Protocol, run: Run) -> Fresh:
    """From an epoch and positions to the features of that epoch's crops, encoded when asked for."""
    base, options = run.sets.images[protocol.train], run.options

    def features(epoch: int, rows: Tensor) -> Tensor:
        crops = CroppedSet(base, options.probe.seed, epoch)
        images = crops if len(rows) == len(base) else PartialSet(crops, rows)
        return extract_features(
            run.encode, images, batch_size=options.batch_size, device=options.device,
            autocast=options.autocast, progress=run.progress, name=f"{protocol.name} {epoch + 1}",
        ).to(options.device)  # fmt: skip

    return features


def _run_knn(protocol: Protocol, _: list[Tensor], run: Run) -> Measured:
    labels, C = run.sets.labels, run.sets.num_classes
    x, y, test_x = run.features[protocol.train], labels[protocol.train], run.features["test"]
    test_y, metric = labels["test"], protocol.solver
    found = knn_predict(x, y, test_x, protocol.neighbors, metric=metric, num_classes=C)
    present = torch.bincount(y, minlength=C) > 0
    for k, predictions in found.items():
        per_class = class_accuracy(predictions, test_y, C)
        result = ProbeResult(
            accuracy=float((predictions == test_y).double().mean()),
            top5=float("nan"),
            per_class_accuracy=per_class,
            predictions=predictions.cpu(),
            chosen={"solver": "knn", "k": k, "metric": metric},
            weight=torch.empty(0),
            bias=torch.empty(0),
            notes=absence_notes(present, per_class),
        )
        where = f"{k} nearest in the {run.sets.description(protocol)}, {metric}, equal votes"
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
    yield protocol.name, run.sets.description(protocol), results


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


def _measures(encode: Encode, run: Run) -> dict[str, Any]:
    """Measures of the test features, with the alignment if the data has an image size."""
    sets, options, views = run.sets, run.options, None
    if hasattr(sets.data, "image_size"):
        images = sets.images["test"]
        some = permutation(len(images), 0, 0xA116)[:VIEWED]
        viewed = ViewedSet(images, some, int(sets.data.image_size), options.device)
        views = view_features(
            encode, viewed, batch_size=options.batch_size, device=options.device,
            autocast=options.autocast, name="views",
        )  # fmt: skip
    main = next(iter(sets.groups.values()))
    return representation_measures(run.features["test"], sets.labels["test"], main, views)
