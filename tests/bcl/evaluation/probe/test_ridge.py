"""Ridge regression against scikit-learn."""

import torch
from blobs import blobs
from sklearn.linear_model import Ridge

from bcl import fit_linear_probe


def test_ridge_equals_scikit_learn():
    features = (*blobs(400), *blobs(200, seed=1))
    x, y, test_x, _ = features
    result = fit_linear_probe(*features, solver="ridge", l2=0.1)
    mean, std = x.mean(0), x.std(0, correction=0)
    peer = Ridge(alpha=0.1 * len(x)).fit(
        ((x - mean) / std).numpy(), torch.nn.functional.one_hot(y).numpy()
    )
    theirs = torch.as_tensor(peer.predict(((test_x - mean) / std).numpy()))
    ours = test_x @ result.weight + result.bias
    assert torch.allclose(ours.double(), theirs.double(), atol=1e-4)
