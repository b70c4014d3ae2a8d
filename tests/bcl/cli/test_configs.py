"""Named configurations: listed, built, of the values of the papers."""

import pytest
import torch
from refusals import refused

from bcl import sam_ascent
from bcl.cli import configuration, main
from bcl.cli.configuration import compose, config_names
from bcl.cli.fit import parse
from bcl.core.instantiate import instantiate
from bcl.memorization import MemorizationTracker


def test_configs_lists_and_prints(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines if line.startswith("  ")]
    recipes, methods = map(configuration._names, ("recipes", "methods"))
    assert first == [*recipes, *methods]  # not their product
    assert max(map(len, lines)) <= 100
    assert main(["configs", "digits_lt/bcl_i"]) == 0
    assert "class_path: bcl.BCL" in capsys.readouterr().out
    assert "did you mean" in refused(["configs", "digits/bcl_i"], capsys)


# These share encoder and image size with imagenet_lt, whose steps are taken.
SAME_STEPS = ("imagenet100_lt", "places_lt")


def two_steps(method, size, batch, external=False):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    ids = torch.arange(batch)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    trackers = {name: MemorizationTracker(batch) for name in method.memory.signals}
    for step in range(2):
        scores = torch.linspace(0, 1, batch) if method.views.boost is not None else None
        views = method.views(images, scores=scores, ids=ids, epoch=step)
        known = torch.where(ids % 3 == 2, -1, ids) if external else ids
        losses, watched = method.sample_losses(views, known)
        assert losses.shape == (batch,)
        assert losses.isfinite().all()
        optimizer.zero_grad()
        losses.mean().backward()
        if sharpness := method.optimizer.sharpness:
            with sam_ascent(method.parameters(), sharpness.rho, sharpness.adaptive):
                method.sample_losses(views, known).losses.mean().backward()
        optimizer.step()
        for name, values in watched.items():
            trackers[name].update(ids[known >= 0], values[known >= 0])
            trackers[name].refresh()


SMALL = [name for name in config_names() if not name.startswith(("imagenet", "places"))]
# They differ from others in the loss alone, or in one branch's weights.
SAME_BUT_LOSS = {
    "ts",
    "dystress",
    "dystress_plateau",
    "macl",
    "sogclr",
    "isogclr",
    "gh",
    "bcl_gh",
    "sdclr_gh",
    "sdclr_straight",
    "pruned",
    "rwsam",
    "colt",
    "bcl_colt",
    "mak",
    "random_external",
    "balanced",
    "cacr_gh",
}


def costly(name):
    recipe, method = name.split("/")
    return recipe == "cifar100_lt" or (recipe != "digits_lt" and method in SAME_BUT_LOSS)


@pytest.mark.filterwarnings("default::bcl.core.errors.InputWarning")  # of a batch below clusters
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * costly(n)) for n in SMALL],
)
def test_two_steps(name):
    whole = compose(name)
    config = whole["model"]
    config["init_args"]["num_samples"] = 6
    method = instantiate(config)
    rule = whole["data"]["init_args"].get("selection", {}).get("rule", "balanced")
    size = config["init_args"]["views"]["init_args"]["size"]
    two_steps(method, size, 6, external=rule != "balanced")


def test_the_command_takes_the_arguments_of_every_method():
    """It reads signatures, where `instantiate` calls."""
    for name in config_names():
        if name.startswith("digits_lt/"):
            _, options = parse([], compose(name))
            assert options.model.class_path == compose(name)["model"]["class_path"]


@pytest.mark.filterwarnings("default::bcl.core.errors.InputWarning")  # of a batch below clusters
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in config_names() if n.startswith("imagenet_lt/")])
def test_two_steps_at_224(name):
    config = compose(name)["model"]
    config["init_args"]["num_samples"] = 6
    method = instantiate(config)
    assert method.views.size == (224, 224)
    assert method.encoder.num_features == 2048
    if name != "imagenet_lt/bcl_d":  # on a ResNet-50 too: it has two branches and their norms
        config["init_args"]["encoder"] = "resnet10t"
        method = instantiate(config)
    two_steps(method, 256, 6 if method.memory.contrasts else 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in config_names() if n.startswith(SAME_STEPS)])
