"""Numbers that a loss keeps per sample, by id."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_ids, check_count
from bcl.core.distributed import gather_rows, world_size
from bcl.core.errors import InputError


class KeepsFloat32(nn.Module):
    """A module whose tensors keep their type when it is moved: 16 bits would lose small steps."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KeepsFloat32":
        def keep_type(x: Tensor) -> Tensor:
            moved = fn(x)
            return moved if moved.dtype == x.dtype else x.to(moved.device)

        return super()._apply(keep_type, recurse)  # type: ignore[no-untyped-call, no-any-return]


class SampleState(KeepsFloat32):
    """C numbers for every training sample, the same on every rank, saved with the model.

    Args:
        num_samples: N, the number of training samples; ids run from 0 to N - 1. None if it is not
            known yet: `allocate` sets it, and so does loading a saved state.
        first: the C numbers of a sample that was never written.

    Example:
        >>> state = SampleState(3, first=[0.0, 0.5])
        >>> state.write(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> state.values[:, 1], state.seen
        (tensor([4.0000, 0.5000, 2.0000]), tensor([ True, False,  True]))
    """

    values: Tensor  # (N, C); None until N is known, as seen
    seen: Tensor  # (N,)

    def __init__(self, num_samples: int | None, first: list[float]) -> None:
        super().__init__()
        self.first = first
        self.register_buffer("values", None)
        self.register_buffer("seen", None)
        if num_samples is not None:
            self.allocate(num_samples)

    @property
    def num_samples(self) -> int | None:
        """N, or None if it is not known yet."""
        return None if self.values is None else len(self.values)

    def allocate(self, num_samples: int, device: torch.device | None = None) -> None:
        """Make room for N samples, or check that there is room for exactly these."""
        check_count("num_samples", num_samples)
        if self.values is None:
            first = torch.tensor(self.first, dtype=torch.float32, device=device)
            self.values = first.repeat(num_samples, 1)
            self.seen = torch.zeros(num_samples, dtype=torch.bool, device=device)
        elif self.num_samples != num_samples:
            raise InputError(
                f"the loss keeps numbers for {self.num_samples} samples, not for {num_samples}; "
                "build it with the num_samples of this training set."
            )

    def known(self) -> "SampleState":
        """Return the state; refuse one whose size is not known yet."""
        if self.values is None:
            raise InputError("the loss keeps numbers per sample; build it with num_samples=N.")
        return self

    def check(self, ids: TensorLike | None, batch: int) -> Tensor:
        """Return ids that fit; those on a GPU are not compared with N, which would stop it."""
        self.known()
        if ids is None:
            raise InputError("the loss keeps numbers per sample; call it with ids=..., of (B,).")
        ids = as_ids(ids, batch)
        if ids.device.type == "cpu" and batch and not -1 <= ids.min() <= ids.max() < len(self.seen):
            wrong = ids[(ids < -1) | (ids >= len(self.seen))][0]
            raise InputError(
                f"sample id {int(wrong)} lies outside [0, {len(self.seen)}), and is not -1 as of "
                "an external image; build the loss with the num_samples of this training set."
            )
        return ids.to(self.values.device)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) numbers of samples, and (B,) whether they were written; none are of id -1."""
        own = ids >= 0
        first = self.values.new_tensor(self.first)
        return torch.where(own[:, None], self.values[ids], first), own & self.seen[ids]

    @torch.no_grad()
    def write(self, ids: Tensor, rows: Tensor, gather: bool = True) -> None:
        """Keep the numbers of one step; with a process group, those of all ranks.

        Of a sample that is there twice the first row counts, in rank order. A row that is not
        finite, or of an external image (id -1), is left out.

        Args:
            ids: (B,) from `check`.
            rows: (B, C).
            gather: whether all ranks call this.
        """
        rows = rows.detach().float()
        if gather and world_size() > 1:
            # float64 holds ids up to 2**53 and float32 exactly, so one collective carries both.
            table = gather_rows(torch.cat([ids.double()[:, None], rows.double()], 1))
            ids, rows = table[:, 0].long(), table[:, 1:].float()
        ids, order = ids.sort(stable=True)
        rows, place = rows[order], ids.clamp(min=0)
        kept = (ids >= 0) & rows.isfinite().all(1)
        kept[1:] &= ids[1:] != ids[:-1]  # the first row of its sample
        # What is left out adds 0 somewhere, so that a GPU need not tell how many rows are kept.
        for change in (-self.values[place], rows):
            self.values.index_add_(0, place, torch.where(kept[:, None], change, 0))
        new = kept & ~self.seen[place]
        self.seen.view(torch.uint8).index_add_(0, place, new.byte())

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}values")
        if saved is not None:
            self.allocate(len(saved), saved.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Describe the state when a model is printed."""
        return f"num_samples={self.num_samples}, {len(self.first)} numbers each"
