"""Momentum losses and scores of every epoch, on disk."""

import re
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write
from bcl.memorization.scores import memorization_scores
from bcl.memorization.tracker import MemorizationTracker

_NAME = re.compile(r"epoch(\d{6})\.npy")


def write_epoch(folder: str | Path, epoch: int, tracker: MemorizationTracker) -> Path:
    """Write the state of the tracker at the end of an epoch, atomically.

    The file, ``epochNNNNNN.npy``, holds a float32 array (2, N): momentum losses, which are NaN for
    samples never seen, and the scores that follow from them.

    Args:
        folder: where the file goes; created if missing.
        epoch: from 0; a file of the same epoch is replaced.
        tracker: before or after its ``refresh``.

    Returns:
        The file.

    Example:
        >>> import tempfile
        >>> tracker = MemorizationTracker(3)
        >>> tracker.update(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
        >>> path = write_epoch(tempfile.mkdtemp(), 7, tracker)
        >>> path.name, TrackerHistory(path.parent).momentum_loss().tolist()
        ('epoch000007.npy', [[1.0, nan, 3.0]])
    """
    import numpy as np

    seen = tracker.seen
    scores = memorization_scores(tracker.momentum_loss, seen, tracker.normalization)
    losses = torch.where(seen, tracker.momentum_loss, torch.nan)
    table = torch.stack([losses, scores]).cpu().numpy()  # (2, N)
    path = Path(folder) / f"epoch{epoch:06}.npy"
    atomic_write(path, lambda file: np.save(file, table))
    return path


def forget_epochs(folder: str | Path, first: int) -> None:
    """Remove the files of epoch ``first`` and later of all signals, and of a killed writer."""
    for path in Path(folder).rglob("*epoch*.npy*"):
        match = _NAME.fullmatch(path.name)
        if (match is not None and int(match[1]) >= first) or path.name.startswith(".epoch"):
            path.unlink(missing_ok=True)


class TrackerHistory:
    """Momentum losses and scores of a run's epochs (`bcl fit --history.every_n_epochs`).

    Files are memory-mapped: reading some ids touches only those.

    Args:
        folder: the run's folder, or ``tracker/`` in it.
        signal: one that the run's memory only watched; by default that which steers.
        most: at most so many epochs, evenly spread with the last; all by default.

    Attributes:
        epochs: the epochs on disk, ascending.

    Raises:
        InputError: no such files, or files that do not belong together.

    Example:
        >>> import tempfile
        >>> tracker, folder = MemorizationTracker(3), tempfile.mkdtemp()
        >>> tracker.update(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
        >>> _ = write_epoch(folder, 0, tracker)
        >>> history = TrackerHistory(folder)
        >>> history.epochs, history.scores().tolist()
        ([0], [[0.0, 0.0, 1.0]])
        >>> history.seen().tolist()
        [[True, False, True]]
    """

    def __init__(
        self, folder: str | Path, signal: str | None = None, *, most: int | None = None
    ) -> None:
        own = signal or ""
        found = _files(Path(folder, own)) or _files(Path(folder, "tracker", own))
        if not found:
            of = f"signal '{signal}'" if signal else "tracker"
            raise InputError(
                f"{folder} holds no history of the {of} (epochNNNNNN.npy); `bcl fit "
                "--history.every_n_epochs 1` writes one to tracker/ in the run's folder."
            )
        self.epochs = sorted(found)
        if most is not None:
            step = -(-len(self.epochs) // most)
            self.epochs = self.epochs[::-1][::step][::-1]
        self._tables = [_map(found[epoch]) for epoch in self.epochs]
        sizes = {table.shape[1] for table in self._tables}
        if len(sizes) > 1:
            raise InputError(
                f"the epochs in {folder} have {min(sizes)} to {max(sizes)} samples, so they come "
                "from different runs. Keep the files of one."
            )

    @property
    def num_samples(self) -> int:
        """N, the number of samples."""
        return int(self._tables[0].shape[1])

    def momentum_loss(self, ids: Iterable[int] | Tensor | None = None) -> Tensor:
        """(E, N) momentum losses, NaN where a sample was not yet seen; (E, n) for n ids."""
        return self._rows(0, ids)

    def scores(self, ids: Iterable[int] | Tensor | None = None) -> Tensor:
        """(E, N) memorization scores, 0 where a sample was not yet seen; (E, n) for n ids."""
        return self._rows(1, ids)

    def seen(self, ids: Iterable[int] | Tensor | None = None) -> Tensor:
        """(E, N) bool, or (E, n) for n ids: whether a sample had a loss by then."""
        return ~self.momentum_loss(ids).isnan()

    def _rows(self, row: int, ids: Iterable[int] | Tensor | None) -> Tensor:
        """Row 0 (losses) or 1 (scores) of every epoch."""
        import numpy as np

        if ids is None:
            return torch.from_numpy(np.stack([table[row] for table in self._tables]))
        chosen = np.asarray(ids if isinstance(ids, Tensor) else list(ids), dtype=np.int64)
        outside = (chosen < 0) | (chosen >= self.num_samples)
        if outside.any():
            raise InputError(
                f"sample id {chosen[outside][0]} lies outside [0, {self.num_samples}) of this "
                "history; ids are positions in the run's training set."
            )
        return torch.from_numpy(np.stack([table[row][chosen] for table in self._tables]))


def _files(folder: Path) -> dict[int, Path]:
    """The epochs' files in a folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(m[1]): path for path in paths if (m := _NAME.fullmatch(path.name))}


def _map(path: Path) -> Any:
    """Map a file as a float32 array (2, N)."""
    import numpy as np

    try:
        table = np.lib.format.open_memmap(path, mode="r")  # an archive has none
    except (ValueError, EOFError, TypeError, SyntaxError, OverflowError, TokenError) as error:
        raise InputError(f"{path} is not a complete .npy file ({error}); delete it.") from None
    if table.ndim != 2 or table.shape[0] != 2 or table.dtype != np.float32:
        raise InputError(
            f"{path} holds {table.dtype} {table.shape}, not the float32 (2, N) of a tracker's "
            "history; delete it."
        )
    return table
