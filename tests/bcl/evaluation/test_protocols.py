"""Protocols by name, and the papers' sets of them."""

import pytest

from bcl.core.errors import InputError
from bcl.evaluation.protocols import parse_protocols


def test_suites_of_the_papers():
    names = ["full:sgd", "1%:sgd", "balanced-lt:sgd", "full:cacr"]
    assert [p.name for p in parse_protocols("sdclr,cacr")] == names
    assert parse_protocols("colt") == parse_protocols("sdclr")
    assert parse_protocols("mak") == parse_protocols("sdclr")[:2]  # ImageNet-100 alone
    gh = parse_protocols("gh")
    assert [p.cropped for p in gh] == [True, True, False]
    assert [p.solver for p in gh] == ["adam", "adam", "euclidean"]
    assert gh[0].source == "probe+crop"
    assert "one random crop and flip" in gh[0].description
    assert gh[2].neighbors == (5,)
    assert [p.draws for p in parse_protocols("bcl")] == [1, 5, 5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ful", "did you mean 'full'"),
        ("full:lbgfs", "unknown solver 'lbgfs'; did you mean 'lbfgs'"),
        ("0-shot", "unknown protocol"),
        ("150%", "unknown protocol"),
        ("knn:adam", "unknown protocol"),
        ("knn@0", "unknown protocol"),
        ("knn@", "unknown protocol"),
        ("knn+crop", "unknown protocol"),
        ("full+crp", "did you mean 'full'"),
        ("finetune+crop", "unknown protocol"),
        ("", "unknown protocol"),
    ],
)
def test_unknown_protocols(name, message):
    with pytest.raises(InputError, match=message):
        parse_protocols(name)
