"""Images to look at, what a tracker knows of the training samples, and how it finds the tail."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.features import Encode, encode_batch
from bcl.evaluation.probe.draws import by_class
from bcl.evaluation.results import Sample, ShownImage
from bcl.evaluation.sets import Sets
from bcl.evaluation.tail import tail_discovery
from bcl.evaluation.thumbnails import thumbnails
from bcl.memorization.history import TrackerHistory

SHOWN = 16  # images at either end of the scores
SAMPLE, SMALL = 500, 32  # training images of a map, and their pixels
OF_CLASS = 5  # of each class at least, while there is room
WRONG = 128  # test images that were answered wrong
RESAMPLES = 200  # of the discovery's intervals; 4 s for 100,000 samples
EPOCHS = 40  # of a history, at most, in which the discovery is measured


def inspect_samples(
    trackers: Mapping[str, Any],
    earlier: Tensor | None,
    sets: Sets,
    history: str | Path | None = None,
) -> tuple[dict[str, Any] | None, list[ShownImage]]:
    """What the trackers know and the images of extreme scores; nothing without trackers.

    The first tracker is the one that steers. With (N,) earlier scores, also the images of the
    samples that moved most; with a folder of histories, also how well each signal found the tail
    by epoch.
    """
    tracker = next(iter(trackers.values()), None)
    scores = torch.empty(0) if tracker is None else tracker.scores.detach().cpu()
    if earlier is not None and earlier.numel() != scores.numel():
        raise InputError(
            f"earlier_scores has {earlier.numel()} samples, the tracker {scores.numel()}; take "
            "both from one run."
        )
    if tracker is None:
        return None, []
    train, loss, seen = sets.data.train_set(), tracker.momentum_loss.detach().cpu(), tracker.seen
    labels = sets.read_labels("long-tailed training", train)
    if loss.numel() != labels.numel():
        raise InputError(
            f"the tracker has {loss.numel()} samples, the training set {labels.numel()}; evaluate "
            "a run with the data it was trained on."
        )
    change = None if earlier is None else scores - earlier.detach().cpu()
    seen = seen.cpu()
    summary, ids = summarize(loss, scores, seen, labels, sets.counts), seen.nonzero()[:, 0]
    summary |= by_signal(trackers, summary, labels, sets.counts, history)
    count, shown = min(SHOWN, len(ids) // 2), []
    for values, top, bottom in ((scores, "highest", "lowest"), (change, "risen", "fallen")):
        if values is None:
            continue
        order = ids[torch.sort(values[ids], stable=True).indices]
        for which, some in ((top, order.flip(0)[:count]), (bottom, order[:count])):
            shown += _shown(which, some, train, labels, sets, scores, change)
    return summary, shown


def _shown(
    which: str,
    ids: Tensor,
    images: Any,
    labels: Tensor,
    sets: Sets,
    scores: Tensor | None = None,
    change: Tensor | None = None,
) -> list[ShownImage]:
    """Images of a set by (n,) ids, with what is known of them."""
    files = thumbnails(images.images(ids)) if len(ids) else []
    found = zip(ids.tolist(), names_of(images, ids), files, strict=True)
    return [
        ShownImage(
            which,
            id=row,
            label=int(labels[row]),
            class_name=sets.class_names[int(labels[row])],
            score=None if scores is None else float(scores[row]),
            change=None if change is None else float(change[row]),
            file=f"images/{which}_{place:03d}.webp",
            path=name,
            content=content,
        )
        for place, (row, name, content) in enumerate(found)
    ]


def names_of(images: Any, ids: Tensor) -> list[str]:
    """File names of a set's images, or their ids where it has none."""
    return list(images.names(ids)) if hasattr(images, "names") else [str(i) for i in ids.tolist()]


def wrong_images(predictions: Tensor, sets: Sets) -> list[ShownImage]:
    """Test images that were answered wrong, by (M,) predicted labels; each confusion in turn.

    First one of each, those of the rarest classes first, then a second one.
    """
    labels = sets.labels["test"].cpu()
    rows = (predictions.cpu() != labels).nonzero()[:, 0].tolist()
    pairs, seen = {row: (int(labels[row]), int(predictions[row])) for row in rows}, Counter[Any]()
    often = Counter(pairs.values())
    turns = []
    for row in rows:
        truth, taken = pair = pairs[row]
        turns.append((seen[pair], int(sets.counts[truth]), truth, -often[pair], taken, row))
        seen[pair] += 1
    ids = torch.tensor([turn[-1] for turn in sorted(turns)[:WRONG]], dtype=torch.int64)
    return _shown("wrong", ids, sets.images["test"], labels, sets)


