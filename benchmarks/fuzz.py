"""Random calls of losses, signals, tracker, scores, CACR and views, against float64 formulas.

    python benchmarks/fuzz.py --minutes 10
    python benchmarks/fuzz.py --only cacr --trial 123456 --count 1    # a finding, once more

Every trial draws all of its choices from its own number: shapes, types, temperatures, row lengths,
bad arguments. A number that leaves the rounding of its formula, an error that is no `InputError`,
bad input that is accepted, and a view that depends on how its batch is cut are findings; they are
printed with their trial, and the exit status is then 1.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from bcl import BoostedRandAugment, InputError, MemorizationTracker, contrastive_signals, nt_xent
from bcl.augment import ChainSettings, ContrastiveViews
from bcl.memorization.scores import memorization_scores
from cacr import cacr_terms


class Draw(random.Random):
    """The choices of one trial."""

    def __init__(self, trial: int) -> None:
        super().__init__(trial)
        self.generator = torch.Generator().manual_seed(trial)

    def normal(self, *shape: int) -> Tensor:
        """Normal numbers in float64."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def between(self, low: float, high: float) -> float:
        """A number between two, of any size."""
        return float(low * (high / low) ** self.random())

    def rows(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Rows of one random length, many alike, none zero."""
        z = self.normal(*shape) + self.choice((0, 1, 3)) * self.normal(shape[-1])
        short = dtype in (torch.float16, torch.bfloat16)
        z = z * (self.between(0.1, 10) if short else self.between(1e-6, 1e6))
        tiny = z.norm(dim=-1, keepdim=True) < 1e-3 * z.norm(dim=-1).max()
        return torch.where(tiny, z.norm(dim=-1).max(), z).to(dtype)


EPS = {torch.float64: 2.3e-16}  # others are computed in float32
HALVES = (torch.float16, torch.bfloat16)
TYPES = (torch.float32, torch.float32, torch.float64, *HALVES)


def eps(dtype: torch.dtype) -> float:
    return EPS.get(dtype, 1.2e-7)


def agree(what: str, found: Tensor, wanted: Tensor, allowed: float) -> None:
    error = float((found.detach().double() - wanted.detach()).abs().max())
    assert error <= allowed, f"{what} differ by {error:.3g}, rounding allows {allowed:.3g}"


def refused(call: Callable[[], Any], why: str) -> None:
    try:
        call()
    except InputError as error:
        if len(str(error)) < 20:
            raise AssertionError(f"{why}: hardly a word: {error}") from None
    else:
        raise AssertionError(f"accepted: {why}")


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.double(), dim=-1, eps=0)


# --- NT-Xent and its signals ----------------------------------------------------------------------


def nt_xent_formula(z1: Tensor, z2: Tensor, temperature: Any, focal: float) -> Tensor:
    """(B,) losses of one sample each."""
    u, count = unit(torch.cat([z1, z2])), len(z1)
    scale = 1 / torch.as_tensor(temperature, dtype=torch.float64).expand(count).repeat(2)
    logits = u @ u.T * scale[:, None]
    logits = logits.masked_fill(torch.eye(2 * count, dtype=torch.bool), -torch.inf)
    place = torch.arange(2 * count)
    loss = logits.logsumexp(1) - logits[place, place.roll(count)]
    if focal:
        loss = (-torch.expm1(-loss)).clamp_min(0) ** focal * loss
    return loss.view(2, count).mean(0)


def try_nt_xent(draw: Draw) -> None:
    count, dtype = draw.choice((2, 3, 5, 17, 40, 150)), draw.choice(TYPES)
    z1, z2 = draw.rows(2, count, draw.choice((1, 2, 3, 8, 33)), dtype=dtype)
    lowest = draw.between(0.03, 3)
    temperature: Any = lowest
    if draw.random() < 0.3:
        temperature = lowest * (1 + torch.rand(count, generator=draw.generator, dtype=torch.double))
    focal = draw.choice((0.0, 0.0, 1.0, 2.0))
    reduction = draw.choice(("none", "mean", "sum"))
    chunk = draw.choice((None, 0, 1, count, 7))
    more = {"temperature": temperature, "focal": focal, "reduction": reduction, "chunk_size": chunk}
    if draw.random() < 0.2:
        name, value = draw.choice(
            (("temperature", 0.0), ("temperature", float("nan")), ("temperature", "low"),
             ("focal", 0.5), ("focal", -1.0), ("reduction", "max"), ("chunk_size", -1),
             ("temperature", torch.ones(count + 1)), ("chunk_size", 1.5))
        )  # fmt: skip
        refused(lambda: nt_xent(z1, z2, **more | {name: value}), f"{name}={value}")
        refused(lambda: nt_xent(z1[:1], z2, **more), "one row and several")
        refused(lambda: nt_xent(z1, z2.long(), **more), "integers")
        return
    exact = dtype not in HALVES
    z1, z2 = z1.requires_grad_(exact), z2.requires_grad_(exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=draw.random() < 0.3):
        found = nt_xent(z1, z2, **more)
    twin = [z.detach().double().requires_grad_(exact) for z in (z1, z2)]
    wanted = nt_xent_formula(*twin, temperature, focal)
    wanted = wanted if reduction == "none" else getattr(wanted, reduction)()
    many = count if reduction == "sum" else 1
    rounding = 100 * eps(dtype) * (1 + 1 / lowest)
    agree("losses", found, wanted, 4 * many * rounding)
    if exact:
        found.sum().backward()
        wanted.sum().backward()
        least = float(torch.cat([z1, z2]).detach().norm(dim=-1).min())
        for z, other in zip((z1, z2), twin, strict=True):
            agree("gradients", z.grad, other.grad, 10 * rounding * (1 + 1 / lowest) / least)


def signals_formula(z1: Tensor, z2: Tensor, temperature: float, near: int) -> list[Tensor]:
    u, count = torch.stack([unit(z1), unit(z2)]), len(z1)
    positive = (u[0] * u[1]).sum(-1) / temperature  # (B,)
    logits = torch.einsum("vid,wjd->viwj", u, u) / temperature
    own = torch.eye(count, dtype=torch.bool)[None, :, None]
    logits = logits.masked_fill(own, -torch.inf).flatten(2)  # (2, B, 2 B)
    mass = logits.logsumexp(2)  # (2, B)
    whole = torch.logaddexp(mass, positive)
    share = (logits - whole[..., None]).exp().mean(0)  # (B, 2 B)
    tailness = -share.topk(near, dim=1).values.sum(1)
    return [(whole - positive).mean(0), -positive, -mass.mean(0), tailness]


def try_signals(draw: Draw) -> None:
    count, dtype = draw.choice((2, 3, 9, 40)), draw.choice(TYPES)
    z1, z2 = draw.rows(2, count, draw.choice((1, 3, 8, 33)), dtype=dtype)
    temperature, near = draw.between(0.03, 3), draw.randint(1, min(2 * (count - 1), 20))
    if draw.random() < 0.1:
        refused(lambda: contrastive_signals(z1, z2, num_neighbors=2 * count), "too many neighbors")
        refused(lambda: contrastive_signals(z1, z2, -temperature), "a negative temperature")
        return
    found = contrastive_signals(z1, z2, temperature, num_neighbors=near)
    allowed = 100 * eps(dtype) * (1 + 1 / temperature)
    wanted = signals_formula(z1, z2, temperature, near)
    for name, one, other in zip(found._fields, found, wanted, strict=True):
        agree(name, one, other, allowed)


# --- CACR -----------------------------------------------------------------------------------------


def _costs(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b).square().sum(-1)


def _repel(far: Tensor, push: float, scale: float | None) -> Tensor:
    """(B,) repulsion of distances (B, N); with an RBF cost, before the logarithm."""
    own = far.isinf()
    far = far.masked_fill(own, 0)
    cost = -far if scale is None else (-scale * far).exp()
    return ((-push * far).masked_fill(own, -torch.inf).softmax(1) * cost).sum(1)


def cacr_formula(
    z: Tensor, queue: Tensor | None, keys: Tensor | None, pull: float, push: float,
    scale: float | None, debias: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(B,) attraction and repulsion."""
    z, views, count = unit(z), len(z), z.shape[1]
    targets = z if keys is None else unit(keys)
    own = torch.eye(count, dtype=torch.bool)
    if keys is not None and queue is None:
        attraction = repulsion = torch.zeros((), dtype=torch.float64)
        for g, key in enumerate(targets):
            rows = [v for v in range(views) if v != g]
            near = torch.stack([(z[v] - key).square().sum(-1) for v in rows], 1)
            weights = (pull * near).softmax(1)
            every = [_costs(z[v], key) for v in rows]
            if scale is None:
                far = [_repel(c.masked_fill(own, torch.inf), push, None) for c in every]
            else:
                far = [(-scale * c).logsumexp(1) / scale for c in every]
            attraction = attraction + (weights * near).sum(1) / len(targets)
            repulsion = repulsion + (weights * torch.stack(far, 1)).sum(1) / len(targets)
        return attraction, repulsion
    near = [
        torch.stack([(z[v] - targets[u]).square().sum(-1) for u in range(views) if u != v], 1)
        for v in range(views)
    ]
    attraction = torch.stack([((pull * d).softmax(1) * d).sum(1) for d in near]).mean(0)
    parts = []
    pairs = combinations(range(views), 2) if queue is None else ((v, v) for v in range(views))
    for a, b in pairs:
        far = _costs(z[a], z[b]).masked_fill(own, torch.inf)
        close = (z[a] - z[b]).square().sum(-1)
        if queue is not None:
            far, close = torch.cat([_costs(z[a], unit(queue)), far], 1), near[a].mean(1)
        part = _repel(far, push, scale)
        if scale is not None:
            part = part.mean().log() + part / part.mean() - 1
        parts.append((part + debias * close) / (1 - debias))
    return attraction, torch.stack(parts).mean(0)


def try_cacr(draw: Draw) -> None:
    views, count = draw.choice((2, 2, 3, 5)), draw.choice((2, 3, 8, 40))
    dtype, dim = draw.choice(TYPES), draw.choice((2, 3, 8, 33))
    z = draw.rows(views, count, dim, dtype=dtype)
    form = draw.choice(("views", "queue", "keys", "teacher"))
    queue = (
        draw.rows(draw.choice((1, 6, 30)), dim, dtype=dtype) if form in ("queue", "keys") else None
    )
    keys = draw.rows(views, count, dim, dtype=dtype) if form in ("keys", "teacher") else None
    keys = keys[: draw.randint(1, views)] if form == "teacher" and views > 2 else keys  # type: ignore[index]
    pull, push = draw.choice((0.0, draw.between(0.1, 4))), draw.choice((0.0, draw.between(0.1, 4)))
    scale = draw.choice((None, None, draw.between(0.3, 4)))
    debias = 0.0 if scale or form == "teacher" else draw.choice((0.0, 0.1))
    more: dict[str, Any] = {"attraction_temperature": pull, "repulsion_temperature": push}
    more |= {"debias": debias, "chunk_size": draw.choice((None, 0, 1, 7)), "reduction": "none"}
    more |= {} if scale is None else {"cost": "rbf", "rbf_scale": scale}
    if draw.random() < 0.1:
        bad = draw.choice(({"debias": 1.0}, {"rbf_scale": 0}, {"cost": "cosine"}, {"reduction": 1}))
        refused(lambda: cacr_terms(z, queue, keys=keys, **more | bad), str(bad))
        refused(lambda: cacr_terms(z[:1], **more), "one view")
        return
    exact = dtype not in HALVES
    z, twin = z.requires_grad_(exact), z.detach().double().requires_grad_(exact)
    found = cacr_terms(z, queue, keys=keys, **more)
    wanted = cacr_formula(twin, queue, keys, pull, push, scale, debias)
    spread = 1 if scale is None else count * (1 + 4 * scale)
    allowed = 400 * eps(dtype) * (1 + pull + push) * spread
    for name, one, other in zip(found._fields, found, wanted, strict=True):
        agree(name, one, other, allowed)
    if exact:
        sum(found).sum().backward()  # type: ignore[union-attr]
        sum(wanted).sum().backward()
        least = float(z.detach().norm(dim=-1).min())
        agree("gradients", z.grad, twin.grad, 10 * allowed * count * (1 + pull + push) / least)


# --- memory ---------------------------------------------------------------------------------------


def scores_formula(losses: Tensor, seen: Tensor, normalization: str) -> Tensor:
    known = losses[seen].double()
    scores = torch.zeros(len(losses), dtype=torch.float64)
    if not len(known):
        return scores
    if normalization == "rank":
        below = (known[None] < known[:, None]).sum(1) + (known[None] == known[:, None]).sum(1) / 2
        found = (below - 0.5) / max(len(known) - 1, 1) if len(known) > 1 else torch.tensor([0.5])
    else:
        away = known - known.mean()
        found = 0.5 * (away / away.abs().max() + 1) if len(known) > 1 else torch.tensor([0.5])
    scores[seen] = found.double()
    return scores


def spread_enough(losses: Tensor, seen: Tensor) -> bool:
    """Whether losses differ by more than their rounding; of equal ones scores are 0.5."""
    known = losses[seen].double()
    return len(known) < 2 or float(known.max() - known.min()) > 1e-3 * float(known.abs().max())


def try_scores(draw: Draw) -> None:
    count = draw.choice((1, 2, 5, 60, 500))
    losses = (draw.normal(count).abs() * draw.between(1e-3, 1e3)).float()
    if draw.random() < 0.3:
        losses = losses.mul(4).round()  # ties
    seen = torch.rand(count, generator=draw.generator) < draw.choice((0.0, 0.5, 1.0))
    normalization = draw.choice(("max", "rank"))
    if not spread_enough(losses, seen):
        return
    found = memorization_scores(losses, seen, normalization)  # type: ignore[arg-type]
    agree("scores", found, scores_formula(losses, seen, normalization), 2e-5)


def try_tracker(draw: Draw) -> None:
    count, momentum = draw.choice((1, 3, 20, 200)), draw.choice((0.0, 0.5, 0.97, 0.999))
    normalization = draw.choice(("max", "rank"))
    tracker = MemorizationTracker(count, momentum, normalization)  # type: ignore[arg-type]
    wanted: dict[int, float] = {}
    largest = 0.0
    for _ in range(draw.randint(1, 6)):
        counted: set[int] = set()
        for _ in range(draw.randint(0, 4)):
            rows = draw.randint(0, 30)
            ids = torch.randint(0, count, (rows,), generator=draw.generator)
            losses = (draw.normal(rows).abs() * draw.between(0.01, 100)).float()
            if rows and draw.random() < 0.2:
                before = {name: each.clone() for name, each in tracker.state_dict().items()}
                place = draw.randrange(rows)
                spoilt, wrong = losses.clone(), ids.clone()
                if draw.random() < 0.5:
                    spoilt[place] = draw.choice((float("nan"), float("inf"), -float("inf")))
                else:
                    wrong[place] = draw.choice((-1, count, 2**40))
                refused(lambda w=wrong, s=spoilt: tracker.update(w, s), "a bad step")  # type: ignore[misc]
                for name, each in tracker.state_dict().items():
                    assert each.equal(before[name]), f"a refused step changed {name}"
                continue
            tracker.update(ids, losses)
            for number, loss in zip(ids.tolist(), losses.tolist(), strict=True):
                if number not in counted:  # once an epoch, the first
                    old = wanted.get(number, loss)
                    wanted[number] = momentum * old + (1 - momentum) * loss
                    counted.add(number)
                    largest = max(largest, loss)
        tracker.refresh()
        seen = torch.zeros(count, dtype=torch.bool)
        seen[list(wanted)] = True
        assert tracker.seen.equal(seen), "samples that were seen differ"
        means = torch.zeros(count, dtype=torch.float64)
        means[list(wanted)] = torch.tensor(list(wanted.values()), dtype=torch.float64)
        agree("momentum losses", tracker.momentum_loss, means, 1e-5 * largest)
        if spread_enough(tracker.momentum_loss, seen):
            scores = scores_formula(tracker.momentum_loss, seen, normalization)
            agree("scores", tracker.scores, scores, 2e-5)


# --- views ----------------------------------------------------------------------------------------


def try_views(draw: Draw) -> None:
    count = draw.randint(2, 12)
    large = draw.random() < 0.1
    high, wide = (
        (draw.choice((100, 61, 50)),) * 2 if large else (draw.randint(1, 48), draw.randint(1, 48))
    )
    size = draw.choice((32, 49)) if large else (draw.randint(1, 40), draw.randint(1, 40))
    images = torch.randint(
        0, 256, (count, 3, high, wide), generator=draw.generator, dtype=torch.uint8
    )
    chain = ChainSettings(
        blur_probability=draw.choice((0.0, 0.5)), solarize_probability=draw.choice((0.0, 0.2))
    )
    boost = draw.choice((None, BoostedRandAugment(draw.choice(("bcl-i", "bcl-d")))))
    arithmetic = draw.choice(("exact", "exact", "fast"))
    views = ContrastiveViews(
        size, chain=chain, boost=boost, seed=draw.randrange(9), arithmetic=arithmetic
    )
    ids = torch.randint(0, 10**6, (count,), generator=draw.generator)
    scores = torch.rand(count, generator=draw.generator)
    given: Tensor = images if draw.random() < 0.7 else images / 255
    whole = views(given, scores, ids)
    assert not whole.clamp(0, 1).ne(whole).any(), "a view leaves [0, 1]"
    order = torch.randperm(count, generator=draw.generator)
    cut = draw.randint(1, count - 1)
    parts = [
        views(given[part], scores[part], ids[part]) for part in order.split([cut, count - cut])
    ]
    again = torch.cat(parts, dim=1)
    if arithmetic == "exact":
        levels = ((again - whole[:, order]) * 255).abs()
        assert not levels.any(), f"{int((levels > 0).sum())} pixels depend on how the batch is cut"
    if boost is not None:
        plain = ContrastiveViews(size, chain=chain, seed=views.seed, arithmetic=arithmetic)
        zero = views(given, torch.zeros(count), ids)
        assert zero.equal(plain(given, ids=ids)), "a score of 0 is boosted"


TARGETS: dict[str, Callable[[Draw], None]] = {
    "nt_xent": try_nt_xent,
    "signals": try_signals,
    "cacr": try_cacr,
    "scores": try_scores,
    "tracker": try_tracker,
    "views": try_views,
}


def attempt(target: str, trial: int) -> str | None:
    """Make one trial; what it found, if anything."""
    try:
        TARGETS[target](Draw(trial))
    except AssertionError as finding:
        return str(finding)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
    return None


def run(targets: list[str], first: int, seconds: float, count: int | None) -> int:
    """Make trials of every target, each for its share of the time; the number of findings."""
    done, spent, findings = (dict.fromkeys(targets, 0) for _ in range(3))
    begin = now = time.monotonic_ns()
    while now < begin + 1e9 * seconds:
        left = [target for target in targets if count is None or done[target] < count]
        if not left:
            break
        target = min(left, key=lambda target: spent[target])
        if (found := attempt(target, first + done[target])) is not None:
            findings[target] += 1
            print(f"{target}, trial {first + done[target]}: {found}", flush=True)
        done[target] += 1
        before, now = now, time.monotonic_ns()
        spent[target] += now - before
    for target in targets:
        print(f"{target}: {done[target]:,} trials, {findings[target]} findings")
    return sum(findings.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--trial", type=int, help="the first; by default another each day")
    parser.add_argument("--count", type=int, help="trials of each, within the minutes")
    args = parser.parse_args()
    first = int(time.time() // 86_400) * 10_000_000 if args.trial is None else args.trial
    torch.set_num_threads(1)
    return 1 if run(args.only, first, 60 * args.minutes, args.count) else 0


if __name__ == "__main__":
    sys.exit(main())
