"""Sharpness-aware minimization: the gradient is taken where the loss nearby is highest."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.checks import TensorLike, as_tensor, check_positive
from bcl.core.errors import InputError
from bcl.losses.precision import at_least_float32


@contextmanager
def sam_ascent(
    parameters: Iterable[nn.Parameter], rho: float = 0.05, adaptive: bool = False
) -> Iterator[None]:
    r"""Move weights up their gradient, clear it, and put the weights back at the end.

    .. math:: e = \rho\, \frac{g}{\lVert g \rVert}, \qquad \text{or, if adaptive,} \qquad
        e = \rho\, \frac{|w|^2 g}{\lVert\, |w|\, g \,\rVert}

    with the norm over all parameters that have a gradient. The step that follows uses the gradient
    taken at :math:`w + e` on the weights w, restored to the bit. The length of g does not matter,
    so a scaled gradient (float16) and any average over ranks will do; with DDP the gradient is that
    of all ranks, and so is e.

    Args:
        parameters: those of the model.
        rho: :math:`\rho > 0`, the length of e, of adaptive steps that of :math:`e / |w|`.
        adaptive: scale each weight's step by its size.

    Raises:
        InputError: ``rho`` is not above 0, no tensors, or no parameter has a gradient.

    Source: SAM (arXiv 2010.01412), equation 2; adaptive as in ASAM (arXiv 2102.11600). Where the
    first gradient is that of a weighted loss (`signal_weights`) and the second that of the plain
    loss, it is rwSAM (arXiv 2110.05025).

    Example:
        >>> w = nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> (w * torch.tensor([0.6, 0.8])).sum().backward()
        >>> with sam_ascent([w], rho=0.1):
        ...     print(w.data)
        tensor([ 1.0600, -1.9200])
        >>> w.data, w.grad
        (tensor([ 1., -2.]), None)
    """
    check_positive("rho", rho)
    parameters = list(parameters) if isinstance(parameters, Iterable) else [parameters]
    for parameter in parameters:
        if not isinstance(parameter, Tensor):
            raise InputError(
                f"parameters must be tensors, got {parameter!r:.80}; pass model.parameters()."
            )
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    if not moved:
        raise InputError("no parameter has a gradient; call backward on the first loss before.")
    before = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        grads: list[Any] = [parameter.grad for parameter in moved]
        steps = [g * p.abs() if adaptive else g for p, g in zip(moved, grads, strict=True)]
        lengths = [torch.linalg.vector_norm(at_least_float32(step)) for step in steps]
        length = torch.linalg.vector_norm(torch.stack(lengths))
        scale = torch.where(length > 0, rho / length, 0.0)
        for parameter, step in zip(moved, steps, strict=True):
            step = step * scale.to(step)
            parameter.add_(step * parameter.abs() if adaptive else step)
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(moved, before, strict=True):
                parameter.copy_(old)


@torch.no_grad()
def signal_weights(
    signal: TensorLike, exponent: float = 0.5, seen: TensorLike | None = None
) -> Tensor:
    r"""Weigh samples by a signal of the tail, with mean 1.

    .. math:: w_i = \frac{e^{a s_i}}{\operatorname{mean}_j e^{a s_j}}

    The sparseness of `bcl.evaluation.feature_signals` is minus the log of a kernel density k, so
    that its weights are :math:`k_i^{-a}` over their mean, as in rwSAM, whose k includes the sample
    itself; that of the sparseness leaves it out.

    Args:
        signal: (N,) finite, higher for samples that are more likely tail.
        exponent: :math:`a \ge 0`; 0 for equal weights.
        seen: (N,) bool, the samples whose signal is known; others weigh 1.

    Returns:
        (N,).

    Raises:
        InputError: a negative exponent, or a signal that is not finite (not looked at on a GPU).

    Source: rwSAM (arXiv 2110.05025), section 4. In its released code the weights do not reach the
    loss.

    Example:
        >>> signal_weights(-torch.tensor([4.0, 1.0, 1.0]).log(), exponent=0.5)
        tensor([0.6000, 1.2000, 1.2000])
    """
    check_positive("exponent", exponent, zero=True)
    signal = at_least_float32(as_tensor("signal", signal))
    known = torch.ones_like(signal, dtype=torch.bool)
    if seen is not None:
        known = as_tensor("seen", seen)
    if signal.ndim != 1 or known.shape != signal.shape or known.dtype != torch.bool:
        raise InputError(
            f"signal must be of shape (N,), and seen the same of bool, got {tuple(signal.shape)} "
            f"and {tuple(known.shape)} of {known.dtype}."
        )
    if signal.device.type == "cpu" and not bool(signal[known].isfinite().all()):
        raise InputError(
            "the signal is not finite for some samples; pass seen=..., those whose signal is known."
        )
    shares = (exponent * signal).masked_fill(~known, -torch.inf).softmax(0)
    return torch.where(known, known.sum() * shares, 1.0)
