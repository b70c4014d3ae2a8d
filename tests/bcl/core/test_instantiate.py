import pytest

from bcl import InputError
from bcl.core.instantiate import instantiate


def test_instantiate_builds_nested_objects():
    built = instantiate(
        {
            "a": [
                {
                    "class_path": "torch.nn.Linear",
                    "init_args": {"in_features": 2, "out_features": 3},
                }
            ]
        }
    )
    assert built["a"][0].weight.shape == (3, 2)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.system", "not in the trusted packages"),
        ("bclx.Evil", "not in the trusted packages"),
        ("bcl.Nothing", "cannot be imported"),
        ("bcl.nothing.Nothing", "cannot be imported"),
        ("bcl.core.files.write_text", "not a class"),
        (7, "not in the trusted packages"),
        ("bcl.cli.__main__.X", "not in the trusted packages"),  # importing it would run it
        ("bcl.training.checkpoints.Path", "can name only"),  # imported there
        ("bcl.training.loggers.WandbLogger", "can name only"),
        ("bcl.training.RunRecorder", "can name only"),
        ("bcl.evaluation.features.FeatureCache", "can name only"),
    ],
)
def test_instantiate_refuses(path, message):
    with pytest.raises(InputError) as error:
        instantiate({"class_path": path})
    assert message in str(error.value)


def test_instantiate_names_a_wrong_argument():
    with pytest.raises(InputError, match="widht"):
        instantiate({"class_path": "bcl.Projector", "init_args": {"widht": 3}})


def test_arguments_must_be_a_mapping():
    with pytest.raises(InputError, match="mapping"):
        instantiate({"class_path": "bcl.Projector", "init_args": "abc"})


def test_trust_is_by_package():
    spec = {"class_path": "collections.Counter", "init_args": {"a": 2}}
    with pytest.raises(InputError, match="trust"):
        instantiate(spec)
    assert instantiate(spec, trusted=("collections",)) == {"a": 2}
