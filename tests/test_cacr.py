import json

import numpy as np
import pytest
import torch

from cacr import CACRLoss, cacr_terms

WEIGHTS = {
    "full": ("conditional", "conditional"),
    "without_w1": ("uniform", "conditional"),
    "without_w2": ("conditional", "uniform"),
    "none": ("uniform", "uniform"),
}
CASES = [
    "k1", "k4", "k4_cifar10", "k4_weighted", "k4_no_attraction_weights",
    "k4_no_repulsion_weights", "k4_uniform", "k1_debiased", "k4_batch128", "rbf_k1", "rbf_k4",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_golden_terms_and_gradients(golden, name):
    data = np.load(golden / "cacr.npz")
    case = json.loads((golden / "cacr_cases.json").read_text())[name]
    views = torch.from_numpy(data[f"{name}_views"]).requires_grad_()
    attraction, repulsion = WEIGHTS[case.get("choice", "full")]
    debias = 0.1 if case.get("deb") else 0.0
    terms = cacr_terms(
        views,
        attraction_temperature=case["tau_pos"],
        repulsion_temperature=case["tau_neg"],
        cost=case["cost"],
        rbf_scale=case.get("t", 2.0),
        attraction=attraction,
        repulsion=repulsion,
        debias=debias,
        normalize=False,
    )
    pull, push = case["alpha"] * terms.attraction, case["beta"] * terms.repulsion
    if debias:  # the released code has the opposite sign on the positive distance
        positive = (views[0] - views[1]).square().sum(-1).mean()
        push = push - 2 * debias / (1 - debias) * positive
    assert pull.item() == pytest.approx(float(data[f"{name}_attraction"]), rel=1e-12)
    assert push.item() == pytest.approx(float(data[f"{name}_repulsion"]), rel=1e-12)
    (pull + push).backward()
    np.testing.assert_allclose(views.grad, data[f"{name}_grad"], rtol=0, atol=1e-14)


def test_golden_queue_terms(golden):
    data = {
        key: torch.from_numpy(value) for key, value in np.load(golden / "cacr_queue.npz").items()
    }
    terms = cacr_terms(data["queries"], data["queue"], keys=data["keys"])
    torch.testing.assert_close(terms.attraction, data["attraction"], rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.repulsion, data["repulsion"], rtol=1e-12, atol=0)


def test_the_module_is_the_weighted_sum_of_the_terms():
    views = torch.randn(3, 6, 4)
    terms = cacr_terms(views)
    loss = CACRLoss(attraction_weight=2.0, repulsion_weight=0.5)(views)
    torch.testing.assert_close(loss, 2 * terms.attraction + 0.5 * terms.repulsion)
