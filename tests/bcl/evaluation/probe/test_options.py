"""Settings out of their range, and the papers' settings."""

import pytest

from bcl.core.errors import InputError
from bcl.evaluation.probe.options import ProbeOptions, gradient_settings


def settings(solver, **options):
    return gradient_settings(ProbeOptions(solver, **options))


def test_published_settings():
    # BCL and GH: 1e-2 to 1e-6 over 500 epochs, batch 1,000, weight decay 5e-6.
    adam = settings("adam")
    assert (adam.epochs, adam.batch_size, adam.weight_decay) == (500, 1000, 5e-6)
    assert adam.rate(1e-2, 0) == 1e-2
    assert adam.rate(1e-2, 500) == pytest.approx(1e-6)
    # SDCLR: 30, a tenth at 10 and 20 of 30; few-shot at 40 and 60 of 100.
    sgd = settings("sgd")
    assert [sgd.rate(30, epoch) for epoch in (9, 10, 20)] == pytest.approx([30, 3, 0.3])
    few = settings("sgd", few_shot=True)
    assert (few.epochs, few.milestones, few.weight_decay) == (100, (40, 60), 0)
    # CACR: Adam 1e-3, betas 0.5 and 0.999, a fifth at 60 and 80 of 100, batch 128.
    cacr = settings("cacr")
    assert (cacr.betas, cacr.epochs, cacr.batch_size) == ((0.5, 0.999), 100, 128)
    assert cacr.rate(1e-3, 80) == pytest.approx(4e-5)
    assert cacr.selection == "last"


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_validation_share_leaves_images_to_fit(share):
    with pytest.raises(InputError, match="validation_share"):
        ProbeOptions(validation_share=share)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lbgfs"}, "did you mean 'lbfgs'"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1.0}, "positive"),
        ({"l2": float("nan")}, "positive"),
        ({"l2": []}, "positive"),
        ({"selection": "best"}, "did you mean 'best_test'"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": 1.0}, "tolerance"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        ProbeOptions(**options)
