import pytest
import pytorch_lightning as pl
import torch
from small_runs import SIZE, TINY, Images, train
from torch import nn

from bcl import (
    BCL,
    SDCLR,
    BoostedRandAugment,
    ContrastiveViews,
    InputError,
    MemorizationTracker,
    NTXentLoss,
    SimCLR,
)
from bcl.methods import (
    EncoderSettings,
    MemorySettings,
    OptimizerSettings,
    ScheduleSettings,
)
from bcl.models.pruning import convolution_weights
from bcl.training.checkpoints import AtomicCheckpointIO, Checkpoints


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
    assert rates.seen[:4] == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    assert rates.seen[4] < 0.1


def test_milestones_take_the_place_of_the_cosine():
    rates = Rates()
    optimizer = OptimizerSettings(learning_rate=0.1)
    schedule = ScheduleSettings(warmup_epochs=0, milestones=(1, 2))
    method = SimCLR(TINY, views=SIZE, optimizer=optimizer, schedule=schedule)
    train(method, epochs=3, callbacks=[rates])
    assert rates.seen == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3)


@pytest.mark.parametrize(("cls", "fed"), [(SimCLR, False), (BCL, True)])
def test_scores_steer_the_views_only_where_there_is_a_boost(cls, fed):
    calls = []

    class Spy(ContrastiveViews):
        def forward(self, images, scores=None, ids=None, epoch=0):
            calls.append((scores, ids, epoch))
            return super().forward(images, scores=scores, ids=ids, epoch=epoch)

    views = Spy(SIZE, boost=BoostedRandAugment() if fed else None)
    method = cls(TINY, views=views)
    train(method)
    assert [epoch for _, _, epoch in calls] == [0, 0, 0, 1, 1, 1]
    assert torch.cat([ids for _, ids, _ in calls[:3]]).tolist() == list(range(24))
    if not fed:
        assert all(scores is None for scores, _, _ in calls)
    else:
        assert not torch.cat([scores for scores, _, _ in calls[:3]]).any()  # epoch 1: no boost
        assert torch.cat([scores for scores, _, _ in calls[3:]]).any()


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
    counted, update = [], MemorizationTracker.update

    def spy(tracker, ids, losses, **more):
        counted.append(ids.tolist())
        update(tracker, ids, losses, **more)

    monkeypatch.setattr(MemorizationTracker, "update", spy)
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

    noted(MemorizationTracker, "update", "taken")
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


def test_channels_last_changes_the_layout_alone():
    torch.manual_seed(0)
    plain = SimCLR(TINY, views=SIZE)
    torch.manual_seed(0)
    last = SimCLR(TINY, views=SIZE, channels_last=True)
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


class TestSDCLR:
    def method(self):
        torch.manual_seed(1)
        return SDCLR(TINY, views=SIZE, prune_fraction=0.5)

    def test_one_backward_equals_the_released_two_step_gradient(self):
        method = self.method().double()
        views = torch.rand(2, 8, 3, SIZE, SIZE, dtype=torch.float64)
        loss = NTXentLoss(0.2)
        loss(method.project(views)).backward()
        ours = {name: p.grad.clone() for name, p in method.named_parameters()}
        method.zero_grad()
        dense, damaged = method.project(views)
        loss(torch.stack([dense, damaged.detach()])).backward()
        dense, damaged = method.project(views)
        loss(torch.stack([dense.detach(), damaged])).backward()
        for name, parameter in method.named_parameters():
            torch.testing.assert_close(ours[name], parameter.grad, msg=name)

    def test_pruned_weights_get_their_gradient_from_the_dense_branch_alone(self):
        method = self.method()
        views = torch.rand(2, 8, 3, SIZE, SIZE)
        _, damaged = method.project(views)
        damaged.square().sum().backward()
        for name, weight in convolution_weights(method.encoder).items():
            assert not weight.grad[~method.masks.get(name)].any()

    def test_branches_have_norms_of_their_own(self):
        method = self.method()
        views = torch.rand(2, 8, 3, SIZE, SIZE)
        method.project(views)
        own = method.encoder_norms.get("bn1.running_mean")
        assert not torch.equal(own, method.encoder.bn1.running_mean)
        assert int(method.encoder.bn1.num_batches_tracked) == 1
        assert int(method.encoder_norms.get("bn1.num_batches_tracked")) == 1
        assert method.encoder_norms.get("bn1.weight").requires_grad

    def test_fraction_zero_and_equal_views_give_equal_branches(self):
        method = SDCLR(TINY, views=SIZE, prune_fraction=0.0)
        view = torch.rand(8, 3, SIZE, SIZE)
        dense, damaged = method.project(torch.stack([view, view]))
        torch.testing.assert_close(dense, damaged)

    def test_pruning_again_follows_the_weights(self):
        method = self.method()
        first = method.masks.get("conv1.weight").clone()
        with torch.no_grad():
            method.encoder.conv1.weight.mul_(1e-6)
        method.prune()
        assert not method.masks.get("conv1.weight").any()
        assert first.any()

    def test_encoder_keeps_the_names_of_its_tensors(self):
        plain = SimCLR(TINY, views=SIZE).encoder.state_dict()
        assert list(self.method().encoder.state_dict()) == list(plain)


