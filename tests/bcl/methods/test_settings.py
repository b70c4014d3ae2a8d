"""The memory's settings: controls, and a loss of its own."""

import pytest
import torch
from small_runs import SIZE, TINY, train

from bcl import (
    BCL,
    BoostedRandAugment,
    ContrastiveViews,
    InputError,
    SimCLR,
)
from bcl.methods import EncoderSettings, MemorySettings


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


@pytest.mark.slow
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
    assert torch.equal(same["loss"], expected.detach())
    assert not watched["loss"].requires_grad
    torch.testing.assert_close(watched["loss"], other(method.project(views)).detach())
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


def test_a_compiled_encoder_is_compiled_for_training_alone(monkeypatch):
    """With a backend that counts what it compiles; features outside training are the same."""
    compiled = []

    def count(graph, _):
        compiled.append(graph)
        return graph.forward

    through = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run: through(run, backend=count))
    torch.manual_seed(0)
    method = SimCLR(EncoderSettings("resnet8", {"width": 4}, compile=True), views=SIZE)
    plain = SimCLR(EncoderSettings("resnet8", {"width": 4}), views=SIZE)
    plain.load_state_dict(method.state_dict())  # under the same names

    views = torch.rand(2, 4, 3, SIZE, SIZE)
    assert torch.equal(method.sample_losses(views).losses, plain.sample_losses(views).losses)
    assert compiled
    if hasattr(torch.compiler, "set_stance"):
        first = len(compiled)
        for batch in (3, 5):
            images = torch.rand(batch, 3, SIZE, SIZE)
            assert torch.equal(method.encode(images), plain.encode(images))
        assert len(compiled) == first


def test_an_encoder_cannot_be_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        InputError, match=r"no-such-compiler; install it, name another in the variable CXX"
    ):
        EncoderSettings("resnet8", compile=True).build(image_size=16)
