import pytest

from bcl import InputError, Projector


def test_projector_has_the_layers_of_the_papers():
    head = Projector(512, 128)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert head[3].bias is None
    assert Projector(8, 4, num_layers=1, batch_norm=False)[0].bias is not None


def test_a_projector_has_a_layer():
    with pytest.raises(InputError, match="num_layers"):
        Projector(8, num_layers=0)
