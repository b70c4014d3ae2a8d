r"""Multinomial logistic regression by preconditioned L-BFGS, several problems at once.

.. math:: f(W, b) = \frac1n \sum_i \Bigl(\log\sum_c e^{x_i^\top w_c + b_c}
          - x_i^\top w_{y_i} - b_{y_i}\Bigr) + \frac{\lambda}{2} \lVert W \rVert^2

The problem is convex with one minimum, so the answer depends on no seed, learning rate or number
of epochs, once it is reached. What makes it quick is an inverse Hessian to start L-BFGS from. With
:math:`A = \overline{\operatorname{diag} p - p p^\top}` over the training rows, the C x C curvature
of the classes, and the second moment :math:`\Sigma = X^\top X / n`, it is

.. math:: (A \otimes \Sigma + \lambda I)^{-1}

on features that are centered for every class c on the rows where the class is in doubt, at
:math:`m_c = \sum_i p_{ic} (1 - p_{ic})\, x_i / \sum_i p_{ic} (1 - p_{ic})`: otherwise weights and
bias of a class are entangled. Both factors are diagonalized, :math:`\Sigma` once for all
:math:`\lambda`. Pairs of step and change of gradient stay valid from one :math:`\lambda` to the
next, for :math:`\lambda I` is all that changes in the Hessian.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.random import permutation

# Logits worked on at a time: larger blocks fall out of a processor's cache, smaller ones leave a
# GPU idle.
BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 512 << 20}
EXACT = 1e-6  # promised decrease, as a share of the objective, at which a minimum is reached
MEMORY = 10  # pairs of (step, change of gradient) that L-BFGS keeps
MAX_HALVINGS = 40
NOISE = 5e-7  # objectives that differ by this share are equal in float32
PATIENCE = 20  # steps without progress after which float32 gives no more
SAMPLE = 16384  # rows that the preconditioner is made of: it decides the speed, not the answer
COLD = 2  # steps from zero after which it is first made anew: earlier, it misleads
REFRESH = 16  # steps after which it is made anew
RESCALE = 4  # steps after which the preconditioner's scale is fitted to the last pair
OFF = 0.2  # a slope at the end of a step above this share of the first one: another length


@dataclass
class SoftmaxProblem:
    """P standardized training sets of equal shape, ready for any number of fits.

    Parameters are (P, D + 1, C) tensors, the biases in the last row.

    Attributes:
        x: (P, n, D) standardized features.
        y: (P, n) int64 labels.
        num_classes: C.
        log_share: (P, C) log of the class shares; -inf for a class without images.
        eigenvalues: (D,) of the second moment of ``x``, all P sets together: they only
            precondition, and draws of one set of images have nearly the same.
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
            x: (P, n, D) standardized features.
            y: (P, n) labels.
            num_classes: C.

        Returns:
            The problem.
        """
        P, n, D = x.shape
        rows = _sample(x.reshape(P * n, D), max(SAMPLE, 8 * D))
        values, vectors = torch.linalg.eigh((rows.T @ rows).div_(rows.shape[0]))  # (D, D)
        share = _log_share(y, num_classes, x)
        return cls(x, y, num_classes, share, values.clamp_(min=0), vectors)

    def rows(self, n: int) -> "SoftmaxProblem":
        """The first n rows, with the decomposition of all rows (it is only a preconditioner)."""
        y = self.y[:, :n]
        share = _log_share(y, self.num_classes, self.x)
        return replace(self, x=self.x[:, :n], y=y, log_share=share)

    def start(self) -> Tensor:
        """Weights zero and the class shares as biases."""
        P, _, D = self.x.shape
        parameters = self.x.new_zeros(P, D + 1, self.num_classes)
        parameters[:, D] = self.log_share.nan_to_num(neginf=0.0)
        return parameters

    def logits(self, parameters: Tensor, x: Tensor | None = None) -> Tensor:
        """(P, m, C) of some rows, or of all; a class without images has -inf."""
        x = self.x if x is None else x
        bias = parameters[:, -1:].masked_fill(self.log_share.isinf()[:, None], -torch.inf)
        return torch.baddbmm(bias, x, parameters[:, :-1])

    def _blocks(self) -> Iterator[slice]:
        P, n, _ = self.x.shape
        block_bytes = BLOCK_BYTES.get(self.x.device.type, BLOCK_BYTES["cpu"])
        block = max(256, block_bytes // (4 * P * self.num_classes))
        return (slice(start, start + block) for start in range(0, n, block))

    def along(self, logits: Tensor, change: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss after a step of some length, without another product with the features.

        Args:
            logits: (P, n, C) before the step.
            change: (P, n, C) of the logits by the whole step.
            length: (P,) how much of it to go.

        Returns:
            Mean loss and its derivative by the length, (P,) in float64.
        """
        P, n, _ = self.x.shape
        value = torch.zeros(P, dtype=torch.float64, device=logits.device)
        slope = torch.zeros_like(value)
        for rows in self._blocks():
            y, step = self.y[:, rows, None], change[:, rows]
            z = torch.addcmul(logits[:, rows], step, length[:, None, None])
            # Against the label's own: where it is nearly certain, all digits are in the others.
            z -= z.gather(-1, y)
            log_norm = z.logsumexp(-1, keepdim=True)  # (P, m, 1), the loss
            value += log_norm.sum((1, 2), dtype=torch.float64)
            ahead = step - step.gather(-1, y)
            slope += z.sub_(log_norm).exp_().mul_(ahead).sum((1, 2), dtype=torch.float64)
        return value / n, slope / n

    def gradient(self, logits: Tensor, buffer: Tensor, weight: Tensor, l2: Tensor) -> Tensor:
        """Gradient of the objective.

        Args:
            logits: (P, n, C).
            buffer: (P, n, C), overwritten.
            weight: (P, D, C) that the logits belong to.
            l2: (P,).

        Returns:
            (P, D + 1, C).
        """
        for rows in self._blocks():
            p = torch.softmax(logits[:, rows], -1, out=buffer[:, rows])
            y = self.y[:, rows, None]
            # p - 1 at the label, without its rounding: minus the sum of the others.
            p.scatter_(-1, y, 0.0)
            p.scatter_(-1, y, -p.sum(-1, keepdim=True))
        gradient = weight.new_empty(weight.shape[0], weight.shape[1] + 1, weight.shape[2])
        n = logits.shape[1]
        gradient[:, :-1] = torch.bmm(self.x.transpose(1, 2), buffer).div_(n)
        gradient[:, :-1] += l2[:, None, None] * weight
        gradient[:, -1] = buffer.sum(1) / n
        return gradient


