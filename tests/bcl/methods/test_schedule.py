import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcl import InputError
from bcl.methods.schedule import ScheduleSettings, warmup_cosine


@pytest.mark.slow
def test_golden_schedule(golden):
    values = np.load(golden / "lr_schedule.npz")
    steps = int(values["steps_per_epoch"])
    total, warmup = int(values["epochs"]) * steps, int(values["warmup_epochs"]) * steps
    ours = [
        warmup_cosine(
            step,
            base=float(values["base_lr"]),
            total=total,
            warmup=warmup,
            minimum=float(values["min_lr"]),
        )
        for step in range(total)
    ]
    np.testing.assert_allclose(ours, values["lr"], rtol=1e-12, atol=1e-15)


def test_known_points():
    # Literals of the released schedule: 10 warm-up epochs of 20 steps, cosine over 390 epochs.
    def rate(step):
        return warmup_cosine(step, base=0.5, total=8000, warmup=200, minimum=1e-6)

    assert rate(0) == 0
    assert rate(1) == pytest.approx(0.0025)
    assert rate(200) == pytest.approx(0.5)
    assert rate(4100) == pytest.approx((0.5 + 1e-6) / 2)
    assert rate(7999) == pytest.approx(1.02027775e-06, rel=1e-6)
    assert rate(9000) == 1e-6


@given(
    total=st.integers(2, 500),
    share=st.floats(0, 0.9),
    base=st.floats(1e-4, 10),
    low=st.floats(0, 1),
)
def test_rises_then_falls_between_its_bounds(total, share, base, low):
    warmup = int(share * total)
    minimum = low * base
    rates = [
        warmup_cosine(t, base=base, total=total, warmup=warmup, minimum=minimum)
        for t in range(total + 1)
    ]
    rise, fall = rates[: warmup + 1], rates[warmup:]
    assert all(a <= b for a, b in itertools.pairwise(rise))
    assert all(a >= b or math.isclose(a, b) for a, b in itertools.pairwise(fall))
    assert max(rates) == pytest.approx(base)
    assert rates[-1] == pytest.approx(minimum)


def test_a_restart_joins_two_cosines():
    settings = ScheduleSettings(warmup_epochs=1, restart=0.5, restart_learning_rate=0.3)
    rates = [0.5 * settings.factor(s, total=40, epochs=10, base=0.5) for s in range(40)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[19] == pytest.approx(0.3)  # the last step of the first
    assert rates[29] == pytest.approx((0.3 + 1e-6) / 2)
    assert rates[-1] == pytest.approx(1e-6)
    whole = ScheduleSettings(warmup_epochs=1, restart=5, restart_learning_rate=0.3)
    assert [0.5 * whole.factor(s, total=40, epochs=10, base=0.5) for s in range(40)] == rates
    with pytest.raises(InputError, match="restart"):
        ScheduleSettings(restart=5, milestones=(3,))
    with pytest.raises(InputError, match="restart=500 lies beyond the 10 epochs of the run"):
        ScheduleSettings(restart=500).factor(0, total=40, epochs=10, base=0.5)
