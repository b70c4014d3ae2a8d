"""What a tracker knows of the training samples: tail discovery, and images to look at."""

import io
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.evaluation.measures import tail_discovery
from bcl.evaluation.results import ShownImage
from bcl.evaluation.sets import Sets

SHOWN = 16  # images at either end of the scores


def inspect_samples(
    tracker: Any, earlier: Tensor | None, sets: Sets
) -> tuple[dict[str, Any] | None, list[ShownImage]]:
    """The tracker's `tail_discovery` and the images of its extreme scores; nothing without one.

    With (N,) earlier scores, also the images of the samples that moved most.
    """
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
    discovery = tail_discovery(loss, scores, seen.cpu(), labels, sets.counts)
    ids = seen.cpu().nonzero()[:, 0]
    count, shown = min(SHOWN, len(ids) // 2), []
    for values, top, bottom in ((scores, "highest", "lowest"), (change, "risen", "fallen")):
        if values is None:
            continue
        order = ids[torch.sort(values[ids], stable=True).indices]
        for which, some in ((top, order.flip(0)[:count]), (bottom, order[:count])):
            for place, sample in enumerate(some.tolist()):
                label = int(labels[sample])
                shown.append(
                    ShownImage(
                        which,
                        id=sample,
                        label=label,
                        class_name=sets.class_names[label],
                        score=float(scores[sample]),
                        change=None if change is None else float(change[sample]),
                        file=f"images/{which}_{place:02d}.png",
                        png=_png(train.images(torch.tensor([sample]))[0]),
                    )
                )
    return discovery, shown


def _png(image: Tensor) -> bytes:
    """PNG file of a (3, H, W) image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "PNG")
    return buffer.getvalue()
