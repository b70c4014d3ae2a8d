"""Protocols by name, and the papers' sets of them."""

import pytest

from bcl.core.errors import InputError
from bcl.evaluation.protocols import parse_protocols


def test_suites_of_the_papers():
    names = ["full+crops:sgd", "1%+crops:sgd", "balanced-lt+crops:sgd", "full:cacr"]
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
    (fresh, *_) = parse_protocols("rwsam")
    assert (fresh.solver, fresh.fresh, fresh.cropped, fresh.source) == (
        "moco",
        True,
        False,
        "probe",
    )
    assert "a new random crop and flip of each in every epoch" in fresh.description
    (neighbors, few, _) = parse_protocols("ts")
    assert neighbors.results == ("long-tailed-knn@1", "long-tailed-knn@10")
    assert (few.shots, few.results) == (0, ("balanced-lt:svc",))
    assert parse_protocols("ts-imagenet100")[1].shots == 0.01
    assert parse_protocols("dystress") == parse_protocols("ts")[:1]


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
        ("full+crops", "'lbfgs' has none; take full\\+crops:adam"),
        ("1%+crops:svc", "'svc' has none"),
        ("full+cropss:sgd", "unknown protocol"),
        ("knn+crops", "unknown protocol"),
        ("", "unknown protocol"),
    ],
)
def test_unknown_protocols(name, message):
    with pytest.raises(InputError, match=message):
        parse_protocols(name)
