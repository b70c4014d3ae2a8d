"""Options that say how a subset is made: refused beside what fixes the subset already."""

from typing import Any

from bcl.core.errors import InputError

# What each has if nobody gives it: configurations write all of them out.
DEFAULTS: dict[str, Any] = {
    "imbalance_factor": 100.0,
    "profile": "exponential",
    "max_per_class": None,
    "class_order": "name",
    "split_seed": 0,
}


def refuse_beside(recipe: str | None, split_file: str | None, options: dict[str, Any]) -> None:
    """Refuse options that a recipe or a split file would leave without effect.

    Only a value other than the default is known to have been given; an imbalance factor of None
    asks for nothing.

    Args:
        recipe: a named subset, if one is wanted.
        split_file: a saved subset, if one is wanted.
        options: those of `DEFAULTS`.

    Raises:
        InputError: names the options.
    """
    if recipe is None and split_file is None:
        return
    given = {
        name: value
        for name, value in options.items()
        if value is not None and value != DEFAULTS[name]
    }
    if recipe is not None:
        given.pop("split_seed", None)  # a recipe fixes the counts, the seed the images
    if given:
        what = f"recipe '{recipe}'" if recipe is not None else f"split_file {split_file}"
        listed = ", ".join(f"{name} {value}" for name, value in given.items())
        raise InputError(
            f"{what} says which images are chosen, so {listed} would have no effect; leave "
            f"{'them' if len(given) > 1 else 'it'} out, or leave the "
            f"{'recipe' if recipe is not None else 'split_file'} out (null)."
        )
