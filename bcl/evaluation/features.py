"""Features of a picture set, extracted once."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from bcl.errors import InputError

Encode = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]


class PictureSet(Protocol):
    """What the evaluation needs of a picture set."""

    labels: Tensor
    content_hash: str

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def batches(self, batch_size: int, device: Any) -> Iterator[dict[str, Tensor]]:
        """Batches in the order of the ids."""
        ...


def extract_features(
    encode: Encode,
    pictures: PictureSet,
    *,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
    name: str = "pictures",
) -> Tensor:
    """Encode every picture of a set exactly once.

    Args:
        encode: (B, 3, H, W) uint8 pictures to (B, D) features.
        pictures: the set; its batches carry the ids.
        batch_size: pictures at a time.
        device: where the pictures are encoded.
        autocast: reduced precision for the encoder, such as ``torch.bfloat16``.
        progress: called with the name, pictures done and pictures in all.
        name: what the set is called in messages.

    Returns:
        (N, D) float32 features on the CPU, row i of picture i.

    Raises:
        InputError: pictures missing or twice, features of the wrong shape or not finite.
    """
    total = len(pictures)
    device = torch.device(device)
    features: Tensor | None = None
    times = torch.zeros(total, dtype=torch.int32)
    done = 0
    with torch.inference_mode():
        for batch in pictures.batches(batch_size, device):
            ids = batch["id"].cpu()
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                rows = encode(batch["image"])
            if rows.ndim != 2 or rows.shape[0] != ids.numel():
                raise InputError(
                    f"encode gave shape {tuple(rows.shape)} for {ids.numel()} pictures of {name}; "
                    "it must give one row of features a picture, (B, D)."
                )
            rows = rows.float().cpu()
            finite = rows.isfinite().all(1)
            if not bool(finite.all()):
                raise InputError(
                    f"features of {name} are not finite, first at picture "
                    f"{int(ids[~finite][0])}; the encoder has diverged or its weights are damaged."
                )
            if features is None:
                features = torch.empty(total, rows.shape[1])
            features[ids] = rows
            times[ids] += 1
            done += ids.numel()
            if progress is not None:
                progress(name, done, total)
    if features is None or not bool((times == 1).all()):
        raise InputError(
            f"{name}: {int((times == 0).sum())} pictures were not encoded and "
            f"{int((times > 1).sum())} more than once of {total}; each must come exactly once."
        )
    return features
