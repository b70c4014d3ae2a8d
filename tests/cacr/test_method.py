import copy

import pytest
import pytorch_lightning as pl
import torch
from small_runs import SIZE, Images, fit

from bcl import BoostedRandAugment, ContrastiveViews, InputError
from cacr import CACR, CACRLoss, MomentumQueue


def make(form, **settings):
    torch.manual_seed(0)
    small = {"queue_size": 20, "predictor_features": 32, "learning_rate": 0.05}
    return CACR("resnet8", SIZE, {"width": 4}, form=form, **{**small, **settings})


def train(method, *callbacks, epochs=2, **settings):
    return fit(method, *callbacks, data=Images(), max_epochs=epochs, **settings)


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
    torch.testing.assert_close(method.sample_losses(views), expected)


def test_queue_takes_the_keys_of_the_last_view_after_the_backward():
    method = make("moco")
    views = torch.rand(3, 8, 3, SIZE, SIZE)
    keys = method._keys(views)
    old = method.queue.keys.clone()
    method.sample_losses(views).mean().backward()
    assert torch.equal(method.queue.keys, old)
    method.on_after_backward()
    expected = MomentumQueue(20, 128)
    expected.enqueue(keys[-1])
    torch.testing.assert_close(method.queue.keys, expected.keys)


def test_teacher_is_the_exponential_mean_of_the_student_by_the_step():
    method = make("moco", teacher_momentum=0.9)
    students = [method.encoder.conv1.weight.detach().clone()]

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, method, *_):
            students.append(method.encoder.conv1.weight.detach().clone())

    train(method, Watch(), epochs=1)
    expected = students[0]
    for weight in students[1:-1]:  # the last step's student is taken at the next step
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(method.teacher[0].conv1.weight, expected)


def test_accumulated_batches_move_the_teacher_once_a_step():
    method = make("moco", teacher_momentum=0.5)
    first = method.teacher[0].conv1.weight.clone()
    train(method, epochs=1, accumulate_grad_batches=3)  # one step, after the last forward
    assert torch.equal(method.teacher[0].conv1.weight, first)


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
    assert method._keys(torch.stack(made[:2])).shape == (2, 8, 128)
    assert method.project(made).shape == (5, 8, 128)
    assert method.sample_losses(made).shape == (8,)


def test_boosted_views_of_two_sizes_train():
    boost = BoostedRandAugment(rule="bcl-d")
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
        (lambda: make("moco", teacher_momentum=1.5), "teacher_momentum"),
        (lambda: make("batch", loss=CACRLoss()), "reduction='none'"),
        (lambda: make("moco", queue_size=0), "size"),
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