def training_sample(encode: Encode, tracker: Any, sets: Sets, options: Any) -> Sample:
    """Some training images with their features: a few of each class, then any; the same anywhere.

    Encoded as the `EvaluationOptions` say.
    """
    train = sets.data.train_set()
    labels = sets.read_labels("long-tailed training", train)
    order, rank = by_class(labels, 0, 0x5A3E)
    few = min(OF_CLASS, SAMPLE // (2 * sets.num_classes))
    chosen = torch.cat([order[rank < few], permutation(len(order), 0, 0x5A3F)]).tolist()
    ids = torch.tensor([*dict.fromkeys(chosen)][:SAMPLE]).sort().values
    images, device = train.images(ids), torch.device(options.device)
    rows = [
        encode_batch(
            encode, {"image": part.to(device), "id": part}, device, options.autocast, "the sample"
        ).cpu()
        for part in torch.split(images, options.batch_size)
    ]
    return Sample(
        ids,
        labels[ids],
        torch.empty(0) if tracker is None else tracker.scores.detach().cpu()[ids].float(),
        normalize(torch.cat(rows), dim=1).half(),
        names_of(train, ids),
        thumbnails(images, SMALL),
    )


def summarize(
    momentum_loss: Tensor, scores: Tensor, seen: Tensor, labels: Tensor, class_counts: Tensor
) -> dict[str, Any]:
    """Tail discovery of the momentum loss, scores and losses by class; all (N,) but the counts."""
    discovery, note = _discovery(momentum_loss, seen, labels, class_counts)
    return {
        "samples": momentum_loss.numel(),
        "seen": int(seen.sum()),
        "discovery": discovery,
        "discovery_note": note,
        "score_histogram": torch.histc(scores[seen].float(), 20, 0, 1).to(torch.int64).tolist(),
        "by_class": [
            _class_loss(c, momentum_loss, scores, seen & (labels == c))
            for c in range(class_counts.numel())
        ],
    }


def by_signal(
    trackers: Mapping[str, Any],
    summary: dict[str, Any],
    labels: Tensor,
    class_counts: Tensor,
    history: str | Path | None = None,
) -> dict[str, Any]:
    """Tail discovery of every signal, at the end and, where a history is on disk, by epoch."""
    first, *_ = trackers
    found = {}
    for signal, tracker in trackers.items():
        values, seen = tracker.momentum_loss.detach().cpu(), tracker.seen.cpu()
        if signal == first:
            discovery, note = summary["discovery"], summary["discovery_note"]
        else:
            discovery, note = _discovery(values, seen, labels, class_counts)
        epochs = _by_epoch(history, None if signal == first else signal, labels, class_counts)
        found[signal] = {"discovery": discovery, "discovery_note": note, "epochs": epochs}
    return {"signal": first, "signals": found}


def _discovery(
    values: Tensor, seen: Tensor, labels: Tensor, class_counts: Tensor, resamples: int = RESAMPLES
) -> tuple[dict[str, Any] | None, str | None]:
    """Tail discovery of the samples that were seen, or why there is none."""
    try:
        found = tail_discovery(
            values[seen], labels[seen], class_counts=class_counts, resamples=resamples
        )
    except InputError as error:  # a run of few samples or classes has a report all the same
        return None, str(error)
    return asdict(found), None


def _by_epoch(
    history: str | Path | None, signal: str | None, labels: Tensor, class_counts: Tensor
) -> list[dict[str, Any]]:
    """AUC and φ of some epochs of a history, evenly spread; none without one of these samples."""
    folder = None if history is None else Path(history, signal or "")
    if folder is None or not any(folder.glob("epoch*.npy")):
        return []
    table, rows = TrackerHistory(folder, most=EPOCHS), list[dict[str, Any]]()
    if table.num_samples != len(labels):
        return []
    for epoch, row in zip(table.epochs, table.momentum_loss(), strict=True):
        found, _ = _discovery(row, ~row.isnan(), labels, class_counts, resamples=1)
        if found is not None:
            measured = {name: found[name][0] for name in ("auc", "phi")}
            rows.append({"epoch": epoch, **measured})
    return rows


def _class_loss(class_id: int, losses: Tensor, scores: Tensor, own: Tensor) -> dict[str, Any]:
    """Mean and quartiles of a class's momentum losses, and its mean score; None if unseen."""
    values = losses[own].double()
    if values.numel() == 0:
        return {"class": class_id, **dict.fromkeys(("mean", "low", "high", "score"))}
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
    mean, score = float(values.mean()), float(scores[own].mean())
    return {"class": class_id, "mean": mean, "low": low, "high": high, "score": score}