def _log_share(y: Tensor, num_classes: int, like: Tensor) -> Tensor:
    counts = torch.zeros(y.shape[0], num_classes, dtype=like.dtype, device=y.device)
    counts.scatter_add_(1, y, torch.ones_like(y, dtype=counts.dtype))
    return (counts / y.shape[1]).log()


def _sample(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, spread evenly at random over all; always the same ones."""
    n = rows.shape[-2]
    if n <= most:
        return rows
    return rows.index_select(-2, permutation(n, 0, 0x5A3, device=rows.device)[:most])


@dataclass
class Preconditioner:
    """An inverse Hessian of `SoftmaxProblem` in the coordinates where it is nearly diagonal.

    Attributes:
        center: (P, D, C), where each class is in doubt.
        class_values: (P, C) eigenvalues of the classes' curvature.
        class_vectors: (P, C, C).
        present: (P, 1, C), 1 for classes with images.
        eigenvalues: (D,) of the features' second moment.
        eigenvectors: (D, D).
    """

    center: Tensor
    class_values: Tensor
    class_vectors: Tensor
    present: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    @classmethod
    def at(cls, problem: SoftmaxProblem, parameters: Tensor | None = None) -> "Preconditioner":
        """Measure the curvature at some parameters, or at the start.

        Args:
            problem: the training sets.
            parameters: (P, D + 1, C); `SoftmaxProblem.start` if not given.

        Returns:
            The preconditioner.
        """
        P, _, D = problem.x.shape
        if parameters is None:
            # Every row has the same probabilities there, and the features are centered.
            share = problem.log_share.exp()
            curvature = torch.diag_embed(share) - share[:, :, None] * share[:, None, :]
            center = problem.x.new_zeros(P, D, problem.num_classes)
        else:
            x = _sample(problem.x, SAMPLE)
            p = problem.logits(parameters, x).softmax(-1)  # (P, m, C)
            m = x.shape[1]
            curvature = torch.diag_embed(p.mean(1)) - torch.bmm(p.transpose(1, 2), p) / m
            doubt = p.sub_(p.square())
            total = doubt.sum(1, keepdim=True).clamp_(min=1e-12)
            center = torch.bmm(x.transpose(1, 2), doubt).div_(total)
        values, vectors = torch.linalg.eigh(curvature)
        # A floor, for no direction may be left out; that of a shift of all classes is dropped in
        # `solve`, the others are the fewer images a class has the flatter.
        values = values.clamp(min=0)
        values = values.clamp(min=1e-6 * float(values.amax()) or 1e-6)
        return cls(
            center,
            values,
            vectors,
            (~problem.log_share.isinf()).to(problem.x.dtype)[:, None],
            problem.eigenvalues,
            problem.eigenvectors,
        )

    def solve(self, gradient: Tensor, l2: Tensor) -> Tensor:
        """Multiply with the inverse.

        Args:
            gradient: (P, D + 1, C).
            l2: (P,).

        Returns:
            (P, D + 1, C).
        """
        bias = gradient[:, -1:]  # (P, 1, C)
        shifted = gradient[:, :-1] - self.center * bias
        turned = torch.matmul(self.eigenvectors.T, shifted) @ self.class_vectors
        curvature = self.eigenvalues[None, :, None] * self.class_values[:, None]
        turned /= curvature + l2[:, None, None]
        weight = torch.matmul(self.eigenvectors, turned) @ self.class_vectors.transpose(1, 2)
        weight *= self.present
        # A common shift of all biases changes nothing: without it no rounding can pile up there.
        bias = (bias - bias.sum(-1, keepdim=True) / self.present.sum(-1, keepdim=True)) * (
            self.present
        )
        bias = (bias @ self.class_vectors / self.class_values[:, None]) @ (
            self.class_vectors.transpose(1, 2)
        )
        bias = (bias - (self.center * weight).sum(1, keepdim=True)) * self.present
        return torch.cat([weight, bias], 1)


@dataclass
class Fit:
    """Where a minimization stands; another one may start from it.

    Attributes:
        parameters: (P, D + 1, C).
        l2: (P,) the penalty it was made with.
        preconditioner: of its last steps.
        pairs: steps and changes of gradient.
        steps: taken in all.
        gap: the decrease that the quadratic model still promises, as a share of the objective; the
            largest of the P problems.
    """

    parameters: Tensor
    l2: Tensor
    preconditioner: Preconditioner
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    steps: int = 0
    gap: float = float("inf")

    @property
    def weight(self) -> Tensor:
        """(P, D, C)."""
        return self.parameters[:, :-1]

    @property
    def bias(self) -> Tensor:
        """(P, C); of no meaning for absent classes."""
        return self.parameters[:, -1]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))  # (P,)


def minimize(
    problem: SoftmaxProblem,
    l2: Tensor,
    start: Fit | None = None,
    *,
    tolerance: float = EXACT,
    max_steps: int = 500,
) -> Fit:
    """Fit all P problems together.

    Args:
        problem: the training sets.
        l2: (P,) weight of the penalty, > 0.
        start: a fit of these rows with another penalty, or of most of them.
        tolerance: stop where `Fit.gap` is below it in every problem.
        max_steps: at most so many.

    Returns:
        The fit. Where float32 cannot reach the tolerance, it ends with the gap that it has reached.

    Raises:
        InputError: the objective is not finite: features with huge values.
    """
    if start is None:
        parameters, pairs = problem.start(), []
        preconditioner = Preconditioner.at(problem)
        next_refresh = COLD
    else:
        parameters = start.parameters
        change = (l2 - start.l2)[:, None, None]
        pairs = [(s, torch.cat([y[:, :-1] + change * s[:, :-1], y[:, -1:]], 1))
                 for s, y in start.pairs]  # fmt: skip
        preconditioner = start.preconditioner
        next_refresh = 0 if tolerance <= EXACT else REFRESH
    logits = problem.logits(parameters)
    change = torch.zeros_like(logits)
    value, _ = _line(problem, logits, change, parameters, torch.zeros_like(parameters), l2, 0 * l2)
    gradient = problem.gradient(logits, change, parameters[:, :-1], l2)
    scale = torch.ones_like(l2)
    best, since, lowest = float("inf"), 0, value + 1
    step = 0
    while True:
        if since == PATIENCE // 2:  # stuck: perhaps on pairs that rounding has spoilt
            pairs, next_refresh = [], step
        if step == next_refresh:
            preconditioner = Preconditioner.at(problem, parameters)
            next_refresh += REFRESH
        if pairs and step % RESCALE == 1:
            s, y = pairs[-1]
            ratio = _dot(s, y) / _dot(y, preconditioner.solve(y, l2))
            scale = torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0)
        direction = _direction(gradient, pairs, preconditioner, l2, scale)  # (P, D + 1, C)
        promised = -_dot(gradient, direction)  # (P,)
        if pairs and not bool((promised > 0).all()):
            pairs = []  # rounding has spoilt them
            direction = _direction(gradient, pairs, preconditioner, l2, scale)
            promised = -_dot(gradient, direction)
        open_ = promised > tolerance * value
        gap = float((promised / value).amax())
        falls = bool((value < lowest * (1 - NOISE)).any())
        lowest = torch.minimum(lowest, value)
        best, since = (min(gap, best), 0) if falls or gap < 0.9 * best else (best, since + 1)
        if not bool(open_.any()) or step == max_steps or since > PATIENCE:
            break
        step += 1
        torch.baddbmm(direction[:, -1:], problem.x, direction[:, :-1], out=change)
        length, value = _search(
            problem, logits, change, parameters, direction, l2, value, promised, open_
        )
        if not bool(value.isfinite().all()):
            raise InputError(
                "the probe's objective is not finite; the features hold huge or infinite values."
            )
        if not bool((length > 0).any()):
            break
        move = length[:, None, None] * direction
        parameters = parameters + move
        logits.addcmul_(change, length[:, None, None])
        new_gradient = problem.gradient(logits, change, parameters[:, :-1], l2)
        pairs = [*pairs[-(MEMORY - 1) :], (move, new_gradient - gradient)]
        gradient = new_gradient
    return Fit(parameters, l2, preconditioner, pairs, step, gap)


def _line(
    problem: SoftmaxProblem,
    logits: Tensor,
    change: Tensor,
    parameters: Tensor,
    direction: Tensor,
    l2: Tensor,
    length: Tensor,
) -> tuple[Tensor, Tensor]:
    """Objective and its derivative along a direction, (P,) in float64."""
    value, slope = problem.along(logits, change, length)
    step = direction[:, :-1]
    weight = parameters[:, :-1] + length[:, None, None] * step
    return value + 0.5 * l2 * _dot(weight, weight), slope + l2 * _dot(weight, step)


def _search(
    problem: SoftmaxProblem,
    logits: Tensor,
    change: Tensor,
    parameters: Tensor,
    direction: Tensor,
    l2: Tensor,
    value: Tensor,
    promised: Tensor,
    open_: Tensor,
) -> tuple[Tensor, Tensor]:
    """Length of the step (P,), 0 where none helps, and the objective after it.

    The whole step, or where the slope at its end says that it is too long or too short, one secant
    step; shorter ones where the objective would rise.
    """
    length = open_.to(logits.dtype)
    reached = value
    for attempt in range(MAX_HALVINGS):
        reached, slope = _line(problem, logits, change, parameters, direction, l2, length)
        left = (slope / promised).nan_to_num(1e3)  # -1 at the start of the step, 0 at its best end
        # Where the slope still falls a convex objective has not risen, whatever rounding says.
        rises = open_ & (left > OFF) & ~(reached <= value - 1e-4 * length * promised)
        off = open_ & (left.abs() > OFF) & (attempt == 0)
        if not bool((rises | off).any()):
            return length, reached
        better = length / (1 + left).clamp(min=0.25, max=8.0)
        if attempt == 0:
            better = torch.where(rises, better.clamp(max=0.5), better)
            length = torch.where(rises | off, better.to(length.dtype), length)
        else:
            length = torch.where(rises, length / 2, length)
    # No step helps at this precision: those problems stay where they are.
    return torch.where(rises, 0.0, length), torch.where(rises, value, reached)


def _direction(
    gradient: Tensor,
    pairs: list[tuple[Tensor, Tensor]],
    inverse: Preconditioner,
    l2: Tensor,
    scale: Tensor,
) -> Tensor:
    """Where to go by the two-loop recursion of L-BFGS, per problem."""
    weights = []
    for s, y in pairs:
        product = _dot(s, y)
        # Without positive curvature a pair is worthless; zero weight leaves it out.
        sound = product > 1e-12 * (_dot(s, s) * _dot(y, y)).sqrt().clamp(min=1e-30)
        weights.append(torch.where(sound, 1 / product.where(sound, torch.ones_like(product)), 0.0))
    q, alphas = gradient, []
    for (s, y), rho in zip(reversed(pairs), reversed(weights), strict=True):
        alpha = rho * _dot(s, q)
        q = q - alpha[:, None, None] * y
        alphas.append(alpha)
    r = inverse.solve(q, l2) * scale[:, None, None]
    for (s, y), rho, alpha in zip(pairs, weights, reversed(alphas), strict=True):
        beta = alpha - rho * _dot(y, r)
        r = r + beta[:, None, None] * s
    return -r
