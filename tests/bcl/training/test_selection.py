"""Selections in a run: their images, what the memory holds, resume, every rule, refusals."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_runs import SIZE, TINY, Cut, StopError, fit, method

from bcl import BCL, DomainLoss, InputError, NTXentLoss, SimCLR
from bcl.discovery import colt_selection, k_means
from bcl.losses import expected_loss
from bcl.methods import MemorySettings
from bcl.training import RunRecorder, Selection
from bcl.training.checkpoints import Checkpoints
from datamodules import ArraysLT
from datamodules.external import SelectionSettings

OWN, OTHERS, BUDGET = 24, 40, 16
WATCHING = MemorySettings(watch=("tailness",))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("external") / "external.npy"
    np.save(path, np.random.default_rng(1).integers(0, 256, (OTHERS, SIZE, SIZE, 3), np.uint8))
    return str(path)


def data(root, **settings):
    images = np.random.default_rng(0).integers(0, 256, (OWN, SIZE, SIZE, 3), np.uint8)
    settings = {"rule": "colt", "budget": BUDGET, "start": 1, "every": 1, "clusters": 3, **settings}
    root = None if settings["rule"] == "balanced" else root
    return ArraysLT(images, batch_size=8, selection=SelectionSettings(root=root, **settings))


def model(cls=SimCLR, **arguments):
    return method(cls, lambda: TINY, **{"memory": WATCHING, **arguments})


class Watched(Selection):
    """Keep each epoch's images, and what a selection was made from."""

    def __init__(self):
        super().__init__(batch_size=16)
        self.epochs, self.made = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        super().on_train_epoch_start(trainer, pl_module)
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, *_):
        place = batch.get("external", torch.full_like(batch["id"], -1))
        self.epochs[-1] += torch.where(batch["id"] < 0, -1 - place, batch["id"]).tolist()

    def measure(self, trainer, pl_module):
        found = super().measure(trainer, pl_module)
        sets = trainer.datamodule.train_set(), trainer.datamodule.external
        embedded = [
            [f.clone() for f in pl_module.embed(s.images(torch.arange(len(s))))] for s in sets if s
        ]
        tracker = pl_module.trackers.get("tailness")
        self.made.append((embedded, tracker and tracker.momentum_loss.clone()))
        return found


@pytest.mark.slow
def test_epochs_have_the_images_that_colt_selects(root):
    run, watched = model(), Watched()
    fit(run, watched, data=data(root), max_epochs=3)
    assert [len(epoch) for epoch in watched.epochs] == [OWN + BUDGET] * 3
    assert set(watched.epochs[0]) == set(range(OWN))
    assert len(watched.made) == 2  # none after the last epoch
    for epoch, (embedded, tailness) in zip(watched.epochs[1:], watched.made, strict=True):
        (_, own), (_, others) = embedded
        selected = colt_selection(own, tailness, others, BUDGET, clusters=3)
        assert sorted(epoch) == sorted([*range(OWN), *(-1 - selected).tolist()])
    assert run.tracker.num_samples == OWN
    assert run.tracker.seen.all()


class Spy(BCL):
    """Keep what a step gets."""

    steps: ClassVar = []

    def sample_losses(self, views, ids=None):
        self.steps.append((ids, views, self.view_scores(ids), self.tracker.scores.clone()))
        return super().sample_losses(views, ids)


