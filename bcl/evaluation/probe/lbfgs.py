r"""Multinomial logistic regression by preconditioned L-BFGS, several problems at once.

.. math:: f(W, b) = \frac1n \sum_i \Bigl(\log\sum_c e^{x_i^\top w_c + b_c}
          - x_i^\top w_{y_i} - b_{y_i}\Bigr) + \frac{\lambda}{2} \lVert W \rVert^2

The problem is convex with one minimum, so the answer depends on no seed, learning rate or number
of epochs. An approximate inverse Hessian to start L-BFGS from makes it fast. With
:math:`A = \overline{\operatorname{diag} p - p p^\top}` over the training rows, the C x C curvature
of the classes, and the second moment :math:`\Sigma = X^\top X / n`, it is

.. math:: (A \otimes \Sigma + \lambda I)^{-1}

on features that are centered for every class c on the rows where the class is uncertain, at
:math:`m_c = \sum_i p_{ic} (1 - p_{ic})\, x_i / \sum_i p_{ic} (1 - p_{ic})`; otherwise weights and
bias of a class are coupled. Both factors are diagonalized, :math:`\Sigma` once for all
:math:`\lambda`. Pairs of step and gradient change stay valid from one :math:`\lambda` to the next,
since only :math:`\lambda I` changes in the Hessian.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.random import permutation
from bcl.evaluation.probe.draws import balanced_weights
from bcl.evaluation.probe.options import EXACT

# Bytes of logits per block: larger blocks do not fit a CPU's cache, smaller ones leave a GPU idle.
BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 512 << 20}
MEMORY = 10  # pairs of (step, gradient change) that L-BFGS keeps
MAX_HALVINGS = 40
NOISE = 5e-7  # objectives that differ by this share are equal in float32
PATIENCE = 20  # steps without progress after which float32 is exhausted
SAMPLE = 16384  # rows that the preconditioner is computed from: they affect the speed alone
COLD = 2  # steps from zero before the preconditioner is first recomputed; earlier, it misleads
REFRESH = 16  # steps between later recomputations
RESCALE = 4  # steps between fits of the preconditioner's scale to the last pair
OFF = 0.2  # try another length if the slope at the end of a step exceeds this share of the first


@dataclass
class SoftmaxProblem:
    """P standardized training sets of equal shape, ready for any number of fits.

    Parameters are (P, D + 1, C) tensors, the biases in the last row. The eigenvalues only
    precondition; draws from the same images have nearly the same, so all P sets share them.
    """

    x: Tensor  # (P, n, D)
    y: Tensor  # (P, n) int64
    num_classes: int
    log_share: Tensor  # (P, C) log of the class shares; -inf for a class without images
    eigenvalues: Tensor  # (D,) of the second moment of x
    eigenvectors: Tensor  # (D, D), in columns
    row_weights: Tensor | None = None  # (P, n, 1) with mean 1, where classes weigh alike

    @classmethod
    def of(cls, x: Tensor, y: Tensor, num_classes: int, balanced: bool = False) -> "SoftmaxProblem":
        """Count the classes and decompose the second moment of (P, n, D) features."""
        P, n, D = x.shape
        rows = _sample(x.reshape(P * n, D), max(SAMPLE, 8 * D))
        values, vectors = torch.linalg.eigh((rows.T @ rows).div_(rows.shape[0]))  # (D, D)
        share = _log_share(y, num_classes, x)
        problem = cls(x, y, num_classes, share, values.clamp_(min=0), vectors)
        return problem._balanced() if balanced else problem

    def _balanced(self) -> "SoftmaxProblem":
        """The same problem in which all classes weigh alike."""
        present = ~self.log_share.isinf()
        share = torch.where(present, 1 / present.sum(1, keepdim=True), 0).to(self.x).log()
        weights = balanced_weights(self.y, self.num_classes)[..., None].to(self.x)
        return replace(self, log_share=share, row_weights=weights)

    def rows(self, n: int) -> "SoftmaxProblem":
        """The first n rows; the decomposition, which only preconditions, stays that of all."""
        y = self.y[:, :n]
        share = _log_share(y, self.num_classes, self.x)
        part = replace(self, x=self.x[:, :n], y=y, log_share=share, row_weights=None)
        return part if self.row_weights is None else part._balanced()

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
        """Mean loss and its slope, (P,) float64, after a share of a step, from the logits alone.

        The logits are (P, n, C) before the step, the whole step changes them by ``change``.
        """
        P, n, _ = self.x.shape
        value = torch.zeros(P, dtype=torch.float64, device=logits.device)
        slope = torch.zeros_like(value)
        for rows in self._blocks():
            y, step = self.y[:, rows, None], change[:, rows]
            z = torch.addcmul(logits[:, rows], step, length[:, None, None])
            # Relative to the label's logit, so that the others keep their digits if it is certain.
            z -= z.gather(-1, y)
            log_norm = z.logsumexp(-1, keepdim=True)  # (P, m, 1), the loss
            ahead = step - step.gather(-1, y)
            losses = log_norm
            if self.row_weights is not None:
                losses, ahead = (
                    log_norm * self.row_weights[:, rows],
                    ahead * self.row_weights[:, rows],
                )
            value += losses.sum((1, 2), dtype=torch.float64)
            slope += z.sub_(log_norm).exp_().mul_(ahead).sum((1, 2), dtype=torch.float64)
        return value / n, slope / n

    def gradient(self, logits: Tensor, buffer: Tensor, weight: Tensor, l2: Tensor) -> Tensor:
        """(P, D + 1, C) gradient of the objective; overwrites the (P, n, C) buffer."""
        for rows in self._blocks():
            p = torch.softmax(logits[:, rows], -1, out=buffer[:, rows])
            y = self.y[:, rows, None]
            # p - 1 at the label, computed without cancellation as minus the sum of the others.
            p.scatter_(-1, y, 0.0)
            p.scatter_(-1, y, -p.sum(-1, keepdim=True))
            if self.row_weights is not None:
                p *= self.row_weights[:, rows]
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
    """At most so many rows, drawn at random but always the same."""
    n = rows.shape[-2]
    if n <= most:
        return rows
    return rows.index_select(-2, permutation(n, 0, 0x5A3, device=rows.device)[:most])


@dataclass
class Preconditioner:
    """An inverse Hessian of `SoftmaxProblem` in the coordinates where it is nearly diagonal."""

    center: Tensor  # (P, D, C) mean features where each class is uncertain
    class_values: Tensor  # (P, C) eigenvalues of the classes' curvature
    class_vectors: Tensor  # (P, C, C)
    present: Tensor  # (P, 1, C), 1 for classes with images
    eigenvalues: Tensor  # (D,) of the features' second moment
    eigenvectors: Tensor  # (D, D)

    @classmethod
    def at(cls, problem: SoftmaxProblem, parameters: Tensor | None = None) -> "Preconditioner":
        """Measure the curvature at (P, D + 1, C) parameters, or at `SoftmaxProblem.start`."""
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
            weighted, doubt = p, p - p.square()
            if problem.row_weights is not None:
                weights = _sample(problem.row_weights, SAMPLE)  # the same rows
                weighted, doubt = p * weights, doubt * weights
            curvature = torch.diag_embed(weighted.mean(1)) - torch.bmm(p.mT, weighted) / m
            total = doubt.sum(1, keepdim=True).clamp_(min=1e-12)
            center = torch.bmm(x.transpose(1, 2), doubt).div_(total)
        values, vectors = torch.linalg.eigh(curvature)
        # A floor keeps every direction. `solve` drops that of a shift of all classes; the others
        # are flatter the fewer images a class has.
        values = values.clamp(min=0)
        values = values.clamp(min=1e-6 * float(values.amax()) or 1e-6)
        present = (~problem.log_share.isinf()).to(problem.x.dtype)[:, None]
        return cls(center, values, vectors, present, problem.eigenvalues, problem.eigenvectors)

    def solve(self, gradient: Tensor, l2: Tensor) -> Tensor:
        """Multiply a (P, D + 1, C) gradient by the inverse; ``l2`` is (P,)."""
        bias = gradient[:, -1:]  # (P, 1, C)
        shifted = gradient[:, :-1] - self.center * bias
        turned = torch.matmul(self.eigenvectors.T, shifted) @ self.class_vectors
        curvature = self.eigenvalues[None, :, None] * self.class_values[:, None]
        turned /= curvature + l2[:, None, None]
        weight = torch.matmul(self.eigenvectors, turned) @ self.class_vectors.transpose(1, 2)
        weight *= self.present
        # A common shift of all biases changes nothing; removing it keeps rounding from piling up.
        bias = bias - bias.sum(-1, keepdim=True) / self.present.sum(-1, keepdim=True)
        bias = (bias * self.present) @ self.class_vectors / self.class_values[:, None]
        bias = bias @ self.class_vectors.transpose(1, 2)
        bias = (bias - (self.center * weight).sum(1, keepdim=True)) * self.present
        return torch.cat([weight, bias], 1)


@dataclass
class Minimum:
    """What a minimization reached; another one may start from it.

    ``gap`` is the decrease that the quadratic model still promises, as a share of the objective,
    for the worst of the P problems. It is an estimate, not a bound: against float64 the true gap
    of small problems is at most 4e-6 for penalties from 1e-3 on and 1.2e-4 at 1e-4. Below, where
    features separate the classes, it is not small: at 1e-6 an objective was twice its minimum.
    """

    parameters: Tensor  # (P, D + 1, C)
    l2: Tensor  # (P,)
    preconditioner: Preconditioner  # of the last steps
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # steps, gradient changes
    steps: int = 0
    gap: float = float("inf")

    @property
    def weight(self) -> Tensor:
        """(P, D, C)."""
        return self.parameters[:, :-1]

    @property
    def bias(self) -> Tensor:
        """(P, C); arbitrary for absent classes."""
        return self.parameters[:, -1]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))  # (P,)


def minimize(
    problem: SoftmaxProblem,
    l2: Tensor,
    start: Minimum | None = None,
    *,
    tolerance: float = EXACT,
    max_steps: int = 500,
) -> Minimum:
    """Minimize all P problems together, with (P,) penalties ``l2``.

    Stops where the gap is below the tolerance in every problem, or where float32 gives no more.
    ``start`` is the minimum for another penalty, of these rows or of most of them.
    """
    parameters, pairs, preconditioner = _begin(problem, l2, start)
    next_refresh = COLD if start is None else 0 if tolerance <= EXACT else REFRESH
    logits = problem.logits(parameters)
    change = torch.zeros_like(logits)
    direction = torch.zeros_like(parameters)

    def along(length: Tensor) -> tuple[Tensor, Tensor]:
        """Objective and its derivative after a (P,) share of the step, float64."""
        value, slope = problem.along(logits, change, length)
        weight, step = parameters[:, :-1], direction[:, :-1]
        weight = weight + length[:, None, None] * step
        return value + 0.5 * l2 * _dot(weight, weight), slope + l2 * _dot(weight, step)

    value, _ = along(0 * l2)
    gradient = problem.gradient(logits, change, parameters[:, :-1], l2)
    scale = torch.ones_like(l2)
    best, since, lowest = float("inf"), 0, value + 1
    step, asked = 0, -1
    while True:
        if since == PATIENCE // 2:  # stuck, perhaps on pairs spoiled by rounding
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
            pairs = []  # spoiled by rounding
            direction = _direction(gradient, pairs, preconditioner, l2, scale)
            promised = -_dot(gradient, direction)
        open_ = promised > tolerance * value
        gap = float((promised / value).amax())
        falls = bool((value < lowest * (1 - NOISE)).any())
        lowest = torch.minimum(lowest, value)
        best, since = (min(gap, best), 0) if falls or gap < 0.9 * best else (best, since + 1)
        solved = not bool(open_.any())
        if solved and tolerance <= EXACT and asked < step < max_steps:
            # One small promise may be a poor model's: ask a fresh one at the same place.
            asked, pairs, next_refresh, scale = step, [], step, torch.ones_like(l2)
            continue
        if solved or step == max_steps or since > PATIENCE:
            break
        step += 1
        torch.baddbmm(direction[:, -1:], problem.x, direction[:, :-1], out=change)
        length, value = _search(along, value, promised, open_)
        if not bool(value.isfinite().all()):
            raise InputError("the probe's objective is not finite; scale huge features down.")
        if not bool((length > 0).any()):
            break
        move = length[:, None, None] * direction
        parameters = parameters + move
        logits.addcmul_(change, length[:, None, None])
        new_gradient = problem.gradient(logits, change, parameters[:, :-1], l2)
        pairs = [*pairs[-(MEMORY - 1) :], (move, new_gradient - gradient)]
        gradient = new_gradient
    return Minimum(parameters, l2, preconditioner, pairs, step, gap)


def _begin(
    problem: SoftmaxProblem, l2: Tensor, start: Minimum | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Preconditioner]:
    """Parameters, pairs and preconditioner to begin with, cold or from another penalty's."""
    if start is None:
        return problem.start(), [], Preconditioner.at(problem)
    change = (l2 - start.l2)[:, None, None]
    pairs = [(s, torch.cat([y[:, :-1] + change * s[:, :-1], y[:, -1:]], 1)) for s, y in start.pairs]
    return start.parameters, pairs, start.preconditioner


def _search(
    along: Callable[[Tensor], tuple[Tensor, Tensor]],
    value: Tensor,
    promised: Tensor,
    open_: Tensor,
) -> tuple[Tensor, Tensor]:
    """Length of the step (P,), 0 where none helps, and the objective after it.

    The whole step, or one secant step where the slope at its end says that it is too long or too
    short; shorter ones where the objective would rise. ``value`` is the (P,) objective before,
    ``promised`` minus its slope, and ``open_`` says which problems are not solved yet.
    """
    length = open_.to(promised.dtype)
    reached = value
    for attempt in range(MAX_HALVINGS):
        reached, slope = along(length)
        left = (slope / promised).nan_to_num(1e3)  # -1 at the start of the step, 0 at its best end
        # A convex objective has not risen where its slope still falls, whatever rounding says.
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
    """The two-loop recursion of L-BFGS, per problem."""
    weights = []
    for s, y in pairs:
        product = _dot(s, y)
        # Weight zero leaves out pairs without positive curvature.
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
