"""What a tracker knows of the training samples: tail discovery, and images to look at."""

import io
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.evaluation.measures import TailDiscovery, tail_discovery
from bcl.evaluation.results import ShownImage
from bcl.evaluation.sets import Sets

SHOWN = 16  # images at either end of the scores


def discover_tail(tracker: Any, sets: Sets) -> TailDiscovery:
    """Does the run's tracker find the rare classes of its training set?"""
    labels, loss = sets.train_labels(), tracker.momentum_loss.detach().cpu()
    if loss.numel() != labels.numel():
        raise InputError(
            f"the tracker has {loss.numel()} samples, the training set {labels.numel()}; evaluate "
            "a run with the data it was trained on."
        )
    scores, seen = tracker.scores.detach().cpu(), tracker.seen.cpu()
    return tail_discovery(loss, scores, seen, labels, sets.counts)


def score_change(tracker: Any, earlier: Tensor | None) -> Tensor | None:
    """(N,) change of every sample's score since earlier scores; None without them."""
    if earlier is None:
        return None
    if tracker is None or earlier.numel() != tracker.scores.numel():
        raise InputError(
            f"earlier_scores has {earlier.numel()} samples, the tracker "
            f"{0 if tracker is None else tracker.scores.numel()}; take both from one run."
        )
    change: Tensor = tracker.scores.detach().cpu() - earlier.detach().cpu()
    return change


def extreme_images(
    tracker: Any, train: Any, class_names: list[str], change: Tensor | None
) -> list[ShownImage]:
    """Up to 16 images from either end of the scores, and of the samples that moved most."""
    seen = tracker.seen.cpu().nonzero()[:, 0]
    scores = tracker.scores.detach().cpu()
    count = min(SHOWN, seen.numel() // 2)
    found = []
    for values, top, bottom in ((scores, "highest", "lowest"), (change, "risen", "fallen")):
        if values is None:
            continue
        order = seen[torch.sort(values[seen], stable=True).indices]
        for which, ids in ((top, order.flip(0)[:count]), (bottom, order[:count])):
            for place, (sample, png) in enumerate(
                zip(ids.tolist(), _pngs(train, ids), strict=True)
            ):
                label = int(train.labels[sample])
                found.append(
                    ShownImage(
                        which,
                        id=sample,
                        label=label,
                        class_name=class_names[label],
                        score=float(scores[sample]),
                        change=None if change is None else float(change[sample]),
                        file=f"images/{which}_{place:02d}.png",
                        png=png,
                    )
                )
    return found


def _pngs(train: Any, ids: Tensor) -> list[bytes]:
    """PNG files of some training images."""
    from PIL import Image

    files = []
    for image in train.images(ids) if ids.numel() else ():
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files
