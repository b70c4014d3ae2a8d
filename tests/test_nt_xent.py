import numpy as np
import pytest
import torch

from bcl import NTXentLoss, nt_xent


@pytest.mark.parametrize("case", "abcd")
def test_golden_losses_and_gradients(golden, case):
    data = np.load(golden / "nt_xent.npz")
    z1, z2 = (torch.from_numpy(data[f"{case}_z{i}"]).requires_grad_() for i in (1, 2))
    losses = nt_xent(z1, z2, float(data[f"{case}_temperature"]), reduction="none")
    np.testing.assert_allclose(losses.detach(), data[f"{case}_loss_per_sample"], rtol=1e-12)
    losses.mean().backward()
    for i, z in ((1, z1), (2, z2)):
        np.testing.assert_allclose(z.grad, data[f"{case}_grad_z{i}_of_mean"], rtol=0, atol=1e-15)


def test_the_module_is_the_function():
    views = torch.randn(2, 6, 4)
    assert NTXentLoss(0.3)(views).equal(nt_xent(views[0], views[1], 0.3))
