"""Temperatures by the epoch and by the pair, and NT-Xent under them."""

import functools
import math

import pytest
import torch
from small_runs import SIZE, TINY, train
from tensors import check_features, pair

from bcl import CosineSchedule, InputError, NTXentLoss, SimCLR, SimilarityTemperature, nt_xent
from bcl.losses.signals import nt_xent_with_signals

CHUNKS = [0, 1, 5, None]  # dense, one row, blocks that do not divide the rows, kept


def test_schedule_has_the_check_values():
    schedule = CosineSchedule(0.1, 1, 400)
    known = {0: 1.0, 1: 0.999944, 50: 0.868198, 100: 0.55, 150: 0.231802, 200: 0.1, 300: 0.55}
    known |= {400: 1.0, 1999: 0.999944}
    for epoch, temperature in known.items():
        assert schedule(epoch) == pytest.approx(temperature, abs=5e-7)
        assert CosineSchedule(0.1, 1, 0.2)(epoch, 2000) == schedule(epoch)


class Sharp(SimilarityTemperature):
    """Lower than its ``low``, in a precision of its own."""

    def forward(self, cosine):
        return torch.full_like(cosine, 0.005, dtype=torch.float64)


def test_a_subclass_may_be_lower_and_of_another_precision():
    z1, z2 = (z.float() for z in pair())
    found = nt_xent(z1, z2, Sharp(0.1, 0.2))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, nt_xent(z1, z2, 0.005))


def test_similarity_takes_what_a_tensor_is_made_of():
    known = SimilarityTemperature(0.1, 0.2)
    assert known([0.0, 1.0]).tolist() == pytest.approx([0.1, 0.2])
    assert float(known(0.5)) == pytest.approx(0.15)


def test_similarity_has_the_check_values():
    cosines = torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=torch.float64)
    for low, high, known in [
        (0.1, 0.2, [0.2, 0.15, 0.1, 0.15, 0.2]),
        (0.07, 0.2, [0.2, 0.135, 0.07, 0.135, 0.2]),
    ]:
        found = SimilarityTemperature(low, high)(cosines)
        torch.testing.assert_close(found, cosines.new_tensor(known), rtol=0, atol=1e-12)
    cosines = torch.tensor([-1, -0.3, 0, 0.4, 1], dtype=torch.float64)
    found = SimilarityTemperature(0.1, 0.2, offset=0.4, width=0.7)(cosines)
    known = cosines.new_tensor([0.2, 0.1, 0.138874, 0.2, 0.2])
    torch.testing.assert_close(found, known, rtol=0, atol=5e-7)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_losses_have_the_check_values(chunk_size):
    options = {"reduction": "none", "chunk_size": chunk_size}
    losses = nt_xent(*check_features(), SimilarityTemperature(0.07, 0.2), **options)
    known = losses.new_tensor([1.158819, 1.236727, 1.176783, 1.211226])
    torch.testing.assert_close(losses, known, rtol=0, atol=6e-7)
    several = torch.tensor([0.1, 0.2, 0.5, 1.0]).double()
    losses = nt_xent(*check_features(), several, **options)
    known = losses.new_tensor([1.275024, 1.270401, 1.162706, 1.356972])
    torch.testing.assert_close(losses, known, rtol=0, atol=6e-7)


def by_loops(z1, z2, temperature):
    """Per-sample loss straight from the formula; the temperature has no gradient."""
    views = [torch.nn.functional.normalize(z, dim=1) for z in (z1, z2)]

    def logit(a, b):
        return a @ b / temperature((a @ b).detach())

    losses = []
    for i in range(len(z1)):
        total = 0
        for v in (0, 1):
            own = views[v][i]
            similar = logit(own, views[1 - v][i])
            negatives = [logit(own, views[w][j]) for j in range(len(z1)) if j != i for w in (0, 1)]
            total = total + torch.stack([similar, *negatives]).logsumexp(0) - similar
        losses.append(total / 2)
    return torch.stack(losses)


