"""SimCLR, BCL and SDCLR in training, and what is not finite in them."""

import pytest
import pytorch_lightning as pl
import torch
from small_runs import NO_WARMUP, SIZE, TINY, Images, train
from small_runs import method as small_method
from torch import nn

from bcl import (
    BCL,
    SDCLR,
    ContrastiveViews,
    InputError,
    MemorizationTracker,
    NTXentLoss,
    SimCLR,
    contrastive_signals,
)
from bcl.methods import (
    EncoderSettings,
    MemorySettings,
    OptimizerSettings,
    ScheduleSettings,
)
from bcl.training.checkpoints import AtomicCheckpointIO, Checkpoints
from cacr import CACR, CACRLoss
from datamodules import DigitsLT


@pytest.fixture(params=[SimCLR, BCL, SDCLR])
def method(request):
    torch.manual_seed(0)
    return request.param(
        TINY,
        views=SIZE,
        optimizer=OptimizerSettings(learning_rate=0.1),
        schedule=ScheduleSettings(warmup_epochs=1),
    )


def test_trains_without_labels_and_fills_the_tracker(method):
    before = {name: value.clone() for name, value in method.encoder.named_parameters()}
    train(method)
    now = dict(method.encoder.named_parameters())
    assert all(not torch.equal(now[name], value) for name, value in before.items())
    assert method.tracker.seen.all()
    assert int(method.tracker.epoch) == 2
    scores = method.tracker.scores
    assert scores.min() == 0 or scores.max() == 1  # the farthest loss is at an end
    assert scores.min() >= 0
    assert scores.max() <= 1


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_trains_in_every_precision(method, precision):
    train(method, epochs=1, precision=precision)
    assert method.tracker.seen.all()
    assert method.tracker.momentum_loss.dtype == torch.float32


