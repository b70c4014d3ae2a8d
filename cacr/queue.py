"""The memory of a momentum-contrast method: a queue of keys, and the momentum encoder's step."""

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_features, as_tensor, check_count
from bcl.core.distributed import gather_rows, world_size
from bcl.core.errors import InputError
from bcl.losses.precision import unit_rows


class MomentumQueue(nn.Module):
    """First-in-first-out queue of momentum keys, the same on every rank.

    Its state is buffers: it is saved, loaded and moved with the model. It starts with random unit
    rows, as MoCo's does. Pass ``queue.keys`` to the loss as ``negatives``, then enqueue the keys.

    Args:
        size: Q, number of keys kept; the paper's ImageNet experiments have 65,536.
        dim: D, width of a key.
        seed: seed of the initial random keys; the same on all ranks.

    Raises:
        InputError: a size or width below 1.

    Source: MoCo (arXiv 1911.05722), as used by CACR (arXiv 2105.03746).

    Example:
        >>> queue = MomentumQueue(4, 2)
        >>> queue.enqueue(torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]))
        >>> queue.keys[:3]
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000],
                [1.0000, 0.0000]])
        >>> int(queue.position)
        3
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            check_count(name, value)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("keys", unit_rows(torch.randn(size, dim, generator=generator)))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @property
    def size(self) -> int:
        """Q, the number of keys kept."""
        return self.keys.shape[0]

    @torch.no_grad()
    def enqueue(self, keys: TensorLike, gather: bool = True) -> None:
        """Replace the oldest keys by new ones; with a process group, by those of all ranks.

        Args:
            keys: (B, D), of any length; with more than Q, the last Q remain. The released code
                enqueues the keys of the last view.
            gather: whether all ranks call this, each with its own keys (B may differ).

        Raises:
            InputError: keys of another shape or width, or of an integer type.
        """
        shape = f"(B, {self.keys.shape[1]})"
        keys = as_tensor("keys", keys)
        if keys.ndim != 2 or keys.shape[1] != self.keys.shape[1]:
            raise InputError(
                f"keys must be of shape {shape}, got {tuple(keys.shape)}; enqueue one view at a "
                "time, from a projector of the queue's width."
            )
        rows = unit_rows(as_features("keys", keys, shape).detach()).to(
            self.keys.device, self.keys.dtype
        )
        if gather and world_size() > 1:
            rows = gather_rows(rows)
        count = rows.shape[0]
        place = torch.arange(count, device=rows.device) + self.position
        if count > self.size:
            rows, place = rows[-self.size :], place[-self.size :]
        self.keys.index_copy_(0, place % self.size, rows)
        self.position.add_(count).remainder_(self.size)

    def extra_repr(self) -> str:
        """Describe the queue when a model is printed."""
        return f"size={self.size}, dim={self.keys.shape[1]}"


@torch.no_grad()
def momentum_update(teacher: nn.Module, student: nn.Module, momentum: float = 0.999) -> None:
    r"""Move a momentum encoder towards the trained one: :math:`k \leftarrow m k + (1 - m) q`.

    Parameters are averaged, buffers (running statistics) copied.

    Args:
        teacher: the momentum encoder, changed in place.
        student: the encoder that is trained, of the same structure.
        momentum: m in [0, 1].

    Raises:
        InputError: momentum out of its range, or modules of different structure.

    Source: MoCo (arXiv 1911.05722), equation 2.

    Example:
        >>> teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> momentum_update(teacher, student, momentum=0.0)
        >>> teacher.weight.equal(student.weight)
        True
    """
    if not 0 <= momentum <= 1:
        raise InputError(f"momentum must lie in [0, 1], got {momentum!r}; MoCo uses 0.999.")
    theirs, ours = dict(student.named_parameters()), dict(teacher.named_parameters())
    if theirs.keys() != ours.keys():
        differ = sorted(theirs.keys() ^ ours.keys())[:3]
        raise InputError(
            f"teacher and student differ in the parameters {differ}; make the teacher with "
            "copy.deepcopy(student)."
        )
    for name, parameter in ours.items():
        parameter.lerp_(theirs[name].to(parameter.dtype), 1 - momentum)
    for mine, other in zip(teacher.buffers(), student.buffers(), strict=True):
        mine.copy_(other)