FUNCTIONS = {
    "DySTreSS": SimilarityTemperature(0.07, 0.2),
    "plateau": SimilarityTemperature(0.1, 0.2, offset=0.4),
    "low": SimilarityTemperature(0.01, 0.2),  # by rows
    "any": lambda cosine: 0.3 + 0.1 * cosine,
    "angle": lambda cosine: 0.1 + 0.1 * cosine.acos(),
    "0 at 1": lambda cosine: 0.3 * (1 - cosine),  # which only a row with itself has
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("temperature", FUNCTIONS.values(), ids=FUNCTIONS)
def test_value_and_gradient_match_explicit_loops(temperature, chunk_size, normalize):
    views = [torch.nn.functional.normalize(z, dim=1).requires_grad_() for z in pair()]
    weights = torch.linspace(0.5, 2, 7).double()

    def value_and_grads(losses):
        return losses.detach(), torch.autograd.grad((losses * weights).sum(), views)

    options = {"reduction": "none", "chunk_size": chunk_size, "normalize": normalize}
    found = value_and_grads(nt_xent(*views, temperature, **options))
    expected = value_and_grads(by_loops(*views, temperature))
    if not normalize:  # the loops take unit rows: the part along a row falls away there
        radial = [(g * v).sum(1, keepdim=True) * v for g, v in zip(found[1], views, strict=True)]
        found = found[0], tuple(g - r for g, r in zip(found[1], radial, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [0, 3, None])
def test_one_temperature_for_all_pairs_is_the_constant_one_with_its_derivatives(chunk_size):
    views = [z.requires_grad_() for z in pair(5, 3)]
    constant = SimilarityTemperature(0.3, 0.3)

    def losses(z1, z2):
        return nt_xent(z1, z2, constant, reduction="none", chunk_size=chunk_size)

    torch.testing.assert_close(losses(*views), nt_xent(*views, 0.3, reduction="none"))
    assert torch.autograd.gradcheck(losses, views)
    assert torch.autograd.gradgradcheck(losses, views)


@pytest.mark.parametrize("chunk_size", [0, 1])
def test_a_function_has_no_gradient_not_for_its_own_parameters_either(chunk_size):
    z1, z2 = (z.requires_grad_() for z in pair(5, 4))
    base = torch.tensor(0.1, requires_grad=True)
    nt_xent(z1, z2, lambda cosine: base * (1 + cosine**2), chunk_size=chunk_size).backward()
    assert z1.grad is not None
    assert base.grad is None


def test_transforms_take_the_dense_form():
    z1, z2 = pair()
    temperature = SimilarityTemperature(0.07, 0.2)
    slope = torch.func.grad(lambda z: nt_xent(z, z2, temperature))(z1)
    (expected,) = torch.autograd.grad(nt_xent(z1.requires_grad_(), z2, temperature), z1)
    torch.testing.assert_close(slope, expected)


def test_a_module_follows_its_schedule_and_focal_and_signals_go_along():
    views = torch.stack(pair())
    loss = NTXentLoss(CosineSchedule(0.1, 0.5, 4), focal=2.0, reduction="none")
    expected = nt_xent(*views, 0.3, focal=2.0, reduction="none")
    torch.testing.assert_close(loss(views, epoch=1), expected)
    assert loss(views, 0.3).equal(expected)
    share = NTXentLoss(CosineSchedule(0.1, 0.5, 0.5), focal=2.0, reduction="none")
    torch.testing.assert_close(share(views, epoch=1, epochs=8), expected)
    assert loss.state_dict() == {}
    _, signals = nt_xent_with_signals(loss, views, loss.temperature_at(1), num_neighbors=3)
    torch.testing.assert_close(signals.loss, nt_xent(*views, 0.2, reduction="none"))


@pytest.mark.slow
def test_a_method_passes_the_epoch_and_logs_the_temperature():
    seen = []

    class Spy(NTXentLoss):
        def temperature_at(self, epoch=None, epochs=None):
            seen.append((epoch, epochs))
            return super().temperature_at(epoch, epochs)

    loss = Spy(CosineSchedule(0.1, 1.0, 0.5), reduction="none")
    trainer = train(SimCLR(TINY, views=SIZE, loss=loss), epochs=4)
    assert seen[::3] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert float(trainer.callback_metrics["temperature"]) == pytest.approx(0.1)


WRONG = {
    "zero": (lambda cosine: cosine.clamp(min=0), "above 0 at every cosine, got 0 at"),
    "negative": (lambda cosine: cosine - 2, "above 0 at every cosine, got -"),
    "a number": (lambda _: 0.2, r"of shape \(.*got float of \(\)"),
    "one for all": (lambda _: torch.tensor(0.2), r"of shape \(.*got Tensor of \(\)"),
    "one a row": (lambda cosine: 1 + cosine[..., :1] ** 2, r"of shape \(.*got Tensor of \("),
    "flat": (lambda cosine: 1 + cosine.flatten() ** 2, r"of shape \(.*got Tensor of \("),
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize(("temperature", "message"), WRONG.values(), ids=WRONG)
def test_a_function_that_gives_no_temperatures_is_refused(
    temperature, message, chunk_size, normalize
):
    views = [torch.nn.functional.normalize(z, dim=1) for z in pair()]
    with pytest.raises(InputError, match=message):
        nt_xent(*views, temperature, chunk_size=chunk_size, normalize=normalize)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_a_function_sees_no_cosine_above_1(chunk_size):
    z = torch.nn.functional.normalize(pair(dtype=torch.float32)[0], dim=1)
    z = z * (1 + 1e-6)  # as rounding may leave them
    known = nt_xent(z, z, lambda cosine: 0.1 + 0.1 * cosine.clamp(-1, 1).acos(), normalize=False)
    options = {"normalize": False, "chunk_size": chunk_size}
    found = nt_xent(z, z, lambda cosine: 0.1 + 0.1 * cosine.acos(), **options)
    torch.testing.assert_close(found, known)


def test_what_is_not_finite_passes_a_function_of_the_temperature():
    z1, z2 = pair()
    z1[2] = torch.nan
    assert nt_xent(z1, z2, lambda cosine: 0.3 + 0.1 * cosine).isnan()


@pytest.mark.slow
def test_a_function_compiles_in_one_graph():
    z1, z2 = pair()
    loss = functools.partial(nt_xent, temperature=lambda cosine: 0.3 + 0.1 * cosine)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z1, z2), loss(z1, z2))


BAD = [
    (lambda z: CosineSchedule(0.2, 0.1, 4), "low=0.2 and high=0.1; swap them"),
    (lambda z: CosineSchedule(0.0, 0.1, 4), "low"),
    (lambda z: CosineSchedule("a", 0.1, 4), "got 'a'; give a temperature, such as 0.1"),
    (lambda z: CosineSchedule(0.1, 0.2, 0), "got 0; give epochs, or below 1 a share of the run"),
    (lambda z: CosineSchedule(0.1, 0.2, 0.5)(3), "epochs"),
    (lambda z: CosineSchedule(0.1, 0.2, 4)(math.nan), "epoch must be .* got nan"),
    (lambda z: CosineSchedule(0.1, 0.2, 4)("a"), "epoch must be .* got 'a'"),
    (lambda z: SimilarityTemperature(0.2, 0.1), "low"),
    (lambda z: SimilarityTemperature(0.1, 0.2, offset="a"), "offset must be .* got 'a'"),
    (lambda z: SimilarityTemperature(0.1, 0.2, offset=1.5), "offset"),
    (lambda z: SimilarityTemperature(0.1, 0.2, 0.4, width=0.0), "width"),
    (lambda z: nt_xent(z, z, CosineSchedule(0.1, 0.2, 4)), "epoch"),
    (lambda z: NTXentLoss(CosineSchedule(0.1, 0.2, 4))(torch.stack([z, z])), "epoch"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.eye(4))
