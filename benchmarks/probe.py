"""Time and accuracy of the probe suite against a plain loop and scikit-learn.

The suite is BCL's: full-shot, 5 draws of 50-shot and 5 of 100-shot, on 512-d features of 50,000
training and 10,000 test images of 100 classes. The features are synthetic (class centers in a
64-dimensional subspace, correlated noise, rectified like pooled features of a ResNet), so no data
set is needed.

    python benchmarks/probe.py                 # all three, some minutes on two cores
    python benchmarks/probe.py --only ours     # seconds
    python benchmarks/probe.py --large         # 115,846 x 2,048, 1,000 classes
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable

import results
import torch
from torch import Tensor

from bcl.core.provenance import hardware
from bcl.core.random import permutation
from bcl.evaluation.probe.linear import ProbeOptions, fit_heads
from bcl.evaluation.protocols import DRAWS

Features = tuple[Tensor, Tensor, Tensor, Tensor]


def made_up(train: int, test: int, dims: int, classes: int) -> Features:
    """Rectified features of noisy class centers; about 65 % can be classified."""
    generator = torch.Generator().manual_seed(0)
    latent = 64
    centers = torch.randn(classes, latent, generator=generator) * 0.42
    spectrum = torch.linspace(0, -1.5, latent).exp()
    basis = torch.randn(latent, dims, generator=generator) / latent**0.5
    parts = []
    for count, seed in ((train, 1), (test, 2)):
        noise = torch.Generator().manual_seed(seed)
        y = torch.arange(count) % classes
        x = torch.empty(count, dims)
        for rows in torch.arange(count).split(8192):
            z = centers[y[rows]] + torch.randn(len(rows), latent, generator=noise)
            fine = torch.randn(len(rows), dims, generator=noise) * 0.15
            x[rows] = torch.relu((z * spectrum) @ basis + fine)
        parts += [x, y]
    return parts[0], parts[1], parts[2], parts[3]


def draws(labels: Tensor, classes: int) -> dict[str, list[Tensor]]:
    """The suite's subsets, by protocol."""
    found = {"full": [torch.arange(len(labels))]}
    for shots in (50, 100):
        found[f"{shots}-shot"] = []
        for draw in range(DRAWS):
            order = permutation(len(labels), draw, shots)
            order = order[torch.sort(labels[order], stable=True).indices]
            found[f"{shots}-shot"].append(order.view(classes, -1)[:, :shots].flatten())
    return found


def ours(data: Features, classes: int, solver: str = "lbfgs") -> dict[str, list[float]]:
    x, y, test_x, test_y = data
    options = ProbeOptions(solver=solver)
    result = {}
    for name, subsets in draws(y.cpu(), classes).items():
        rows = [subset.to(x.device) for subset in subsets]
        heads = fit_heads(x, y, rows, test_x, test_y, num_classes=classes, options=options)
        result[name] = [head.accuracy for head in heads]
        ours.chosen[name] = heads[0].chosen.get("l2")
    return result


ours.chosen = {}


def plain_loop(data: Features, classes: int) -> dict[str, list[float]]:
    """BCL's protocol as a plain loop: Adam 1e-2 to 1e-6, 500 epochs, batch 1,000."""
    x, y, test_x, test_y = data
    result: dict[str, list[float]] = {}
    for name, subsets in draws(y.cpu(), classes).items():
        for subset in subsets:
            rows_x, rows_y = x[subset], y[subset]
            layer = torch.nn.Linear(x.shape[1], classes).to(x.device)
            optimizer = torch.optim.Adam(layer.parameters(), 1e-2, weight_decay=5e-6)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (1e-6 / 1e-2) ** (1 / 500))
            for _ in range(500):
                for batch in torch.randperm(len(rows_x), device=x.device).split(1000):
                    optimizer.zero_grad()
                    loss = torch.nn.functional.cross_entropy(layer(rows_x[batch]), rows_y[batch])
                    loss.backward()
                    optimizer.step()
                schedule.step()
            with torch.no_grad():
                accuracy = (layer(test_x).argmax(1) == test_y).double().mean().item()
            result.setdefault(name, []).append(accuracy)
    return result