@pytest.mark.slow
def test_external_images_have_views_of_their_own_and_the_mean_score(root):
    Spy.steps = []
    same = np.zeros((OTHERS, SIZE, SIZE, 3), np.uint8)
    same[:, : SIZE // 2] = np.arange(SIZE)[:, None]
    path = root.replace("external.npy", "same.npy")
    np.save(path, same)
    run = model(Spy)
    before = model(Spy).tracker
    assert before is None
    fit(run, Selection(), data=data(path, rule="random"), max_epochs=3)
    ids, views, scores, held = next(s for s in reversed(Spy.steps) if int((s[0] < 0).sum()) > 2)
    own = ids >= 0
    assert scores[own].equal(held[ids[own]])
    assert scores[~own].eq(held.mean()).all()
    external = views[0][~own].flatten(1)
    assert len(torch.unique(external, dim=0)) == len(external)  # one image, other views


def losses_by_loops(run, external, passes, batch):
    """MAK's losses in full batches, in its order; those of the first images count."""
    from bcl import ContrastiveViews
    from bcl.core.random import permutation
    from bcl.training.selection import _STREAM

    order = permutation(OTHERS, run.views.seed, _STREAM)
    found = torch.empty(OTHERS)
    for rows in reversed(torch.cat([order, order[: -OTHERS % batch]]).split(batch)):
        images = external.images(rows)
        ids = torch.arange(len(rows))
        view = ContrastiveViews(SIZE, 1, run.views.chain, seed=run.views.seed)
        z = [run.embed(view(images, ids=ids, epoch=e)[0])[1] for e in range(passes)]
        found[rows] = expected_loss(torch.stack(z))
    return found


def test_the_last_batch_of_maks_losses_is_full(root):
    run, source = model(memory=MemorySettings()).eval(), data(root, rule="mak", every=0, passes=2)
    source.setup()
    chosen = Selection(batch_size=3)  # 40 images
    chosen._settings = source.selection
    precision = SimpleNamespace(val_step_context=nullcontext)
    trainer = SimpleNamespace(
        precision_plugin=precision, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    with torch.no_grad():
        losses = chosen._losses(trainer, run, source.external)
        expected = losses_by_loops(run, source.external, 2, 3)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_mak_selects_once_by_losses_of_augmented_passes(root, monkeypatch):
    import bcl.training.selection as module

    calls, real = [], module.mak_selection

    def spy(own, external, losses, *rest, **options):
        expected = losses_by_loops(run, source.external, 3, 20)
        calls.append((own, external, losses, expected))
        return real(own, external, losses, *rest, **options)

    monkeypatch.setattr(module, "mak_selection", spy)
    run, source = model(memory=MemorySettings()), data(root, rule="mak", every=0, passes=3)
    chosen = Selection(batch_size=30)  # 40 images: two batches of 20, not 30 and 10
    fit(run, chosen, data=source, max_epochs=4)
    assert len(calls) == 1
    own, external, losses, expected = calls[0]
    assert own.shape == (OWN, run.encoder.num_features)
    assert external.shape == (OTHERS, run.encoder.num_features)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert len(chosen.selected) == len(set(chosen.selected.tolist())) == BUDGET


@pytest.mark.slow
def test_balanced_epochs_follow_the_clusters(root):
    run, watched = model(memory=MemorySettings()), Watched()
    fit(run, watched, data=data(root, rule="balanced", every=2), max_epochs=3)
    assert set(watched.epochs[0]) == set(range(OWN))
    ((features, _),), _ = watched.made[0]
    of = k_means(torch.nn.functional.normalize(features, dim=1), 3).of
    for epoch in watched.epochs[1:]:
        counts = torch.bincount(of[torch.tensor(epoch)], minlength=3)
        assert counts.tolist() == [OWN // 3] * 3
    assert watched.epochs[1] != watched.epochs[2]


@pytest.mark.slow
def test_random_images_are_drawn_anew_and_may_be_there_from_the_start(root):
    watched = Watched()
    fit(model(), watched, data=data(root, rule="random", start=0, every=2), max_epochs=4)
    sets = [frozenset(i for i in epoch if i < 0) for epoch in watched.epochs]
    assert all(len(each) == BUDGET for each in sets)
    assert sets[0] == sets[1] != sets[2] == sets[3]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["colt", "balanced"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(root, tmp_path, rule):
    def run(folder, *more, resume=None):
        loss = DomainLoss(NTXentLoss(reduction="none"))
        trained = model(loss=loss, memory=WATCHING)
        recorder = RunRecorder({"name": "x"}, folder)
        callbacks = [recorder, Checkpoints(folder, every_n_steps=1), Selection(), *more]
        source = data(root, rule=rule, every=2)
        fit(
            trained, *callbacks, data=source, max_epochs=4, resume=resume, enable_checkpointing=True
        )
        return trained.state_dict(), recorder.record

    whole, record = run(tmp_path / "whole")
    steps = (OWN + BUDGET * (rule == "colt")) // 8
    with pytest.raises(StopError):
        run(tmp_path / "cut", Cut(step=2 * steps + 2))  # within the third epoch
    again, _ = run(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert [each["epoch"] for each in record["selections"]] == [1, 3]


@pytest.mark.slow
def test_another_collection_is_another_run(root, tmp_path):
    def run(path, resume=None):
        recorder = RunRecorder({"name": "x"}, tmp_path)
        callbacks = [recorder, Checkpoints(tmp_path), Selection()]
        source = data(path, rule="random")
        fit(
            model(), *callbacks, data=source, max_epochs=2, resume=resume, enable_checkpointing=True
        )

    run(root)
    other = root.replace("external.npy", "other.npy")
    np.save(other, np.random.default_rng(2).integers(0, 256, (OTHERS, SIZE, SIZE, 3), np.uint8))
    with pytest.raises(InputError, match="another collection of external images"):
        run(other, resume=tmp_path / "last.ckpt")


def test_what_a_rule_needs_is_asked_for(root):
    with pytest.raises(InputError, match=r"add tailness to memory\.watch"):
        fit(model(memory=MemorySettings()), Selection(), data=data(root))
    with pytest.raises(InputError, match=r"bcl\.training\.Selection"):
        fit(model(), data=data(root))
    with pytest.raises(InputError, match=r"clusters is 25, more than the 24 training images"):
        fit(model(memory=MemorySettings()), Selection(), data=data(root, rule="mak", clusters=25))
    with pytest.raises(InputError, match=r"start=5 lies beyond the 2 epochs"):
        fit(model(), Selection(), data=data(root, start=5))
