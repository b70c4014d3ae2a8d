import pytest
import yaml

from bcl import InputError
from bcl.cli.configuration import compose, config_names, find_config, merge, parts


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(config_names()))
def test_every_named_configuration_composes(name):
    config = compose(name)
    assert set(config) == {"seed_everything", "model", "data", "trainer"}


def test_every_part_has_a_line_about_it():
    for folder in ("recipes", "methods"):
        assert all(0 < len(about) < 90 for about in parts(folder).values())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("digits_lt/bcl-i", "digits_lt/bcl_i"),
        ("Digits_LT/BCL_I", "digits_lt/bcl_i"),
        ("digits_lt", "digits_lt/bcl_i"),
        ("sdclr", "digits_lt/sdclr"),
        ("images/simlcr", "images/simclr"),
        ("cifar-100-lt/simclr", "cifar100_lt/simclr"),
    ],
)
def test_the_nearest_name_is_told(name, near):
    with pytest.raises(InputError, match=f"did you mean '{near}'"):
        compose(name)


def test_recipe_wins_over_method_and_method_over_recipe_for_itself():
    assert merge({"a": 1, "b": {"c": 1}}, {"b": {"d": 2}}, {"a": 3}) == {
        "a": 3,
        "b": {"c": 1, "d": 2},
    }


def test_merge_leaves_its_arguments_alone():
    first = {"a": {"b": 1}}
    merge(first, {"a": {"b": 2}})
    assert first == {"a": {"b": 1}}


def test_another_class_brings_its_own_arguments():
    loss = {"loss": {"class_path": "a.A", "init_args": {"x": 1}}}
    assert merge(loss, {"loss": {"class_path": "b.B"}}) == {"loss": {"class_path": "b.B"}}
    assert merge(loss, {"loss": {"init_args": {"y": 2}}})["loss"]["init_args"] == {"x": 1, "y": 2}


def test_boosted_and_plain_differ_by_the_boost_alone():
    plain, boosted = compose("digits_lt/simclr"), compose("digits_lt/bcl_i")
    assert boosted["model"]["init_args"]["views"]["init_args"].pop("boost")
    boosted["model"]["class_path"] = plain["model"]["class_path"]
    assert boosted == plain


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("digits_lt/bcl_j", "did you mean 'digits_lt/bcl_i'?"),
        ("digit_lt/simclr", "did you mean 'digits_lt/simclr'?"),
        ("nowhere.yaml", "no configuration file nowhere.yaml"),
    ],
)
def test_unknown_name(name, told):
    with pytest.raises(InputError, match="configuration") as error:
        find_config(name)
    assert told in str(error.value)


def test_a_path_works(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(compose("digits_lt/simclr")))
    assert find_config(str(path)) == compose("digits_lt/simclr")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: [1,\ndata: {", "mine.yaml, line 2"),
        ("- a\n- b\n", "holds no mapping"),
        ("\x00", "mine.yaml"),
        ("extends: digits_lt/simclr\n", "--config digits_lt/simclr --config "),
    ],
)
def test_broken_file_names_its_line(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="mine") as error:
        find_config(str(path))
    assert told in str(error.value)
    assert "\n" not in str(error.value)