def scikit_learn(data: Features, classes: int) -> dict[str, list[float]]:
    """LogisticRegression on standardized features, with our regularization."""
    from sklearn.linear_model import LogisticRegression

    x, y, test_x, test_y = (part.cpu() for part in data)
    result: dict[str, list[float]] = {}
    for name, subsets in draws(y, classes).items():
        for subset in subsets:
            rows = x[subset]
            mean, std = rows.mean(0), rows.std(0)
            strength = 1 / (len(subset) * (ours.chosen.get(name) or 1e-2))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                machine = LogisticRegression(C=strength, max_iter=1000)
                machine.fit(((rows - mean) / std).numpy(), y[subset].numpy())
            accuracy = machine.score(((test_x - mean) / std).numpy(), test_y.numpy())
            result.setdefault(name, []).append(float(accuracy))
    return result


def timed(run: Callable[[], dict[str, list[float]]]) -> tuple[float, float, dict[str, list[float]]]:
    """Wall and processor seconds; the latter mean more on a busy machine."""
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the median is shown")
    parser.add_argument("--only", choices=("ours", "solvers"), help="leave the others out")
    parser.add_argument("--large", action="store_true", help="115,846 x 2,048, 1,000 classes")
    parser.add_argument("--small", action="store_true", help="toy size, to see that it runs")
    results.add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{hardware()}, {args.threads} threads, torch {torch.__version__}")
    if args.large:
        large(args.device)
        return
    classes = 2 if args.small else 100
    size = (400, 100, 16) if args.small else (50_000, 10_000, 512)
    data = made_up(*size, classes)
    data = tuple(part.to(args.device) for part in data)  # type: ignore[assignment]
    runs: list[tuple[str, Callable[[], dict[str, list[float]]], int]] = [
        ("ours, lbfgs", lambda: ours(data, classes), args.repeats)
    ]
    if args.only == "solvers":
        runs.append(("ours, ridge", lambda: ours(data, classes, "ridge"), 1))
        runs.append(("ours, adam (BCL)", lambda: ours(data, classes, "adam"), 1))
    if args.only is None:
        runs.append(("scikit-learn", lambda: scikit_learn(data, classes), 1))
        runs.append(("plain loop (BCL)", lambda: plain_loop(data, classes), 1))
    print(f"{'solver':<18} {'wall s':>8} {'cpu s':>8}    full  50-shot  100-shot", flush=True)
    seconds: dict[str, list[float]] = {}
    accuracy: dict[str, str] = {}
    for name, run, repeats in runs:
        found = sorted((timed(run) for _ in range(repeats)), key=lambda values: values[0])
        wall, processor, result = found[len(found) // 2]
        means = [100 * sum(values) / len(values) for values in result.values()]
        numbers = "".join(f"{mean:9.2f}" for mean in means)
        print(f"{name:<18} {wall:8.2f} {processor:8.2f}{numbers}", flush=True)
        seconds[name] = [values[0] for values in found]
        accuracy[name] = " / ".join(f"{mean:.2f}" for mean in means) + " %"
    print(f"chosen l2: {ours.chosen}")
    if args.json:
        case = f"linear probes: full, 5 × 50-shot, 5 × 100-shot of {size[0]:,} × {size[2]}"
        case += ", GPU" if args.device.startswith("cuda") else ""
        rows = results.compare(case, "s", seconds, ours="ours, lbfgs", extra=accuracy)
        results.save(args.json, "probe", rows, device=args.device)


def large(device: str) -> None:
    """ImageNet-LT's training set with ResNet-50 features: time and peak memory."""
    classes = 1000
    data = made_up(115_846, 50_000, 2048, classes)
    data = tuple(part.to(device) for part in data)  # type: ignore[assignment]
    x, y, test_x, test_y = data
    start, processor = time.perf_counter(), time.process_time()
    rows = [torch.arange(len(y), device=x.device)]
    options = ProbeOptions()
    head = fit_heads(x, y, rows, test_x, test_y, num_classes=classes, options=options)[0]
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"115,846 x 2,048, 1,000 classes: {seconds:.0f} s wall, {processor:.0f} s cpu, "
        f"peak memory {peak:.1f} GiB"
    )
    print(f"accuracy {100 * head.accuracy:.2f}, chosen {head.chosen}")


if __name__ == "__main__":
    main()