class Rates(pl.Callback):
    """The learning rate of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_schedule_is_by_the_step(method):
    rates = Rates()
    train(method, callbacks=[rates])
    assert rates.seen[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])  # not 0: as released
    assert rates.seen[3] < 0.1
    assert rates.seen[-1] == pytest.approx(1e-6)


def test_milestones_take_the_place_of_the_cosine():
    rates = Rates()
    optimizer = OptimizerSettings(learning_rate=0.1)
    schedule = ScheduleSettings(warmup_epochs=0, milestones=(1, 2))
    method = SimCLR(TINY, views=SIZE, optimizer=optimizer, schedule=schedule)
    train(method, epochs=3, callbacks=[rates])
    assert rates.seen == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3)


def tracker_state(samples):
    return {f"tracker.{k}": v for k, v in MemorizationTracker(samples).state_dict().items()}


def test_loss_of_a_step_is_the_mean_of_the_losses_of_its_views(method, monkeypatch):
    method.trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, barebones=True)
    monkeypatch.setattr(method, "log", lambda *_, **__: None)
    method.setup("predict")
    method.load_state_dict(method.state_dict() | tracker_state(24))
    images = torch.randint(0, 256, (8, 3, SIZE, SIZE), dtype=torch.uint8)
    ids = torch.arange(8)
    views = method.views(images, scores=torch.zeros(8), ids=ids, epoch=0)
    losses = NTXentLoss(0.2, reduction="none")(method.project(views))
    loss = method.training_step({"image": images, "id": ids}, 0)
    torch.testing.assert_close(loss, losses.mean())
    assert loss.requires_grad
    torch.testing.assert_close(method.tracker.momentum_loss[:8], losses.detach())
    assert method.tracker.seen.tolist() == [True] * 8 + [False] * 16


def test_accumulated_gradients_count_a_sample_once_an_epoch(method, monkeypatch):
    counted, take = [], MemorizationTracker._take

    def spy(tracker, ids, losses):
        counted.append(ids.tolist())
        take(tracker, ids, losses)

    monkeypatch.setattr(MemorizationTracker, "_take", spy)
    trainer = train(method, accumulate_grad_batches=3)
    assert trainer.global_step == 2
    assert [i for ids in counted for i in ids] == [*range(24), *range(24)]


def test_the_trackers_verdict_is_asked_for_before_the_optimizer_steps(method, monkeypatch):
    said = []

    def noted(owner, name, note):
        original = getattr(owner, name)

        def call(self, *args, **more):
            answer = original(self, *args, **more)
            said.append(note)
            return answer

        monkeypatch.setattr(owner, name, call)

    noted(MemorizationTracker, "_take", "taken")
    noted(MemorizationTracker, "flush", "checked")
    noted(torch.optim.SGD, "step", "step")
    train(method)
    first = said.index("taken")
    assert said[first : first + 3] == ["taken", "checked", "step"]


def test_samples_that_limit_train_batches_leaves_out_stay_unseen(method):
    train(method, epochs=2, limit_train_batches=2)
    tracker = method.tracker
    assert tracker.seen.tolist() == [True] * 16 + [False] * 8
    assert int(tracker.epoch) == 2
    assert not tracker.scores[16:].any()
    assert tracker.scores[:16].max() == 1 or tracker.scores[:16].min() == 0


def test_encode_is_in_evaluation_mode_and_leaves_no_trace():
    method = SimCLR(TINY, views=SIZE).train()
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    features = method.encode(images)
    assert method.training
    assert not features.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    torch.testing.assert_close(features[:2], method.encode(images[:2]))
    torch.testing.assert_close(features, method.encode(images / 255))


def test_parts_that_were_in_evaluation_mode_stay_so():
    method = SimCLR(TINY, views=SIZE).train()
    method.encoder.bn1.eval()
    method.encode(torch.rand(2, 3, SIZE, SIZE))
    assert method.encoder.training
    assert not method.encoder.bn1.training


def test_channels_last_changes_the_layout_alone():
    # oneDNN of torch 2.14 writes beyond its memory for four channels in this layout (AVX2).
    encoder = EncoderSettings("resnet8", {"width": 16})
    torch.manual_seed(0)
    plain = SimCLR(encoder, views=SIZE)
    torch.manual_seed(0)
    last = SimCLR(encoder, views=SIZE, channels_last=True)
    images = torch.rand(4, 3, SIZE, SIZE)
    assert last.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.encode(images), plain.encode(images))
    train(last, epochs=1)


def test_encoder_may_be_a_module_of_ones_own():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 8))
    encoder.num_features = 8
    method = SimCLR(encoder, views=SIZE)
    train(method, epochs=1)
    assert method.encode(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 8)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SimCLR(nn.Flatten()), "num_features"),
        (lambda: SimCLR("resnet8", optimizer="adamw"), "OptimizerSettings"),
        (lambda: SDCLR("resnet8", schedule="cosine"), "ScheduleSettings"),
        (lambda: SimCLR("resnet8", projector=64), "ProjectorSettings"),
        (lambda: SimCLR("resnet8", loss="nt_xent"), "Module"),
        (lambda: SimCLR("resnet8", views=(16, 16)), "ContrastiveViews"),
        (lambda: SimCLR("resnet8", memory=None), "MemorySettings"),
        (lambda: SimCLR("resnet8", loss=NTXentLoss()), "reduction='none'"),
        (lambda: BCL("resnet8", views=ContrastiveViews(SIZE)), "boost"),
        (lambda: SimCLR("resnet81"), "did you mean"),
        (
            lambda: SimCLR(views=ContrastiveViews(SIZE, mean=(0, 0, 0), std=(1, 1, 1))),
            "normalizes",
        ),
        (lambda: SimCLR(EncoderSettings("resnet8", {"widht": 3})), "widht"),
        (lambda: SDCLR("resnet8", prune_fraction=1.5), "fraction"),
        (lambda: SDCLR("vit_tiny_patch16_224", views=224), "batch norm"),
    ],
)
def test_bad_arguments(make, told):
    with pytest.raises(InputError) as error:
        make()
    assert told in str(error.value)


def test_unknown_size_and_wrong_size_of_the_training_set():
    loader = Images().train_dataloader()
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, barebones=True)
    with pytest.raises(InputError, match="num_samples=N"):
        trainer.fit(SimCLR("resnet8", views=SIZE), loader)
    with pytest.raises(InputError, match="tracks 7 samples but the datamodule has 24"):
        train(SimCLR("resnet8", views=SIZE, num_samples=7))


def test_a_run_without_end_is_refused():
    with pytest.raises(InputError, match="max_epochs"):
        train(SimCLR("resnet8", views=SIZE), epochs=-1, max_steps=3)


def test_non_finite_loss_stops_the_run_and_leaves_the_tracker_clean():
    method = SimCLR(TINY, views=SIZE)
    with torch.no_grad():
        method.encoder.conv1.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="step 0: loss not finite for sample ids"):
        train(method)
    assert not method.tracker.seen.any()


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    (tmp_path / "..last.ckpt.new.abc.tmp").write_bytes(b"part")
    (tmp_path / "notes.txt").write_text("the user's own")
    method = SimCLR(TINY, views=SIZE)
    plugins = [AtomicCheckpointIO()]
    callbacks = [Checkpoints(tmp_path)]
    train(method, callbacks=callbacks, plugins=plugins, enable_checkpointing=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last.ckpt", "notes.txt", "previous.ckpt"]


def test_divergence_names_the_step_and_enters_no_checkpoint(tmp_path):
    method = SimCLR(TINY, views=SIZE)

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, method, *_):
            if trainer.global_step == 4:
                with torch.no_grad():
                    method.encoder.conv1.weight.fill_(torch.nan)

    with pytest.raises(InputError, match="step 4: "):
        train(
            method,
            callbacks=[Checkpoints(tmp_path), Poison()],
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=True,
        )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


class Poison(pl.Callback):
    """Make the encoder's first weight NaN before a batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == self.batch:
            with torch.no_grad():
                module.encoder.conv1.weight.fill_(torch.nan)