def test_the_others_differ_from_imagenet_lt_by_known_values_alone(name):
    config, reference = compose(name), compose("imagenet_lt/" + name.partition("/")[2])
    for which in (config, reference):
        arguments = which["model"]["init_args"]
        arguments.pop("loss", None)
        arguments.get("memory", {}).pop("loss", None)
        arguments["optimizer"].pop("learning_rate", None)
        arguments.get("teacher", {}).pop("queue_size", None)
    assert config["model"] == reference["model"]
    assert config["data"]["class_path"] != reference["data"]["class_path"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # facts of the papers: encoder, epochs, batch, weight decay, scheme or fraction
        ("cifar100_lt/simclr", ("resnet18", 2000, 512, 5e-4)),
        ("cifar100_lt/bcl_d", ("resnet18", 2000, 512, 1e-4)),
        ("cifar10_lt/sdclr", ("resnet18", 2000, 512, 1e-4)),
        ("cifar10_lt/cacr", ("small_alexnet", 200, 128, 1e-4)),
        ("imagenet_lt/bcl_i", ("resnet50", 500, 256, 1e-4)),
        ("places_lt/sdclr", ("resnet50", 500, 256, 1e-4)),
        ("imagenet_lt/cacr_moco", ("resnet50", 200, 256, 1e-4)),
    ],
)
def test_papers_values(name, expected):
    config = compose(name)
    model = config["model"]["init_args"]
    found = (
        model["encoder"]["name"],
        config["trainer"]["max_epochs"],
        config["data"]["init_args"]["batch_size"],
        model.get("optimizer", {}).get("weight_decay", 5e-4),
    )
    assert found == expected


def test_sdclr_has_one_temperature_with_gh_and_without():
    plain, with_gh = (
        compose(f"imagenet100_lt/{name}")["model"]["init_args"] for name in ("sdclr", "sdclr_gh")
    )
    temperature = plain["loss"]["init_args"]["temperature"]
    for loss in (with_gh["loss"]["init_args"]["loss"], with_gh["memory"]["loss"]):
        assert loss["init_args"]["temperature"] == temperature == 0.3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cifar100_lt", "imagenet_lt", "imagenet100_lt", "places_lt"])
def test_a_recipe_leaves_cacr_its_crops(recipe):
    for method in ("cacr", "cacr_moco", "cacr_mocov3", "bcl_cacr"):
        views = compose(f"{recipe}/{method}")["model"]["init_args"]["views"]["init_args"]
        assert views["chain"]["scale"] == [0.2, 1.0]
    rest = compose(f"{recipe}/bcl_i")["model"]["init_args"]["views"]["init_args"]
    assert rest.get("chain", {}).get("scale") == (None if recipe == "cifar100_lt" else [0.08, 1.0])


@pytest.mark.slow
def test_heads_of_the_momentum_forms_are_the_released_ones():
    """MoCo: two layers without norms. MoCo v3 on a ResNet: two layers with norms."""
    moco = instantiate(compose("cifar100_lt/cacr_moco")["model"]).projector
    assert [type(layer).__name__ for layer in moco] == ["Linear", "ReLU", "Linear"]
    assert all(layer.bias is not None for layer in (moco[0], moco[2]))
    config = compose("imagenet_lt/cacr_mocov3")["model"]["init_args"]
    assert config["projector"].get("layers", 2) == 2
    assert config["views"]["init_args"]["chain"]["color_jitter"] == [0.4, 0.4, 0.2, 0.1]


@pytest.mark.slow
def test_datamodules_take_their_arguments():
    for name in config_names():
        spec = compose(name)["data"]
        if spec["class_path"] not in ("datamodules.DigitsLT",):
            spec["init_args"].setdefault("root", "data")
        assert instantiate(spec).batch_size == spec["init_args"]["batch_size"]


def leaves(config, path=()):
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def without(config, path):
    """The configuration without one value."""
    key, *rest = path
    if not rest:
        return {k: v for k, v in config.items() if k != key}
    return {**config, key: without(config[key], rest)}


def parts(folder, name):
    """A part's own words and those of the parts that it extends, lowest first."""
    content = configuration._read(folder, f"{name}.yaml")
    other = content.pop("extends", None)
    return [*(parts(folder, other) if other else []), (f"{folder}/{name}", content)]


@pytest.mark.slow
def test_no_part_repeats_what_lies_below_it():
    """A value that changes nothing in any configuration would stand twice."""
    needed, seen = set(), set()
    for name in config_names():
        recipe, method = name.split("/")
        recipes = parts("recipes", recipe)
        layers = [("base", configuration._read("base.yaml")), *parts("methods", method)]
        layers += [(n, {k: v for k, v in c.items() if k != "methods"}) for n, c in recipes]
        layers += [(f"{n}:{method}", c.get("methods", {}).get(method, {})) for n, c in recipes]
        below = {}
        for layer, content in layers:
            above = configuration.merge(below, content)
            for path, _ in leaves(content):
                seen.add((layer, path))
                if configuration.merge(below, without(content, path)) != above:
                    needed.add((layer, path))
            below = above
    assert len(seen) > 100
    assert sorted(seen - needed) == []