def steering_scores(scores):
    """Scores that steered the views, one row an epoch, and the tracker's at its start."""
    steered, held = [], []

    class Spy(ContrastiveViews):
        def forward(self, images, scores=None, ids=None, epoch=0):
            steered.append((epoch, ids.clone(), scores.clone()))
            held.append(method.tracker.scores.clone())
            return super().forward(images, scores=scores, ids=ids, epoch=epoch)

    torch.manual_seed(0)
    views = Spy(SIZE, boost=BoostedRandAugment())
    method = BCL(TINY, views=views, memory=MemorySettings(scores=scores))
    train(method, epochs=3)
    rows = [torch.full((24,), torch.nan) for _ in range(3)]
    for epoch, ids, scores in steered:
        rows[epoch][ids] = scores
    return rows, held[::3]


def test_controls_take_the_memory_out_of_the_scores():
    own, held = steering_scores("own")
    assert torch.equal(own[2], held[2])
    mean, held = steering_scores("mean")
    assert torch.allclose(mean[2], held[2].mean().expand(24))
    assert 0 < held[2].mean() < 1
    shuffled, held = steering_scores("shuffled")
    for epoch in (1, 2):
        # The same strengths, each given to another sample (or, by chance, to a few of its own).
        assert torch.equal(shuffled[epoch].sort().values, held[epoch].sort().values)
        assert not torch.equal(shuffled[epoch], held[epoch])
    places = [torch.argsort(torch.argsort(row)) for row in (*shuffled[1:], *held[1:])]
    assert not torch.equal(places[0], places[1])
    with pytest.raises(InputError, match="did you mean 'shuffled'"):
        MemorySettings(scores="shuffle")


def test_tracker_can_watch_another_loss_which_does_not_train():
    from cacr import CACRLoss

    torch.manual_seed(0)
    other = CACRLoss(reduction="none")
    method = SimCLR(TINY, views=SIZE, memory=MemorySettings(loss=other))
    plain = SimCLR(TINY, views=SIZE)
    plain.load_state_dict(method.state_dict())
    views = torch.rand(2, 4, 3, SIZE, SIZE)
    (losses, watched), (expected, same) = method.sample_losses(views), plain.sample_losses(views)
    assert torch.equal(losses, expected)
    assert torch.equal(same, expected.detach())
    assert not watched.requires_grad
    torch.testing.assert_close(watched, other(method.project(views)).detach())
    losses.sum().backward()
    expected.sum().backward()
    for a, b in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)

    trained = SimCLR(TINY, views=SIZE, memory=MemorySettings(loss=other))
    train(trained, epochs=1)
    # NT-Xent is never below 0; attraction minus repulsion is for some of them.
    assert trained.tracker.momentum_loss.min() < 0
    assert trained.trainer.callback_metrics["loss"] > 1
    with pytest.raises(InputError, match="reduction='mean'"):
        SimCLR("resnet8", memory=MemorySettings(loss=CACRLoss()))