def test_under_accumulation_the_batch_is_refused_before_its_step():
    model = SimCLR(TINY, views=SIZE, schedule=NO_WARMUP)
    with pytest.raises(InputError, match="step 0: loss not finite for sample ids"):
        train(model, callbacks=[Poison(2)], accumulate_grad_batches=3)
    assert model.tracker.seen.tolist() == [True] * 16 + [False] * 8  # the two batches before
    assert model.tracker.momentum_loss.isfinite().all()
    assert int(model.tracker.epoch) == 0


class BadGradient(pl.Callback):
    """A finite loss whose gradient is not."""

    def __init__(self, step):
        self.step = step

    def on_after_backward(self, trainer, module):
        if trainer.global_step == self.step:
            module.encoder.conv1.weight.grad[0] = torch.inf


@pytest.mark.slow
@pytest.mark.parametrize("every_n_steps", [1, None])
def test_a_gradient_that_is_not_finite_never_enters_a_checkpoint(tmp_path, every_n_steps):
    model = SimCLR(TINY, views=SIZE, schedule=NO_WARMUP)
    saver = Checkpoints(tmp_path, every_n_steps=every_n_steps)
    step = 4 if every_n_steps else 5  # 5: the last of its epoch, no further loss is computed
    with pytest.raises(InputError) as error:
        train(model, callbacks=[saver, BadGradient(step)], plugins=[AtomicCheckpointIO()],
              enable_checkpointing=True)  # fmt: skip
    told = str(error.value)
    assert f"step {step} made " in told
    assert "'encoder.conv1.weight'" in told
    assert str(tmp_path / "last.ckpt") in told
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == (4 if every_n_steps else 3)
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_at_the_next_loss_without_checkpoints():
    model = SimCLR(TINY, views=SIZE, schedule=NO_WARMUP)
    with pytest.raises(InputError, match="step 2: loss not finite"):
        train(model, callbacks=[BadGradient(1)])
    # The first two steps had finite losses; they count.
    assert model.tracker.seen.tolist() == [True] * 16 + [False] * 8


class Watch(pl.Callback):
    """Weights and memory before and after each step."""

    def __init__(self):
        self.moved, self.scales, self.seen, self.losses = [], [], [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = [p.detach().clone() for p in module.parameters()]

    def on_train_batch_end(self, trainer, module, outputs, *_):
        now = list(module.parameters())
        same = all(torch.equal(a, b) for a, b in zip(self.before, now, strict=True))
        self.moved.append(not same)
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        self.seen.append(int(module.tracker.seen.sum()))
        self.losses.append(bool(outputs["loss"].isfinite()))


@pytest.mark.slow
def test_an_amp_overflow_is_skipped_and_its_finite_losses_count(tmp_path):
    """float16 with a scale that overflows the first gradients, on the CPU."""
    model, watch = small_method(), Watch()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-55)
    precision = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[precision, AtomicCheckpointIO()],
        callbacks=[watch, Checkpoints(tmp_path, every_n_steps=1)],
    )
    trainer.fit(model, datamodule=DigitsLT())
    assert watch.losses == [True] * 6
    assert watch.moved[0] is False  # skipped, not a divergence
    assert watch.moved[-1] is True
    assert watch.scales[0] == 2.0**65
    # The losses of a skipped step are those of the weights as they are: they count.
    assert watch.seen[0] == 128
    assert model.tracker.momentum_loss.isfinite().all()
    assert int(model.tracker.epoch) == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())


