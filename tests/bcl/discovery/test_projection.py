import pytest
import torch

from bcl.core.errors import InputError
from bcl.discovery.projection import project


def groups():
    generator = torch.Generator().manual_seed(0)
    centers = torch.eye(4)[:3].repeat_interleave(20, 0)
    return centers + 0.02 * torch.randn(60, 4, generator=generator)


def test_pca_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA

    x = torch.nn.functional.normalize(groups(), dim=1)
    wanted = torch.from_numpy(PCA(2).fit_transform(x.numpy()))
    found = project(x, "pca")
    assert found.min() == 0
    assert found.max() == 1
    for axis in range(2):
        pair = torch.stack([wanted[:, axis].double(), found[:, axis].double()])
        assert abs(torch.corrcoef(pair)[0, 1]) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("landmarks", [60, 30])
def test_neighbors_on_the_map_are_of_the_same_group(landmarks):
    found = project(groups(), "tsne", landmarks=landmarks)
    apart = torch.cdist(found, found).fill_diagonal_(torch.inf)
    assert torch.equal(apart.argmin(1) // 20, torch.arange(60) // 20)
    assert torch.equal(found, project(groups(), "tsne", landmarks=landmarks))


def test_tiny_collections_and_unknown_maps():
    assert project(torch.eye(2)).shape == (2, 2)
    assert project(torch.ones(5, 1), "pca").isfinite().all()
    with pytest.raises(InputError, match="tsne"):
        project(torch.eye(3), "tnse")
