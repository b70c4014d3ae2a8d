"""Training batches whose order is a function of (seed, epoch, position)."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bcl.core.checks import check_count
from bcl.core.errors import InputError
from bcl.core.random import hash64, permutation
from datamodules.images.beside import Beside
from datamodules.images.dataset import Batch, ImageDataset

# Keep the order's random numbers apart from those of splits and augmentation.
_ORDER_STREAM = 0x0DE7
_WINDOW_STREAM = 0x51AD
_BESIDE_STREAM = 0xBE51


class BatchLoader:
    """Batches of B ids over all ranks, in the order ``permutation(N, seed, epoch)``.

    Step s takes positions ``[s B, (s + 1) B)``, of which rank r reads the r-th of equal slices, so
    batches do not depend on the number of ranks, and a run resumes exactly from (epoch, position).
    The last, incomplete batch is dropped. With a ``budget`` an epoch has so many images more, and
    `choose` says which; external ones have the id -1 (see `Beside`). Lightning calls
    ``loader.sampler.set_epoch``; a loop of your own calls `set_epoch`, or reads to the end and goes
    on with the next epoch.
    """

    def __init__(
        self,
        data: ImageDataset,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        window: int = 16,
        trained: Callable[[], int | None] | None = None,
        external: ImageDataset | None = None,
        budget: int = 0,
    ) -> None:
        check_count("batch_size", batch_size)
        if batch_size % world_size:
            raise InputError(
                f"batch_size counts all ranks together and must divide among them: {batch_size} "
                f"does not divide among {world_size}; use "
                f"{max(batch_size // world_size, 1) * world_size}."
            )
        if batch_size > len(data):
            raise InputError(
                f"batch_size {batch_size} is larger than the training set of {len(data)} "
                "images; an epoch would have no steps. Use a smaller batch."
            )
        source = data if external is None else Beside(data, external)
        try:
            self._source = source.to(torch.device(device))
        except torch.cuda.OutOfMemoryError:
            size = len(data) * 3 * data.image_size**2 / 2**30
            raise InputError(
                f"the training set ({size:.1f} GiB of images) does not fit on {device}; keep it "
                "in the host's memory with storage='host', or in files with storage='files'."
            ) from None
        self.dataset = data
        self.external = external
        self.images = len(data) + budget  # of an epoch
        self._chosen: Tensor | None = None
        self._in_blocks = True
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.window = window
        self.epoch = 0
        # Returns the trained batches of the epoch: one that was fetched but not trained when the
        # state is saved is then not lost.
        self._trained = trained
        self._start = 0  # steps of this epoch that the next iteration leaves out
        self._done = 0  # steps of this epoch that were handed out

    def __len__(self) -> int:
        return self.images // self.batch_size

    @property
    def sampler(self) -> "BatchLoader":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a position restored for it is kept."""
        if epoch != self.epoch:
            self.epoch, self._start, self._done = epoch, 0, 0

    def choose(self, ids: Tensor | None) -> None:
        """Choose the images of the next epochs.

        Args:
            ids: (n,) int64 training images, and -1 - place for external ones, as many as an epoch
                has; an image may come several times. None for all training images, and again some
                where an epoch has more.

        Raises:
            InputError: another number of images, or an id out of range.
        """
        lowest = 0 if self.external is None else -len(self.external)
        if ids is not None and len(ids) != self.images:
            raise InputError(f"an epoch has {self.images} images, got {len(ids)} ids.")
        if ids is not None and not lowest <= int(ids.min()) <= int(ids.max()) < len(self.dataset):
            raise InputError(f"ids must lie in [{lowest}, {len(self.dataset)}).")
        self._chosen = ids
        # Training images that come once each are read block by block, others from anywhere.
        self._in_blocks = ids is None or bool(
            (torch.bincount(ids[ids >= 0], minlength=len(self.dataset)) == 1).all()
        )

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position and what the order depends on, as plain values equal on every rank."""
        done = self._done
        if self._trained is not None and (trained := self._trained()) is not None:
            done = min(done, trained)
        return {"epoch": self.epoch, "position": done * self.batch_size} | self._order_keys()

    def _order_keys(self) -> dict[str, Any]:
        keys = {
            "content_hash": self.dataset.content_hash,
            "num_samples": len(self.dataset),
            "seed": self.seed,
            "batch_size": self.batch_size,
        }
        if self.external is not None:
            keys |= {"external": self.external.content_hash, "images": self.images}
        return keys if self.dataset.blocks is None else keys | {"window": self.window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last batch of a saved state; refuses one within another order."""
        epoch, position = int(state["epoch"]), int(state["position"])
        steps = int(state.get("images", state["num_samples"])) // int(state["batch_size"])
        if position >= steps * int(state["batch_size"]):  # a whole epoch: nothing to match
            self.epoch, self._start, self._done = epoch, len(self), len(self)
            return
        for key, mine in self._order_keys().items():
            if position and state.get(key, mine) != mine:
                raise InputError(
                    f"the checkpoint is in the middle of epoch {epoch} of a run with {key} "
                    f"{state[key]}, this run has {mine}; resume with the former, or from a "
                    "checkpoint at the end of an epoch."
                )
        self.epoch = epoch
        self._start = self._done = position // self.batch_size

    def order(self, epoch: int) -> "Tensor | WindowOrder | MixedOrder":
        """The ids in the order of an epoch; slices of it are (n,) int64."""
        if self.dataset.blocks is not None and self._in_blocks:
            return self._block_order(epoch)
        n, device = len(self.dataset), self._source.labels.device
        keys = self.seed, _ORDER_STREAM, epoch
        if self._chosen is not None:
            return self._chosen.to(device)[permutation(self.images, *keys, device=device)]
        order = permutation(n, *keys, device=device)
        again = [
            permutation(n, *keys, time, device=device) for time in range(1, -(-self.images // n))
        ]
        return torch.cat([order, *again])[: self.images]

    def _block_order(self, epoch: int) -> "WindowOrder | MixedOrder":
        """Blocks of training images, with what an epoch has besides them strewn in."""
        keys, n, more = (self.seed, epoch), len(self.dataset), self.images - len(self.dataset)
        sizes: Any = self.dataset.blocks
        own = WindowOrder(sizes, self.window, *keys)
        if not more:
            return own
        if self._chosen is not None:
            beside = self._chosen[self._chosen < 0].cpu()
            beside = beside[permutation(more, *keys, _BESIDE_STREAM)]
        else:  # training images again
            rounds = [
                WindowOrder(sizes, self.window, *keys, time)[: more - (time - 1) * n]
                for time in range(1, -(-more // n) + 1)
            ]
            beside = torch.cat(rounds)
        return MixedOrder(own, n, beside, *keys)

    def __iter__(self) -> Iterator[Batch]:
        if self._done >= len(self):
            self.epoch, self._start, self._done = self.epoch + 1, 0, 0
        # The epoch is read at the first batch: Lightning makes the iterator of its first epoch
        # before it sets that epoch.
        return self._run()

    def _run(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        self._done = start
        for batch in self._source.stream(self._ids(start), (self.seed, self.epoch)):
            # Counted before it is handed out: a generator does not run on after its last batch.
            self._done += 1
            yield batch

    def _ids(self, start: int) -> Iterator[Tensor]:
        """This rank's ids of each step from ``start`` on."""
        order, share = self.order(self.epoch), self.batch_size // self.world_size
        for step in range(start, len(self)):
            first = step * self.batch_size + self.rank * share
            yield order[first : first + share]


class WindowOrder:
    """Random order of images in blocks: ``window`` shuffled blocks are mixed at a time.

    A slice is found without computing what comes before it; only a window's order is held.
    """

    def __init__(
        self, sizes: Sequence[int], window: int, seed: int, epoch: int, *more: int
    ) -> None:
        self.keys = (seed, _WINDOW_STREAM, epoch, *more)
        self._counts = torch.tensor(sizes, dtype=torch.int64)
        self._first = self._counts.cumsum(0) - self._counts  # (S,) first id of each block
        self._windows = torch.split(permutation(len(sizes), *self.keys), window)
        per_window = [int(self._counts[blocks].sum()) for blocks in self._windows]
        self._ends = torch.tensor(per_window).cumsum(0)  # (W,) position after each window
        self._held: OrderedDict[int, Tensor] = OrderedDict()

    def __getitem__(self, positions: slice) -> Tensor:
        first, last, _ = positions.indices(int(self._ends[-1]))
        parts = [torch.empty(0, dtype=torch.int64)]
        window = int(torch.searchsorted(self._ends, first, right=True))
        while first < last:
            start = int(self._ends[window - 1]) if window else 0
            stop = min(last, int(self._ends[window]))
            parts.append(self._order(window)[first - start : stop - start])
            first, window = stop, window + 1
        return torch.cat(parts)

    def _order(self, window: int) -> Tensor:
        if window not in self._held:
            blocks = self._windows[window]
            counts = self._counts[blocks]  # (window,)
            before = (self._first[blocks] - counts.cumsum(0) + counts).repeat_interleave(counts)
            ids = torch.arange(len(before)) + before
            self._held[window] = ids[permutation(len(ids), *self.keys, window)]
            while len(self._held) > 2:  # ranks and prefetching may straddle two windows
                self._held.popitem(last=False)
        return self._held[window]


class MixedOrder:
    """An order of n images with others strewn in evenly: one at random in each equal stretch."""

    def __init__(self, own: WindowOrder, n: int, others: Tensor, seed: int, epoch: int) -> None:
        self.own, self.others = own, others
        ends = torch.arange(len(others) + 1) * (n + len(others)) // len(others)
        place = hash64(seed, epoch, torch.arange(len(others)), _BESIDE_STREAM)
        self._places = ends[:-1] + place.remainder(ends.diff())  # (E,) ascending positions
        self._length = n + len(others)

    def __getitem__(self, positions: slice) -> Tensor:
        first, last, _ = positions.indices(self._length)
        begin, end = torch.searchsorted(self._places, torch.tensor([first, last])).tolist()
        ids = torch.empty(last - first, dtype=torch.int64)
        strewn = torch.zeros(len(ids), dtype=torch.bool)
        strewn[self._places[begin:end] - first] = True
        ids[strewn] = self.others[begin:end]
        ids[~strewn] = self.own[first - begin : last - end]
        return ids
