r"""Multinomial logistic regression by preconditioned L-BFGS, several problems at once.

.. math:: f(W, b) = \frac1n \sum_i \Bigl(\log\sum_c e^{x_i^\top w_c + b_c}
          - x_i^\top w_{y_i} - b_{y_i}\Bigr) + \frac{\lambda}{2} \lVert W \rVert^2

The problem is convex with one minimum, so the answer depends on no seed, learning rate or number
of epochs. Near the start its Hessian is close to :math:`\kappa_c X^\top X / n + \lambda I` for
class c, :math:`\kappa_c = \pi_c (1 - \pi_c)` with the class share :math:`\pi_c`. The
eigenvectors of the D x D matrix are computed once for all :math:`\lambda`, and L-BFGS started from
that inverse instead of the identity needs tens of passes over the data, not hundreds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bcl.errors import InputError

# Logits worked on at a time: larger blocks fall out of a processor's cache, smaller ones leave a
# GPU idle.
BLOCK_BYTES = {"cpu": 16 << 20, "cuda": 512 << 20}
MEMORY = 10  # pairs of (step, change of gradient) that L-BFGS keeps
MAX_HALVINGS = 12


@dataclass
class SoftmaxProblem:
    """P standardised training sets of equal shape, ready for any number of fits.

    Attributes:
        x: (P, n, D) standardised features.
        y: (P, n) int64 labels.
        num_classes: C.
        log_share: (P, C) log of the class shares; -inf for a class without pictures.
        eigenvalues: (D,) of the second moment of ``x``, all P sets together: they only
            precondition, and draws of one set of pictures have nearly the same.
        eigenvectors: (D, D), in columns.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    log_share: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, num_classes: int) -> "SoftmaxProblem":
        """Count the classes and decompose the second moment.

        Args:
            x: (P, n, D) standardised features.
            y: (P, n) labels.
            num_classes: C.

        Returns:
            The problem.
        """
        P, n, D = x.shape
        counts = torch.zeros(P, num_classes, device=x.device)
        counts.scatter_add_(1, y, torch.ones_like(y, dtype=counts.dtype))
        rows = x.reshape(P * n, D)
        moment = (rows.T @ rows).div_(P * n)  # (D, D)
        values, vectors = torch.linalg.eigh(moment)
        return cls(x, y, num_classes, (counts / n).log(), values.clamp_(min=0), vectors)

    def rows(self, n: int) -> "SoftmaxProblem":
        """The first n rows, with the decomposition of all rows (it is only a preconditioner)."""
        y = self.y[:, :n]
        counts = torch.zeros_like(self.log_share)
        counts.scatter_add_(1, y, torch.ones_like(y, dtype=counts.dtype))
        return SoftmaxProblem(
            self.x[:, :n],
            y,
            self.num_classes,
            (counts / n).log(),
            self.eigenvalues,
            self.eigenvectors,
        )

    def value_and_gradient(self, w: Tensor, b: Tensor, l2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objective (P,) and its gradients (P, D, C) and (P, C); a class with b = -inf is out."""
        P, n, _ = self.x.shape
        value = torch.zeros(P, device=w.device)
        grad_w, grad_b = torch.zeros_like(w), torch.zeros_like(b)
        block_bytes = BLOCK_BYTES.get(w.device.type, BLOCK_BYTES["cpu"])
        block = max(256, block_bytes // (4 * P * self.num_classes))
        for start in range(0, n, block):
            x, y = self.x[:, start : start + block], self.y[:, start : start + block, None]
            z = torch.baddbmm(b[:, None, :], x, w)  # (P, m, C)
            log_norm = z.logsumexp(-1, keepdim=True)  # (P, m, 1)
            value += (log_norm - z.gather(-1, y)).sum((1, 2))
            p = z.sub_(log_norm).exp_()
            p.scatter_add_(-1, y, torch.full_like(log_norm, -1.0))
            grad_w.baddbmm_(x.transpose(1, 2), p)
            grad_b += p.sum(1)
        scale = l2[:, None, None]
        grad_w.div_(n).add_(scale * w)
        return value / n + 0.5 * l2 * w.square().sum((1, 2)), grad_w, grad_b / n


def minimise(
    problem: SoftmaxProblem,
    l2: Tensor,
    start: tuple[Tensor, Tensor] | None = None,
    *,
    tolerance: float = 5e-4,
    max_iterations: int = 200,
) -> tuple[Tensor, Tensor, int]:
    """Fit all P problems together.

    Args:
        problem: the training sets.
        l2: (P,) weight of the penalty, > 0.
        start: weights (P, D, C) and biases (P, C) to start from.
        tolerance: stop where the decrease that the quadratic model still promises is below this
            share of the objective, in every problem.
        max_iterations: at most so many steps.

    Returns:
        Weights (P, D, C), biases (P, C) with -inf for absent classes, and the steps taken.

    Raises:
        InputError: the objective is not finite: features with huge values.
    """
    P, _, D = problem.x.shape
    C = problem.num_classes
    absent = problem.log_share.isinf()  # (P, C)
    share = problem.log_share.exp()
    kappa = (share * (1 - share)).clamp(min=1e-8)[:, None, :]  # (P, 1, C)
    # (P, D, C): the curvature of every class along every eigenvector.
    curvature = kappa * problem.eigenvalues[None, :, None] + l2[:, None, None]
    if start is None:
        w = problem.x.new_zeros(P, D, C)
        b = problem.log_share.clone()
    else:
        w, b = start[0].clone(), start[1].clone()
        b = torch.where(absent, -torch.inf, torch.where(b.isinf(), problem.log_share, b))
    vectors = problem.eigenvectors

    def precondition(gw: Tensor, gb: Tensor) -> tuple[Tensor, Tensor]:
        return vectors @ (vectors.T @ gw).div_(curvature), gb / kappa[:, 0]

    def dot(a: tuple[Tensor, Tensor], c: tuple[Tensor, Tensor]) -> Tensor:
        return (a[0] * c[0]).sum((1, 2)) + (a[1] * c[1]).sum(1)  # (P,)

    value, *gradient = problem.value_and_gradient(w, b, l2)
    g = (gradient[0], gradient[1])
    pairs: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]] = []
    steps = 0
    while steps < max_iterations:
        # Two-loop recursion of L-BFGS, per problem.
        q = g
        alphas = []
        for s, y, rho in reversed(pairs):
            alpha = rho * dot(s, q)
            q = (q[0] - alpha[:, None, None] * y[0], q[1] - alpha[:, None] * y[1])
            alphas.append(alpha)
        r = precondition(*q)
        if pairs:
            s, y, rho = pairs[-1]
            scaled = dot(y, precondition(*y)) * rho
            gamma = torch.where(scaled > 0, 1 / scaled.clamp(min=1e-12), 1.0)
            r = (gamma[:, None, None] * r[0], gamma[:, None] * r[1])
        for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            beta = alpha - rho * dot(y, r)
            r = (r[0] + beta[:, None, None] * s[0], r[1] + beta[:, None] * s[1])
        slope = -dot(g, r)  # (P,) along the direction -r; negative
        running = -slope > tolerance * value
        if not bool(running.any()):
            break
        steps += 1
        length = torch.where(running, 1.0, 0.0)
        for _ in range(MAX_HALVINGS):
            step = (-length[:, None, None] * r[0], -length[:, None] * r[1])
            new_value, *gradient = problem.value_and_gradient(w + step[0], b + step[1], l2)
            fits = (new_value <= value + 1e-4 * length * slope) | ~running
            if bool(fits.all()):
                break
            length = torch.where(fits, length, length / 2)
        else:
            # No step helps at this precision: those problems stay where they are.
            length = torch.where(fits, length, 0.0)
            step = (-length[:, None, None] * r[0], -length[:, None] * r[1])
            new_value, *gradient = problem.value_and_gradient(w + step[0], b + step[1], l2)
        if not bool(new_value.isfinite().all()):
            raise InputError(
                "the probe's objective is not finite; the features hold huge or infinite values."
            )
        new_g = (gradient[0], gradient[1])
        y = (new_g[0] - g[0], new_g[1] - g[1])
        product = dot(step, y)
        # Without positive curvature a pair is worthless; zero weight leaves it out.
        rho = torch.where(product > 1e-12, 1 / product.clamp(min=1e-12), 0.0)
        pairs = [*pairs[-(MEMORY - 1) :], (step, y, rho)]
        w, b, value, g = w + step[0], b + step[1], new_value, new_g
        if not bool((length > 0).any()):
            break
    return w, b, steps