class Overflow(torch.nn.Module):
    """A loss per sample that is not finite for one of them, in one step."""

    reduction = "none"

    def __init__(self, step):
        super().__init__()
        self.left = step

    def forward(self, z):
        losses = z.square().sum((0, 2))
        if self.left == 0:
            losses = losses + losses.new_tensor([0.0, torch.inf]).repeat(len(losses) // 2)
        self.left -= 1
        return losses


def test_a_loss_that_trains_stops_the_run_though_the_tracker_watches_a_finite_one():
    torch.manual_seed(0)
    memory = MemorySettings(loss=NTXentLoss(reduction="none"))
    model = SimCLR(TINY, views=SIZE, loss=Overflow(1), memory=memory, schedule=NO_WARMUP)
    with pytest.raises(
        InputError, match=r"step 1: loss not finite for sample ids \[9, 11, 13, 15\]"
    ):
        train(model)
    assert model.tracker.seen.tolist() == [True] * 8 + [False] * 16
    assert all(parameter.isfinite().all() for parameter in model.parameters())


SIGNALS = ("misalignment", "isolation", "tailness")


@pytest.mark.parametrize(
    "loss", [None, NTXentLoss(0.5, reduction="none"), CACRLoss(reduction="none")]
)
def test_signals_are_recorded_and_do_not_train(loss):
    memory = MemorySettings(signal="isolation", watch=("loss", *SIGNALS))
    method = SimCLR(TINY, views=SIZE, memory=memory, loss=loss)
    views = torch.rand(2, 8, 3, SIZE, SIZE)
    losses, watched = method.sample_losses(views)
    z = method.project(views).detach()
    signals = contrastive_signals(*z)
    assert list(watched) == ["isolation", "loss", "misalignment", "tailness"]
    for name in SIGNALS:
        torch.testing.assert_close(watched[name], getattr(signals, name))
    torch.testing.assert_close(losses, method.loss(z))
    assert torch.equal(watched["loss"], losses.detach())


def test_all_signals_cost_one_pass_over_the_pairs(monkeypatch):
    calls = []
    monkeypatch.setattr("bcl.losses.blocks._triangle", lambda *_: calls.append(0) or [])
    for temperature, passes in ((0.2, 0), (0.3, 1)):
        loss = NTXentLoss(temperature, reduction="none")
        method = SimCLR(TINY, views=SIZE, loss=loss, memory=MemorySettings(watch=SIGNALS))
        method.sample_losses(torch.rand(2, 40, 3, SIZE, SIZE))
        assert len(calls) == passes  # another temperature needs another pass


def test_each_signal_has_a_tracker_with_the_values_of_the_steps():
    taken = []

    class Spy(SimCLR):
        def sample_losses(self, views, ids=None):
            taken.append(super().sample_losses(views, ids))
            return taken[-1]

    torch.manual_seed(0)
    method = Spy(TINY, views=SIZE, memory=MemorySettings(watch=SIGNALS, momentum=0.5))
    train(method, epochs=1)
    assert list(method.trackers) == ["loss", *SIGNALS]
    for name, tracker in method.trackers.items():
        steps = [each.watched[name] for each in taken]
        torch.testing.assert_close(tracker.momentum_loss, torch.cat(steps))
        assert int(tracker.epoch) == 1


def test_only_what_a_method_can_give_is_recorded():
    memory = MemorySettings(watch=("isolation",))
    with pytest.raises(InputError, match="two views of an image for isolation, and there are 3"):
        SimCLR(TINY, views=ContrastiveViews(SIZE, num_views=3), memory=memory)
    with pytest.raises(InputError, match="there are 5"):
        CACR(TINY, views=SIZE, memory=memory)
    two = ContrastiveViews(SIZE)
    with pytest.raises(InputError, match="form='moco'"):
        CACR(TINY, views=two, form="moco", memory=memory)
    assert list(CACR(TINY, views=two, num_samples=3, memory=memory).trackers) == [
        "loss",
        "isolation",
    ]
    few = torch.rand(2, 4, 3, SIZE, SIZE)
    assert {*SimCLR(TINY, views=SIZE, memory=memory).sample_losses(few).watched} == {
        "loss",
        "isolation",
    }
    near = MemorySettings(watch=("tailness",))  # the one that counts its nearest negatives
    with pytest.raises(InputError, match="6 negatives"):
        SimCLR(TINY, views=SIZE, memory=near).sample_losses(few)


def test_only_one_thing_is_watched():
    with pytest.raises(InputError, match="no loss"):
        MemorySettings(signal="isolation", loss=nn.Identity())
    MemorySettings(signal="isolation", watch=("loss",), loss=nn.Identity())
    with pytest.raises(InputError, match="isolation"):
        MemorySettings(signal="isolated")
    for watch in (("neighbours",), "isolation", "isolation,loss"):
        with pytest.raises(InputError, match=r"memory\.watch"):
            MemorySettings(watch=watch)
