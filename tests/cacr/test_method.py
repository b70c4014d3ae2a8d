import copy

import pytest
import pytorch_lightning as pl
import torch
from small_runs import SIZE, TINY, Images, fit

from bcl import BoostedRandAugment, ContrastiveViews, InputError
from bcl.methods import MemorySettings, OptimizerSettings
from cacr import CACR, CACRLoss, MomentumQueue
from cacr.method import TeacherSettings


def make(form, momentum=0.999, **settings):
    torch.manual_seed(0)
    teacher = TeacherSettings(momentum, queue_size=20, predictor_features=32)
    optimizer = OptimizerSettings(learning_rate=0.05)
    settings = {"views": SIZE, "optimizer": optimizer, **settings}
    return CACR(TINY, form=form, teacher=teacher, **settings)


def train(method, *callbacks, epochs=2, **settings):
    return fit(method, *callbacks, data=Images(), max_epochs=epochs, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["batch", "moco", "moco-v3"])
def test_each_form_trains_and_fills_the_tracker(form):
    method = make(form)
    before = copy.deepcopy(method.encoder.state_dict())
    train(method)
    after = method.encoder.state_dict()
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert method.tracker.seen.all()


def test_boosted_cacr_is_fed_the_scores():
    views = ContrastiveViews(SIZE, num_views=3, boost=BoostedRandAugment())
    method = make("batch", views=views)
    train(method)
    assert method.tracker.scores.any()


def test_batch_form_is_the_loss_of_the_projections():
    method = make("batch").eval()
    views = torch.rand(5, 8, 3, SIZE, SIZE)
    expected = CACRLoss.paper("cifar10", reduction="none")(method.project(views))
    losses, watched = method.sample_losses(views)
    torch.testing.assert_close(losses, expected)
    assert torch.equal(losses.detach(), watched["loss"])


def test_queue_takes_the_keys_of_the_last_view_which_are_no_negatives_of_the_step():
    method = make("moco")
    views = torch.rand(3, 8, 3, SIZE, SIZE)
    keys = method.keys(views)
    negatives = method.queue.keys.clone()
    losses, _ = method.sample_losses(views)
    torch.testing.assert_close(losses, method.loss(method.project(views), negatives, keys))
    losses.mean().backward()
    expected = MomentumQueue(20, 128)
    expected.enqueue(keys[-1])
    torch.testing.assert_close(method.queue.keys, expected.keys)
    method.eval().sample_losses(views)
    torch.testing.assert_close(method.queue.keys, expected.keys)


def test_teacher_is_the_exponential_mean_of_the_student_by_the_step():
    method = make("moco", momentum=0.9)
    students = [method.encoder.conv1.weight.detach().clone()]

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, method, *_):
            students.append(method.encoder.conv1.weight.detach().clone())

    train(method, Watch(), epochs=1)
    expected = students[0]
    for weight in students[1:]:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(method.teacher[0].conv1.weight, expected)


def test_accumulated_batches_move_the_teacher_once_a_step():
    method = make("moco", momentum=0.5)
    first = method.teacher[0].conv1.weight.clone()
    train(method, epochs=1, accumulate_grad_batches=3)
    expected = (first + method.encoder.conv1.weight) / 2
    torch.testing.assert_close(method.teacher[0].conv1.weight, expected)


def test_teacher_takes_no_gradient_and_is_not_optimized():
    method = make("moco-v3")
    trainer = train(method, epochs=1)
    taught = {id(p) for p in method.teacher.parameters()}
    groups = trainer.optimizers[0].param_groups
    assert not taught & {id(p) for group in groups for p in group["params"]}
    assert all(p.grad is None for p in method.teacher.parameters())


def test_local_views_are_queries_alone():
    views = ContrastiveViews(SIZE, num_views=2, num_local=3, local_size=8)
    method = make("moco-v3", views=views)
    made = method.views(torch.rand(8, 3, SIZE, SIZE), ids=torch.arange(8))
    assert method.keys(torch.stack(made[:2])).shape == (2, 8, 128)
    assert method.project(made).shape == (5, 8, 128)
    assert method.sample_losses(made).losses.shape == (8,)


@pytest.mark.slow
def test_boosted_views_of_two_sizes_train():
    boost = BoostedRandAugment("bcl-d")
    views = ContrastiveViews(SIZE, num_local=2, local_size=8, boost=boost)
    method = make("moco-v3", views=views)
    train(method, epochs=2)
    assert method.tracker.seen.all()
    assert int(method.tracker.epoch) == 2
    assert method.tracker.scores.max() <= 1


@pytest.mark.parametrize(
    ("make_it", "told"),
    [
        (lambda: make("moko"), "did you mean 'moco'?"),
        (lambda: make("moco", momentum=1.5), "momentum"),
        (lambda: make("batch", loss=CACRLoss()), "reduction='none'"),
        (lambda: TeacherSettings(queue_size=0), "queue_size"),
        (
            lambda: make("batch", views=ContrastiveViews(SIZE, num_local=1, local_size=8)),
            "moco-v3",
        ),
    ],
)
def test_bad_arguments(make_it, told):
    with pytest.raises(InputError) as error:
        make_it()
    assert told in str(error.value)


@pytest.mark.parametrize("views", [16, ContrastiveViews(16, num_views=2)])
def test_keys_of_a_momentum_encoder_are_no_batch_to_take_signals_from(views):
    with pytest.raises(InputError, match="memory cannot record isolation; record the loss"):
        CACR("resnet8", views=views, form="moco", memory=MemorySettings(watch=("isolation",)))
