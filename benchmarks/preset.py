"""Presets of benchmarks/reproduce.py: a table of runs as a YAML file."""

from pathlib import Path

from bcl.cli.configuration import Config, merge, read_yaml
from bcl.core.errors import InputError, unknown_name
from bcl.evaluation.protocols import parse_protocols

PRESETS = Path(__file__).resolve().parent / "presets"
NEEDED = ("about", "recipe", "protocols", "seeds", "runs")
KEYS = (*NEEDED, "extends", "root", "images", "external", "later_seeds", "seeded", "settings")
KEYS += ("compare", "parts", "published")
RUN_KEYS = ("label", "method", "settings", "stage")
PARTS_KEYS = ("about", "root", "parts")


def read_preset(name: str) -> Config:
    """Read a preset by name or path.

    ``extends`` names another preset, or a path relative to the file's folder: mappings are merged,
    the rows of ``compare`` are appended, and a run that is set to null is left out. ``parts`` names
    presets that are run together, each with the name of its images below the root; runs of a later
    ``stage`` come after those of an earlier one of all parts, and ``later_seeds`` after all stages
    of the others. ``published`` has numbers of the same protocol, by protocol and run.

    Raises:
        InputError: no such preset, no YAML, or a key that no preset has.
    """
    preset = _read(name, PRESETS, ())
    if "parts" in preset:
        return _checked_parts(name, preset)
    for key in NEEDED:
        if not preset.get(key):
            raise InputError(f"preset '{name}' has no {key}; add it, or extend another preset.")
    runs = {key: run for key, run in preset["runs"].items() if run is not None}
    for key, run in runs.items():
        if not isinstance(run, dict):
            raise InputError(f"preset '{name}': run '{key}' takes a mapping; got {run!r}.")
        for word in run:
            if word not in RUN_KEYS:
                raise unknown_name(f"key of run '{key}'", word, RUN_KEYS)
        for word in ("label", "method"):
            if word not in run:
                raise InputError(f"preset '{name}': run '{key}' has no {word}; add it.")
    pairs = []
    for pair in preset.get("compare", []):
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(f"preset '{name}': compare takes pairs [run, baseline]; got {pair}.")
        for key in pair:
            if key not in preset["runs"]:
                raise unknown_name("run in compare", key, preset["runs"])
        if set(pair) <= set(runs):
            pairs.append(pair)
    known = {name for each in parse_protocols(preset["protocols"]) for name in each.results}
    for protocol, entry in preset.get("published", {}).items():
        if protocol not in known:
            raise unknown_name("protocol in published", protocol, known)
        for key, values in entry["runs"].items():
            if key not in preset["runs"]:
                raise unknown_name("run in published", key, preset["runs"])
            if len(values) not in (1, 4, 5):
                raise InputError(
                    f"preset '{name}': published takes All; All, Many, Medium and Few; or these "
                    f"and Std; got {values} for '{key}'."
                )
    return {**preset, "runs": runs, "compare": pairs}


def _checked_parts(name: str, preset: Config) -> Config:
    """A preset of presets."""
    if set(preset) != set(PARTS_KEYS) or not isinstance(preset["parts"], dict):
        raise InputError(
            f"preset '{name}' with parts has exactly about, root and parts, which maps "
            f"presets to the names of their images; got {', '.join(preset)}."
        )
    for part in preset["parts"]:
        if "parts" in _read(part, PRESETS, ()):
            raise InputError(f"preset '{name}': part '{part}' has parts itself; name those.")
    return preset


def _read(name: str, folder: Path, before: tuple[Path, ...]) -> Config:
    """Read a preset's file and those that it extends; ``before`` are those that extend it."""
    is_path = name.endswith((".yaml", ".yml"))
    path = (folder if before else Path()) / name if is_path else PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name("preset", name, preset_names())
    if path.resolve() in before:
        raise InputError(f"{path} extends itself; remove one of the `extends`.")
    preset = read_yaml(path)
    for key in preset:
        if key not in KEYS:
            raise unknown_name(f"key in {path}:", key, KEYS)
    other = preset.pop("extends", None)
    if other is None:
        return preset
    first = _read(other, path.parent, (*before, path.resolve()))
    pairs = [*first.get("compare", []), *preset.get("compare", [])]
    return {**merge(first, preset), "compare": pairs}


def preset_names() -> list[str]:
    """Presets that can be run; a ``base`` only holds what they share."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if not path.stem.endswith("base"))
