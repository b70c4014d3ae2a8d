"""The runs of a preset, or of several presets together, in the order in which they are made."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from preset import read_preset

from bcl.cli.configuration import Config, compose, merge
from bcl.core.errors import InputError, unknown_name


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    key: str
    label: str
    seed: int
    config: str
    folder: Path
    report: Path
    protocols: str
    stage: int = 1
    part: str = ""  # one of several presets
    later: bool = False  # its seed comes after all stages of the others

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.key}-{self.seed}"

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"{self.part} {self.name}".strip()

    @property
    def settings(self) -> str:
        """Hash of all that makes its result, which the place of the images does not."""
        content = yaml.safe_load(self.config)
        data = content["data"].get("init_args", {})
        data.pop("root", None)
        (data.get("selection") or {}).pop("root", None)
        text = yaml.safe_dump([content, self.protocols], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """A preset, where its images are, and where its results go."""

    name: str
    preset: Config
    root: str | None
    out: Path
    cells: list[Cell]


def nested(path: str, value: Any) -> Config:
    """``a.b.c`` and a value as nested mappings."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def table(
    preset: Config,
    out: Path,
    root: str | None,
    runs: list[str],
    seeds: list[int],
    changes: Config,
    part: str = "",
    external: Callable[[], str] | None = None,
) -> list[Cell]:
    """All runs, seed by seed, so that an unfinished table is still paired.

    ``external`` finds the images that runs with a selection take besides those of ``root``.
    """
    cells = []
    for seed in seeds:
        for key in runs:
            run = preset["runs"][key]
            parts = [preset.get("settings", {}), run.get("settings", {}), changes]
            parts += [nested(path, seed) for path in ["seed_everything", *preset.get("seeded", [])]]
            if root is not None:
                parts.append(nested("data.init_args.root", str(Path(root).expanduser().resolve())))
            config = merge(compose(f"{preset['recipe']}/{run['method']}"), *parts)
            selection = config["data"].get("init_args", {}).get("selection") or {}
            if external is not None and selection.get("rule", "balanced") != "balanced":
                outside = nested("data.init_args.selection.root", str(Path(external()).resolve()))
                config = merge(config, outside)
            name = f"{key}-{seed}"
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            cells.append(
                Cell(
                    key, run["label"], seed, text, out / "runs" / name, out / "probe" / name,
                    preset["protocols"], run.get("stage", 1), part,
                    seed in preset.get("later_seeds", ()),
                )
            )  # fmt: skip
    return cells


def read_parts(
    name: str,
    root: str | None,
    out: Path,
    runs: list[str] | None,
    seeds: list[int] | None,
    changes: Config,
) -> list[Part]:
    """Read a preset, or those that it names as ``parts``, with the cells that are asked for.

    Raises:
        InputError: a run that no part has, or images that are not there.
    """
    preset = read_preset(name)
    if preset.get("root") and root is None:
        raise InputError(f"preset '{name}' needs --root: {preset['root']}.")
    if root is not None and not Path(root).expanduser().exists():
        raise InputError(f"--root: nothing at {root}; check the path.")
    if "parts" in preset:
        assert root is not None, "a preset of parts has a root"
        found = [
            (part, read_preset(part), find_images(root, images), out / part)
            for part, images in preset["parts"].items()
        ]
    else:
        images = preset.get("images")
        place = find_images(root, images) if images and root is not None else root
        found = [(Path(name).stem, preset, place, out)]
    known = list(dict.fromkeys(key for _, each, *_ in found for key in each["runs"]))
    for run in runs or ():
        if run not in known:
            raise unknown_name("run", run, known)
    parts = []
    for part, each, place, folder in found:
        own = [key for key in runs or known if key in each["runs"]]
        named = part if len(found) > 1 else ""
        external = None
        if root is not None and each.get("external"):
            external = partial(find_images, root, each["external"])
        cells = table(each, folder, place, own, seeds or each["seeds"], changes, named, external)
        parts.append(Part(part, each, place, folder, cells))
    return parts


def find_images(root: str, name: str) -> str:
    """``name``, ``name.zip`` or the one ``name-*`` in a folder.

    Raises:
        InputError: none, or several.
    """
    folder = Path(root).expanduser()
    plain = [path for path in (folder / name, folder / f"{name}.zip") if path.exists()]
    found = plain[:1] or sorted(folder.glob(f"{name}-*"))
    if len(found) != 1:
        what = ", ".join(path.name for path in found) if found else "nothing of that name"
        raise InputError(
            f"--root {root} must hold one '{name}', '{name}.zip' or '{name}-*'; found {what}."
        )
    return str(found[0])


def check(cells: list[Cell]) -> None:
    """Refuse a folder whose runs have other settings."""
    for cell in cells:
        path = cell.folder / "config.yaml"
        if path.is_file() and path.read_text(encoding="utf-8") != cell.config:
            raise InputError(
                f"{path} has other settings than this command; choose another --out, or remove "
                f"{cell.folder} and {cell.report}."
            )
