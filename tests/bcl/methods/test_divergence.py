"""What is not finite: the loss, the gradient, the gradient of an AMP overflow."""

import pytest
import pytorch_lightning as pl
import torch
from small_runs import NO_WARMUP, SIZE, TINY, method, train

from bcl import InputError, NTXentLoss, SimCLR
from bcl.methods import MemorySettings
from bcl.training.checkpoints import AtomicCheckpointIO, Checkpoints
from datamodules import DigitsLT


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


def test_an_amp_overflow_is_skipped_and_its_finite_losses_count(tmp_path):
    """float16 with a scale that overflows the first gradients, on the CPU."""
    model, watch = method(), Watch()
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
