"""What only a CUDA device can show: the results of a CPU, and a step that waits for nothing."""

import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from places import GOLDEN, HELPERS, ROOT
from small_runs import NO_WARMUP, TINY

from bcl import (
    BCL,
    SDCLR,
    BoostedRandAugment,
    ContrastiveViews,
    InputError,
    MemorizationTracker,
    NTXentLoss,
    SimCLR,
    SimilarityTemperature,
    create_encoder,
    fit_linear_probe,
)
from bcl.augment import ChainSettings
from bcl.augment import boost as boost_module
from bcl.augment import views as views_module
from bcl.augment.kernels.launch import PLAIN
from bcl.augment.params import BoostParams, Params
from bcl.augment.policy import OPS, op_index
from bcl.evaluation.knn import knn_predict
from bcl.losses import fused
from bcl.methods import OptimizerSettings, SampleLosses
from bcl.models.pruning import convolution_weights, magnitude_masks
from bcl.training.checkpoints import AtomicCheckpointIO, Checkpoints
from bcl.training.record import RunRecorder
from cacr import CACR, CACRLoss
from cacr.method import TeacherSettings
from datamodules import DigitsLT
from datamodules.images.loader import BatchLoader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda")
# Ops that blend two images: a device may fuse the product with the sum and round once.
BLENDS = ("Contrast", "Color", "Brightness", "Sharpness")


def random_images(count, rows=32, cols=32):
    """Smooth images with noise, uint8."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (rows, cols), mode="bicubic")
    noise = torch.rand(count, 3, rows, cols, generator=generator) - 0.5
    return ((smooth + 0.1 * noise).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(params=["triton", "torch"])
def kernels(request, monkeypatch):
    """Triton's kernels, and plain PyTorch, which replaces them where Triton is not installed."""
    if request.param == "torch":
        for module in (boost_module, views_module):
            monkeypatch.setattr(module, "path_for", lambda x: PLAIN)


