"""The learning-rate schedule of the papers."""

import math


def warmup_cosine(
    step: int, *, base: float, total: int, warmup: int = 0, minimum: float = 0.0
) -> float:
    r"""Learning rate of a step: linear warm-up from 0, then half a cosine down to ``minimum``.

    .. math:: \eta_t = \eta\,t/w \ (t \le w), \qquad
        \eta_t = \eta_{\min} + \tfrac12 (\eta - \eta_{\min})
        \bigl(1 + \cos(\pi \tfrac{t - w}{T - w})\bigr)

    Args:
        step: t, counted in optimizer steps from 0.
        base: the highest learning rate.
        total: T, the number of steps of the run; later steps keep ``minimum``.
        warmup: w, the number of warm-up steps.
        minimum: the learning rate at the end.

    Returns:
        The learning rate.

    Source: BCL (arXiv 2205.12693), released training code.

    Example:
        >>> [warmup_cosine(t, base=1.0, total=8, warmup=4) for t in (0, 2, 4, 6, 8)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step <= warmup and warmup > 0:
        return base * step / warmup
    if step >= total:
        return minimum
    progress = (step - warmup) / (total - warmup)
    return minimum + 0.5 * (base - minimum) * (1 + math.cos(math.pi * progress))
