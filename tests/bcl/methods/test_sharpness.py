"""Sharpness-aware training: the step by hand, what each pass leaves behind, resume, refusals."""

import pytest
import torch
from small_runs import SIZE, TINY, Cut, Images, StopError, fit, train
from torch import nn

from bcl import SDCLR, InputError, SimCLR, SogCLRLoss, signal_weights
from bcl.methods import EncoderSettings, MemorySettings, OptimizerSettings, SharpnessSettings
from bcl.methods.sharpness import WHOLE
from bcl.training import FeatureSignals, RunRecorder
from bcl.training.checkpoints import Checkpoints
from cacr import CACR
from cacr.method import TeacherSettings
from datamodules import ArraysLT


def sharp(cls=SimCLR, learning_rate=0.1, **arguments):
    settings = {"rho": 0.2, "adaptive": False, **arguments.pop("sharpness", {})}
    optimizer = OptimizerSettings(
        learning_rate=learning_rate, sharpness=SharpnessSettings(**settings)
    )
    torch.manual_seed(1)
    return cls(TINY, views=SIZE, optimizer=optimizer, seed=0, **arguments)


class OneStep(nn.Module):
    """The first step of `sharp` by hand; the memory has values by then."""

    def __init__(self, method, rho):
        super().__init__()
        batch = next(iter(Images().train_dataloader()))
        views = method.views(batch["image"], ids=batch["id"], epoch=0)
        weights = method.optimizer.sharpness
        tracker = method.trackers[weights.signal]
        w = signal_weights(tracker.momentum_loss, weights.exponent, tracker.seen)[batch["id"]]
        parameters = list(method.parameters())
        losses = method.sample_losses(views, batch["id"]).losses
        self.first = losses.detach()
        grads = torch.autograd.grad((w * losses).mean(), parameters)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        before = [p.detach().clone() for p in parameters]
        for p, g in zip(parameters, grads, strict=True):
            p.data.add_(rho * g / norm)
        loss = method.sample_losses(views, batch["id"]).losses.mean()
        self.grads = torch.autograd.grad(loss, parameters)
        for p, old in zip(parameters, before, strict=True):
            p.data.copy_(old)
        self.loss = float(loss.detach())


def remembered(method):
    """With a memory of 24 samples that have losses."""
    generator = torch.Generator().manual_seed(0)
    method._build_trackers(24)
    method.tracker.update(torch.arange(24), 4 * torch.rand(24, generator=generator))
    method.tracker.refresh()
    return method


def test_a_step_is_that_of_the_formula():
    ways = [remembered(sharp(sharpness={"signal": "loss", "exponent": 1.0})) for _ in range(2)]
    by_hand = OneStep(ways[0], rho=0.2)
    before = ways[1].tracker.momentum_loss.clone()
    plain = [p.detach().clone() for p in ways[1].parameters()]
    trainer = train(ways[1], epochs=1, max_steps=1)
    rate = trainer.optimizers[0].param_groups[0]["initial_lr"]
    assert float(trainer.callback_metrics["loss"]) == pytest.approx(by_hand.loss, rel=1e-5)
    step = ways[1].schedule.factor(0, total=1, epochs=1, base=rate) * rate
    for p, old, grad in zip(ways[1].parameters(), plain, by_hand.grads, strict=True):
        torch.testing.assert_close(p, old - step * (grad + 5e-4 * old), rtol=1e-4, atol=1e-6)
    # The memory has the losses at the weights themselves, each once.
    ids = next(iter(Images().train_dataloader()))["id"]
    expected = 0.97 * before[ids] + 0.03 * by_hand.first
    torch.testing.assert_close(ways[1].tracker.momentum_loss[ids], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_weights_all_equal_are_plain_sam_and_others_are_not():
    states = []
    for sharpness in ({}, {"signal": "loss", "exponent": 0.0}, {"signal": "loss"}):
        states.append(sharp(sharpness=sharpness))
        train(states[-1])
    plain, equal, weighted = (each.state_dict() for each in states)
    assert all(torch.equal(value, equal[name]) for name, value in plain.items())
    assert not torch.equal(plain["projector.0.weight"], weighted["projector.0.weight"])


@pytest.mark.parametrize("cls", [SimCLR, SDCLR])
def test_batch_norms_count_a_step_once(cls):
    norms = []
    for make in (sharp, lambda c: sharp(c, sharpness={"rho": 1e-12})):
        each = make(cls)
        trained = train(each, epochs=1, max_steps=1)
        assert trained.global_step == 1
        norms.append({n: b for n, b in each.named_buffers() if "running" in n or "batches" in n})
    # At the weights themselves, wherever the second pass was.
    for name, value in norms[0].items():
        assert torch.equal(value, norms[1][name]), name
        assert "batches" not in name or int(value) <= 2  # SimCLR's projector, of both views


@pytest.mark.slow
def test_both_passes_run_a_compiled_encoder(monkeypatch):
    """With a backend that counts what runs through it."""
    ran = []

    def count(graph, inputs):
        def run(*arguments):
            ran.append(torch.is_grad_enabled())
            return graph(*arguments)

        return run

    through = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run: through(run, backend=count))
    torch.manual_seed(1)
    optimizer = OptimizerSettings(sharpness=SharpnessSettings())
    encoder = EncoderSettings("resnet8", {"width": 4}, compile=True)
    train(SimCLR(encoder, views=SIZE, optimizer=optimizer), epochs=1, max_steps=1)
    assert ran == [True, True]


@pytest.mark.slow
def test_a_queue_takes_keys_once_and_a_loss_keeps_what_trains():
    moco = sharp(CACR, form="moco", teacher=TeacherSettings(queue_size=64))
    train(moco, epochs=1)
    assert int(moco.queue.position) == 24
    loss = SogCLRLoss(reduction="none")
    train(sharp(loss=loss), epochs=1)
    assert loss.state.seen.all()
    assert loss.training


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_trains_and_pruned_weights_too(precision):
    each = sharp(SDCLR, sharpness={"rho": 1.0, "adaptive": True})
    before = {name: p.detach().clone() for name, p in each.named_parameters()}
    train(each, precision=precision)
    assert all(not torch.equal(before[name], p) for name, p in each.named_parameters())
    assert all(p.isfinite().all() for p in each.parameters())
    assert each.current_pass is WHOLE


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    images = torch.randint(0, 256, (24, 3, SIZE, SIZE), dtype=torch.uint8)

    def run(folder, *more, resume=None):
        model = sharp(
            memory=MemorySettings(watch=("sparseness",), every_n_epochs=1),
            sharpness={"signal": "sparseness"},
        )
        callbacks = [RunRecorder({"name": "x"}, folder), Checkpoints(folder, every_n_steps=1)]
        callbacks += [FeatureSignals(), *more]
        data = ArraysLT(images, batch_size=8)
        fit(model, *callbacks, data=data, resume=resume, enable_checkpointing=True)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(StopError):
        run(tmp_path / "cut", Cut(step=4))  # within the second epoch
    again = run(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"rho.*0\.0"):
        SharpnessSettings(rho=0.0)
    with pytest.raises(InputError, match="exponent"):
        SharpnessSettings(exponent=-1.0)
    with pytest.raises(InputError, match="did you mean 'sparseness'"):
        SharpnessSettings(signal="sparsenes")
    with pytest.raises(InputError, match=r"'neighbors' is not recorded; add it to memory\.watch"):
        sharp(sharpness={"signal": "neighbors"})
    with pytest.raises(InputError, match="accumulate_grad_batches"):
        train(sharp(), accumulate_grad_batches=2)
