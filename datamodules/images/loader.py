"""Training batches whose order is a function of (seed, epoch, position)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.random import permutation
from datamodules.images.dataset import Batch, ImageDataset, MemoryStore

# Keeps the order's random numbers apart from those of splits and augmentation.
_ORDER_STREAM = 0x0DE7


class BatchLoader:
    r"""Batches of a training set, in a new order each epoch.

    Epoch e reads the images in the order ``permutation(N, seed, e)``; step s takes the
    positions ``[s B, (s + 1) B)`` of it, of which rank r takes the r-th of equal slices. So the
    global batches do not depend on the number of ranks, and a run continues exactly from
    (epoch, position). The last, incomplete batch is dropped.

    Lightning finds the state by itself: it calls ``loader.sampler.set_epoch`` before each epoch,
    and saves and restores `state_dict`. In a loop of one's own, call `set_epoch`; a loader that
    was read to its end goes on to the next epoch without it.

    Args:
        data: the training set.
        batch_size: B, over all ranks together.
        seed: of the order.
        rank: this process's rank.
        world_size: number of ranks; must divide ``batch_size``.
        trained: tells how many batches of the running epoch are trained already, if someone
            knows; a batch that was fetched but not trained when the state is saved is then not
            lost.

    Raises:
        InputError: B does not divide, or is larger than the set.

    Example:
        >>> store = MemoryStore(torch.zeros(10, 3, 8, 8, dtype=torch.uint8))
        >>> data = ImageDataset(store, torch.arange(10), torch.zeros(10))
        >>> loader = MemoryLoader(data, batch_size=4)
        >>> [batch["id"].shape[0] for batch in loader]
        [4, 4]
    """

    order_keys: tuple[str, ...] = ("content_hash", "num_samples", "seed", "batch_size")
    """Entries of the state that an epoch's batches depend on."""

    def __init__(
        self,
        data: ImageDataset,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        trained: Callable[[], int | None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be positive, got {batch_size!r}.")
        if batch_size % world_size:
            raise InputError(
                f"batch_size is that of all ranks together and must divide among them: "
                f"{batch_size} does not among {world_size}; take "
                f"{max(batch_size // world_size, 1) * world_size}."
            )
        if batch_size > len(data):
            raise InputError(
                f"batch_size {batch_size} is larger than the training set of {len(data)} "
                "images; an epoch would have no step. Take a smaller batch."
            )
        self.dataset = data
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._trained = trained
        self._start = 0  # steps of this epoch that the next iteration leaves out
        self._done = 0  # steps of this epoch that were handed out

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    @property
    def sampler(self) -> "BatchLoader":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a position restored for it is kept."""
        if epoch != self.epoch:
            self.epoch, self._start, self._done = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position, as plain values: the same on every rank."""
        done = self._done
        if self._trained is not None and (trained := self._trained()) is not None:
            done = min(done, trained)
        return {
            "epoch": self.epoch,
            "position": done * self.batch_size,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "num_samples": len(self.dataset),
            "content_hash": self.dataset.content_hash,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch of a saved state.

        Raises:
            InputError: the state stands in the middle of an epoch of another order (other data,
                seed or batch size).
        """
        epoch, position = int(state["epoch"]), int(state["position"])
        steps = int(state["num_samples"]) // int(state["batch_size"])
        if position >= steps * int(state["batch_size"]):  # a whole epoch: nothing to match
            self.epoch, self._start, self._done = epoch, len(self), len(self)
            return
        mine = self.state_dict()
        for key in self.order_keys:
            if position and state.get(key, mine[key]) != mine[key]:
                raise InputError(
                    f"the checkpoint stands in the middle of epoch {epoch} of a run with "
                    f"{key} {state[key]}, this run has {mine[key]}; resume with the former, or "
                    "from a checkpoint of an epoch's end."
                )
        self.epoch = epoch
        self._start = self._done = position // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """(N,) ids in the order of an epoch."""
        return permutation(len(self.dataset), self.seed, _ORDER_STREAM, epoch)

    def slices(self, epoch: int, bounds: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """Ids at some positions of an epoch's order.

        Args:
            epoch: the epoch.
            bounds: first position and the one after the last, ascending.

        Yields:
            (n,) ids.
        """
        order = self.order(epoch)
        for first, last in bounds:
            yield order[first:last]

    def __iter__(self) -> Iterator[Batch]:
        if self._done >= len(self):
            self.epoch, self._start, self._done = self.epoch + 1, 0, 0
        # The epoch is read at the first batch: Lightning makes the iterator of its first epoch
        # before it says which epoch that is.
        return self._run()

    def _run(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        self._done = start
        share = self.batch_size // self.world_size
        firsts = range(
            start * self.batch_size + self.rank * share,
            len(self) * self.batch_size,
            self.batch_size,
        )
        ids = self.slices(self.epoch, ((first, first + share) for first in firsts))
        for batch in self._fetch(ids):
            # Counted before it is handed out: a generator does not run on after a last batch.
            self._done += 1
            yield batch

    def _fetch(self, ids: Iterable[Tensor]) -> Iterator[Batch]:
        raise NotImplementedError


class StreamLoader(BatchLoader):
    """Batches that a store reads ahead, in worker processes (see `BatchLoader`).

    Args:
        data: a training set in any store.
        batch_size: B, over all ranks together.
        options: those of `BatchLoader`.
    """

    def _fetch(self, ids: Iterable[Tensor]) -> Iterator[Batch]:
        data = self.dataset
        ahead: deque[Tensor] = deque()  # ids whose images are being read

        def rows() -> Iterator[Tensor]:
            for chosen in ids:
                ahead.append(chosen)
                yield data.locate(chosen)

        for images in data.store.stream(rows()):
            chosen = ahead.popleft()
            yield {"image": images, "id": chosen, "label": data.labels[chosen]}


class MemoryLoader(BatchLoader):
    """Batches gathered from decoded images in memory, best the device's own (see `BatchLoader`).

    Args:
        data: a training set in a `MemoryStore`.
        batch_size: B, over all ranks together.
        device: where the images are kept and the batches made.
        options: those of `BatchLoader`.
    """

    def __init__(
        self,
        data: ImageDataset,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(data, batch_size, **options)
        if not isinstance(data.store, MemoryStore):
            raise InputError("MemoryLoader needs decoded images; use StreamLoader for files.")
        self.device = torch.device(device)
        self._images, self._rows = data.store.images, data.rows
        if self.device.type != "cpu":
            # The device holds the training images alone; the host maps the file of all.
            try:
                self._images = data.store.read(data.rows).to(self.device)  # (N, 3, S, S)
            except torch.cuda.OutOfMemoryError:
                size = len(data) * 3 * data.image_size**2 / 2**30
                raise InputError(
                    f"the training set ({size:.1f} GiB of images) does not fit on "
                    f"{self.device}; keep it in the host's memory with storage='host', or let "
                    "workers read it with storage='files'."
                ) from None
            self._rows = torch.arange(len(data), device=self.device)
        self._labels = data.labels.to(self.device)

    def order(self, epoch: int) -> Tensor:
        """(N,) ids in the order of an epoch, on the device."""
        return permutation(len(self.dataset), self.seed, _ORDER_STREAM, epoch, device=self.device)

    def _fetch(self, ids: Iterable[Tensor]) -> Iterator[Batch]:
        for chosen in ids:
            yield {
                "image": self._images.index_select(0, self._rows[chosen]),
                "id": chosen,
                "label": self._labels[chosen],
            }