@contextmanager
def waiting(mode):
    """Say, or refuse, that the host waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def differing(there, here):
    """Names of the drawn parameters that are not the same to the bit."""
    found = []
    for field in fields(here):
        one, two = getattr(there, field.name), getattr(here, field.name)
        if isinstance(two, Params):
            found += differing(one, two)
        elif two is not None and not one.cpu().equal(two):
            count = int((one.cpu() != two).sum())
            found.append(f"{field.name}: {count} of {two.numel()}")
    return found


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("scheme", ["bcl-i", "bcl-d"])
@pytest.mark.parametrize("num_local", [0, 3])
def test_draws_are_those_of_a_cpu_to_the_bit(scheme, num_local):
    views = ContrastiveViews(
        32, boost=BoostedRandAugment(scheme), num_local=num_local, local_size=16, seed=3,
        chain=ChainSettings(blur_probability=0.5, solarize_probability=0.2),
    )  # fmt: skip
    ids, scores = torch.arange(5000) * 7919, torch.linspace(0, 1, 5000)
    here = views.sample(ids, (40, 53), scores, epoch=5)
    there = views.sample(ids.to(GPU), (40, 53), scores.to(GPU), epoch=5)
    assert len(here) == len(there) == 1 + bool(num_local)
    assert all(drawn.top.device.type == GPU.type for drawn in there)
    assert [differing(*pair) for pair in zip(there, here, strict=True)] == [[]] * len(here)


def shares(there, here):
    """Shares of values that differ, and that differ by more than a level."""
    difference = (there.cpu() - here).abs() * 255
    return [float((difference > least).float().mean()) for least in (0.01, 1.01)]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("scheme", [None, "bcl-i", "bcl-d"])
@pytest.mark.parametrize(
    ("image", "size"), [((32, 32), 32), ((40, 40), 32), ((40, 29), 32), ((96, 96), 64)]
)
def test_views_are_those_of_a_cpu_but_for_rounding(scheme, image, size):
    count = 128 if size == 32 else 48
    images, ids, scores = (
        random_images(count, *image),
        torch.arange(count),
        torch.linspace(0, 1, count),
    )
    boost = None if scheme is None else BoostedRandAugment(scheme)
    views = ContrastiveViews(size, boost=boost)
    there = views(images.to(GPU), scores.to(GPU), ids.to(GPU), epoch=1)
    # A sum in another order rounds the other way now and then; later steps make more of it.
    any_level, more = shares(there, views(images, scores, ids, epoch=1))
    # A CPU resizes large images by another kernel, with weights of 8 bits.
    assert any_level <= (3e-4 if size == 32 else 8e-3)
    assert more <= (3e-4 if size == 32 else 2.5e-3)


@pytest.mark.usefixtures("kernels")
def test_a_batch_gets_the_same_views_again():
    views = ContrastiveViews(32, boost=BoostedRandAugment())
    images, scores = random_images(64).to(GPU), torch.linspace(0, 1, 64, device=GPU)
    ids = torch.arange(64, device=GPU)
    assert views(images, scores, ids).equal(views(images, scores, ids))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("policy", ["reference", "monotone"])
@pytest.mark.parametrize("name", OPS)
def test_every_op_does_the_same_as_on_a_cpu(name, policy):
    images = random_images(62, 32, 32).float()
    places = torch.rand(62, 2, generator=torch.Generator().manual_seed(1))
    params = BoostParams(
        op=torch.full((62,), op_index(name)),
        active=torch.ones(62, dtype=torch.bool),
        magnitude=torch.linspace(0, 30, 31).repeat(2),
        sign=torch.ones(62).index_fill(0, torch.arange(31), -1),
        center_x=places[:, 0],
        center_y=places[:, 1],
    ).map(lambda tensor: tensor[:, None])
    boost = BoostedRandAugment(policy=policy)
    here = boost.transform(images.to(torch.uint8), params).float()
    there = boost.transform(images.to(GPU, torch.uint8), params.to(GPU)).float().cpu()
    difference = (there - here).abs()
    share = (difference > 0).float().mean().item()
    assert share <= (1e-3 if name in BLENDS else 0), f"{share:.2e}, {difference.max()} at most"
    assert difference.max() <= 1


@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
@pytest.mark.parametrize("loss", ["nt_xent", "cacr"])
def test_a_step_waits_for_the_tracker_alone(arithmetic, loss):
    generator = torch.Generator(GPU).manual_seed(0)
    views = ContrastiveViews(
        32, boost=BoostedRandAugment("bcl-d"), arithmetic=arithmetic,
        chain=ChainSettings(blur_probability=0.5),
    )  # fmt: skip
    layer = torch.nn.Linear(3 * 32 * 32, 16, device=GPU)
    make = NTXentLoss if loss == "nt_xent" else CACRLoss
    losses = [make(reduction="none"), make(reduction="none", chunk_size=16)]
    tracker = MemorizationTracker(100).to(GPU)
    images = random_images(64, 40, 40).to(GPU)

    def step(epoch):
        ids = torch.randperm(100, generator=generator, device=GPU)[:64]
        made = views(images, tracker.scores[ids], ids, epoch)
        for each in losses:
            values = each(layer(made.flatten(2)))
            values.mean().backward()
        return ids, values.detach()

    tracker.update(*step(0))  # the first batch sets things up
    with waiting("error"):
        ids, values = step(1)
    # An update asks once: are all losses finite, all ids known, none twice?
    with warnings.catch_warnings(record=True) as said, waiting("warn"):
        warnings.simplefilter("always")
        tracker.update(ids, values)
    assert len([w for w in said if "synchronizing" in str(w.message)]) <= 1
    with waiting("error"):
        tracker.refresh()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("count", "source", "size"), [(64, 32, 32), (512, 32, 32), (4096, 32, 32), (64, 256, 224)]
)
@pytest.mark.parametrize("arithmetic", ["exact", "fast"])
def test_memory_stays_under_four_times_the_output(count, source, size, arithmetic):
    views = ContrastiveViews(
        size,
        boost=BoostedRandAugment("bcl-d"),
        arithmetic=arithmetic,
        chain=ChainSettings(blur_probability=0.5),
    )
    shape = (count, 3, source, source)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=GPU)
    scores, ids = torch.ones(count, device=GPU), torch.arange(count, device=GPU)
    views(images, scores, ids)  # tables are kept
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = views(images, scores, ids, epoch=1)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    # Drawing the parameters takes a little whatever the size.
    assert peak <= 4 * out.nbytes + 2**20, f"{peak / out.nbytes:.2f} times the output"


def loss_cases():
    """Name, module maker and number of views; with keys and a queue where there are any."""
    return {
        "nt_xent": (lambda **o: NTXentLoss(**o), 2, ()),
        "nt_xent low": (lambda **o: NTXentLoss(0.015, **o), 2, ()),
        "nt_xent focal": (lambda **o: NTXentLoss(focal=2.0, **o), 2, ()),
        "cacr": (lambda **o: CACRLoss(**o), 2, ()),
        "cacr five": (lambda **o: CACRLoss(**o), 5, ()),
        "cacr rbf": (lambda **o: CACRLoss(cost="rbf", rbf_scale=0.5, **o), 3, ()),
        "cacr moco": (lambda **o: CACRLoss.paper("imagenet-moco", **o), 2, (64, 2)),
        "cacr moco-v3": (lambda **o: CACRLoss.paper("imagenet-mocov3", **o), 4, (None, 2)),
    }


def value_and_gradient(name, z, device, chunk_size, dtype=None):
    make, _, more = loss_cases()[name]
    generator = torch.Generator().manual_seed(1)
    extra = []
    if more:
        queue, keys = more
        drawn = torch.randn(64, 24, generator=generator, dtype=torch.float64)
        drawn = torch.nn.functional.normalize(drawn, dim=1)
        extra = [drawn.to(device, z.dtype) if queue else None]
        drawn = torch.randn(keys, z.shape[1], 24, generator=generator, dtype=torch.float64)
        extra.append(drawn.to(device, z.dtype))
    z = z.to(device).requires_grad_()
    loss = make(reduction="none", chunk_size=chunk_size)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        values = loss(z, *extra)
    weights = torch.linspace(0.5, 1.5, z.shape[1], device=device)
    (values * weights).sum().backward()
    assert values.device.type == z.grad.device.type == device.type
    return values.detach().cpu().double(), z.grad.cpu().double()


@pytest.mark.parametrize("chunk_size", [None, 0, 16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", loss_cases())
def test_losses_are_those_of_a_cpu(name, dtype, chunk_size):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(loss_cases()[name][1], 48, 24, generator=generator, dtype=torch.float64)
    z = z.to(dtype)
    value, gradient = value_and_gradient(name, z.detach(), GPU, chunk_size, dtype)
    same = torch.float64 if dtype is torch.float64 else torch.float32
    wanted, slope = value_and_gradient(name, z.detach().to(same), torch.device("cpu"), chunk_size)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, slope, rtol=tolerance, atol=tolerance * slope.abs().max())


PAIRS = {  # form of the losses over all pairs, at sizes of real use
    "nt_xent": lambda z, **o: NTXentLoss(**o)(z[:2]),
    "nt_xent rows": lambda z, **o: NTXentLoss(0.01, **o)(z[:2]),
    "nt_xent by cosine": lambda z, **o: NTXentLoss(SimilarityTemperature(0.1, 0.2), **o)(z[:2]),
    "cacr": lambda z, **o: CACRLoss(**o)(z),
    "cacr rbf": lambda z, **o: CACRLoss(cost="rbf", rbf_scale=0.5, **o)(z),
    "cacr queue": lambda z, **o: CACRLoss.paper("imagenet-moco", **o)(
        z, torch.randn(5000, z.shape[2], generator=torch.Generator().manual_seed(1)).to(z), z
    ),
}


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize(("batch", "dim"), [(100, 20), (1000, 128), (2500, 128), (700, 512)])
@pytest.mark.parametrize("form", PAIRS)
def test_kernels_of_the_losses_are_exact_and_repeat(monkeypatch, form, batch, dim, precision):
    """Against float64, as near as the dense form in float32 is, up to a factor."""
    monkeypatch.setattr(fused, "_FLOAT32", precision)
    shared = torch.randn(batch, dim, generator=torch.Generator().manual_seed(0))
    z = shared + torch.randn(3, batch, dim, generator=torch.Generator().manual_seed(2))

    def value_and_slope(dtype, chunk_size):
        x = z.to(GPU, dtype, copy=True).requires_grad_()
        values = PAIRS[form](x, reduction="none", chunk_size=chunk_size)
        (values * torch.linspace(0.5, 1.5, batch, device=GPU)).sum().backward()
        return values.detach(), x.grad

    found, again = value_and_slope(torch.float32, None), value_and_slope(torch.float32, None)
    dense, wanted = value_and_slope(torch.float32, 0), value_and_slope(torch.float64, 0)
    for one, same, plain, exact in zip(found, again, dense, wanted, strict=True):
        assert one.equal(same)
        rounding = (plain - exact).norm() / exact.norm()
        assert (one - exact).norm() / exact.norm() <= 4 * rounding + 1e-6


def test_kernels_take_what_cpu_tests_take():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(HELPERS / "loss_kernel_cases.py")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.parametrize("form", ["nt_xent", "cacr"])
def test_65536_samples_fit_in_memory_that_grows_with_the_batch(form):
    z = torch.randn(2, 65536, 128, device=GPU).requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    PAIRS[form](z).backward()
    assert torch.cuda.max_memory_allocated() - before <= 16 * z.nbytes  # 1 GiB; pairs take 64
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("normalization", ["max", "rank"])
def test_the_tracker_is_that_of_a_cpu(normalization):
    here, there = (MemorizationTracker(300, 0.9, normalization).to(d) for d in ("cpu", GPU))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for _ in range(5):
            ids = torch.randint(280, (64,), generator=generator)  # some twice
            losses = torch.rand(64, generator=generator).mul(8).round() / 2  # many ties
            here.update(ids, losses)
            there.update(ids.to(GPU), losses.to(GPU))
        here.refresh()
        there.refresh()
    assert there.scores.device.type == GPU.type
    assert there.updated_in.cpu().equal(here.updated_in)
    assert int(there.epoch) == 4
    torch.testing.assert_close(there.momentum_loss.cpu(), here.momentum_loss, rtol=1e-6, atol=0)
    if normalization == "max":
        torch.testing.assert_close(there.scores.cpu(), here.scores, rtol=0, atol=1e-6)
    else:  # rounding may part or join neighbors, which moves a rank by one
        assert (there.scores.cpu() - here.scores).abs().max() <= 1.01 / 279

    before = there.momentum_loss.clone()
    with pytest.raises(InputError, match=r"not finite for sample ids \[3\]"):
        there.update(torch.tensor([1, 3], device=GPU), torch.tensor([1, torch.nan], device=GPU))
    with pytest.raises(InputError, match="lies outside"):
        there.update(torch.tensor([1, 300], device=GPU), torch.ones(2, device=GPU))
    assert there.momentum_loss.equal(before)


def test_the_mask_is_that_of_a_cpu():
    values = np.load(GOLDEN / "sdclr_mask.npz")
    weights = {f"{i}": torch.from_numpy(values[f"weight{i}"]).to(GPU) for i in range(3)}
    masks = magnitude_masks(weights, float(values["prune_fraction"]))
    assert all(np.array_equal(masks[f"{i}"].cpu(), values[f"mask{i}"]) for i in range(3))
    torch.manual_seed(0)
    encoder = create_encoder("resnet18", 32)
    wanted = magnitude_masks(convolution_weights(encoder), 0.9)
    found = magnitude_masks(convolution_weights(encoder.to(GPU)), 0.9)
    assert all(found[name].cpu().equal(mask) for name, mask in wanted.items())


def test_pruning_waits_for_nothing():
    weights = convolution_weights(create_encoder("resnet18", 32).to(GPU))
    magnitude_masks(weights, 0.9)
    with waiting("error"):
        magnitude_masks(weights, 0.9)


METHODS = {
    "simclr": (SimCLR, {}),
    "bcl-i": (BCL, {}),
    "sdclr": (SDCLR, {}),
    "bcl-d": (SDCLR, {"boosted": True}),
    "cacr": (CACR, {}),
    "cacr moco": (CACR, {"form": "moco", "teacher": TeacherSettings(queue_size=256)}),
    "cacr moco-v3": (CACR, {"form": "moco-v3", "teacher": TeacherSettings(predictor_features=32)}),
}


def method(name):
    cls, arguments = METHODS[name]
    arguments = {**arguments}
    if arguments.pop("boosted", False):
        arguments["views"] = ContrastiveViews(16, boost=BoostedRandAugment("bcl-d"))
    torch.manual_seed(0)
    optimizer = OptimizerSettings(learning_rate=0.1)
    arguments = {"views": 16, "optimizer": optimizer, "schedule": NO_WARMUP, "seed": 0, **arguments}
    return cls(TINY, **arguments)


def fit(model, *callbacks, epochs=2, resume=None, **settings):
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        **{"enable_checkpointing": False, **settings},
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=list(callbacks),
    )
    trainer.fit(model, datamodule=DigitsLT(), ckpt_path=resume)
    return trainer


class Batches(pl.Callback):
    """The ids of all batches, and the devices they came on."""

    def __init__(self):
        self.ids, self.devices = [], set()

    def on_train_batch_start(self, trainer, model, batch, _):
        self.ids += batch["id"].tolist()
        self.devices |= {value.device.type for value in batch.values()}


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "bf16-mixed") for name in METHODS), ("bcl-i", "16-mixed"), ("bcl-d", "32-true")],
)
def test_every_method_trains(name, precision):
    model, batches = method(name), Batches()
    before = {key: value.clone() for key, value in model.encoder.named_parameters()}
    trainer = fit(model, batches, precision=precision)
    assert batches.devices == {GPU.type}
    assert trainer.callback_metrics["loss"].isfinite()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    after = dict(model.encoder.named_parameters())
    assert not any(after[key].cpu().equal(value) for key, value in before.items())
    tracker = model.tracker
    seen = torch.zeros(tracker.num_samples, dtype=torch.bool)
    seen[batches.ids] = True
    assert tracker.seen.cpu().equal(seen)
    assert tracker.scores.max() == 1 or tracker.scores[tracker.seen].min() == 0
    assert tracker.momentum_loss.dtype == torch.float32
    assert int(tracker.epoch) == 2


def test_a_loss_that_is_not_finite_stops_the_run_before_the_optimizer(monkeypatch):
    model, steps = method("bcl-i"), []
    losses = type(model).sample_losses

    def broken(self, views, ids):
        steps.append({name: value.clone() for name, value in self.named_parameters()})
        out = losses(self, views, ids)
        return SampleLosses(*(x * torch.nan for x in out)) if len(steps) == 3 else out

    monkeypatch.setattr(type(model), "sample_losses", broken)
    with pytest.raises(InputError, match=r"step 2: loss not finite for sample ids \["):
        fit(model)
    assert len(steps) == 3
    for name, value in model.named_parameters():
        assert value.cpu().equal(steps[2][name].cpu()), name
    assert model.tracker.momentum_loss.isfinite().all()


class Stop(pl.Callback):
    """End the run after two epochs, as a time limit would."""

    def on_train_epoch_end(self, trainer, _):
        trainer.should_stop = trainer.current_epoch == 1


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "bf16-mixed") for name in ("bcl-i", "bcl-d", "cacr moco")), ("bcl-i", "32-true")],
)
def test_a_resumed_run_ends_bit_for_bit_as_one_left_alone(name, precision, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = {"precision": precision, "deterministic": True, "epochs": 4}
    saving = {"enable_checkpointing": True, **settings}
    try:
        whole = method(name)
        fit(whole, **settings)
        again = method(name)
        fit(again, **settings)
        record = RunRecorder({"name": name}, tmp_path)
        fit(method(name), record, Checkpoints(tmp_path), Stop(), **saving)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
        resumed = method(name)
        record = RunRecorder({"name": name}, tmp_path)
        callbacks = record, Checkpoints(tmp_path)
        fit(resumed, *callbacks, resume=tmp_path / "last.ckpt", **saving)
    finally:
        torch.use_deterministic_algorithms(False)
    assert saved["epoch"] == 1
    wanted = whole.state_dict()
    for other in (again.state_dict(), resumed.state_dict()):
        assert [key for key, value in other.items() if not value.equal(wanted[key])] == []


@pytest.mark.parametrize("solver", ["lbfgs", "ridge"])
def test_probes_are_those_of_a_cpu(solver):
    def blobs(count, seed):
        centers = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 7
        return centers[labels] + 1.2 * torch.randn(count, 12, generator=generator), labels

    data = (*blobs(2100, 1), *blobs(3500, 2))
    here = fit_linear_probe(*data, solver=solver)
    there = fit_linear_probe(*(part.to(GPU) for part in data), solver=solver)
    assert there.accuracy == pytest.approx(here.accuracy, abs=0.002)
    assert there.chosen["l2"] == here.chosen["l2"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_are_those_of_a_cpu(metric):
    generator = torch.Generator().manual_seed(0)
    y, test_y = torch.arange(900) % 6, torch.arange(300) % 6
    centers = torch.randn(6, 16, generator=generator)
    x = centers[y] + torch.randn(900, 16, generator=generator)
    test = centers[test_y] + torch.randn(300, 16, generator=generator)
    here = knn_predict(x, y, test, metric=metric)
    there = knn_predict(x.to(GPU), y.to(GPU), test.to(GPU), metric=metric)
    assert all(there[k].cpu().equal(found) for k, found in here.items())


def test_batches_lie_on_the_device_in_the_order_of_a_cpu():
    data = DigitsLT(batch_size=64).train_set()
    here, there = BatchLoader(data, 64), BatchLoader(data, 64, device=GPU)
    for epoch in (0, 1):
        for loader in (here, there):
            loader.set_epoch(epoch)
        pairs = list(zip(there, here, strict=True))
        assert len(pairs) == len(here)
        for one, two in pairs:
            assert all(value.device.type == GPU.type for value in one.values())
            assert all(one[key].cpu().equal(two[key]) for key in two)
