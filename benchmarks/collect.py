"""Results of a preset's runs: those made here, and those that another machine has finished."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import summary
from cells import Cell, Part

from bcl.core.errors import InputError
from bcl.evaluation.protocols import parse_protocols


class Results:
    """What is known of a part's runs.

    Args:
        part: its cells.
        command: what to type for these runs.
        finished: a folder with ``NAME.json`` of finished runs, which are not repeated if their
            settings are those of this preset.
    """

    def __init__(self, part: Part, command: str, finished: Path | None = None) -> None:
        self.part = part
        self.about = {"preset": part.name, "about": part.preset["about"], "command": command}
        path = None if finished is None else finished / f"{part.name}.json"
        self.earlier = summary.read(path) if path is not None and path.is_file() else None
        wanted = {(cell.key, cell.seed): cell.settings for cell in part.cells}
        self.kept = [
            run
            for run in (self.earlier or {"runs": []})["runs"]
            if run.get("settings") == wanted.get((run["run"], run["seed"]), "none")
        ]

    def to_do(self) -> list[Cell]:
        """The cells that no other machine has finished."""
        kept = {(run["run"], run["seed"]) for run in self.kept}
        return [cell for cell in self.part.cells if (cell.key, cell.seed) not in kept]

    def done(self) -> list[Cell]:
        """The cells that are done here."""
        return [cell for cell in self.to_do() if is_probed(cell)]

    def write(self) -> None:
        """Write ``results.json``, if there is anything to write."""
        done = self.done()
        found = None
        if done:
            found = summary.summarize(
                {(cell.key, cell.seed): cell.report for cell in done},
                {key: run["label"] for key, run in self.part.preset["runs"].items()},
                self.about,
                {(cell.key, cell.seed): cell.settings for cell in done},
            )
        if self.kept and self.earlier is not None:
            found = summary.extend({**self.earlier, **self.about, "runs": self.kept}, found)
        if found is not None:
            order = [(cell.key, cell.seed) for cell in self.part.cells]
            found["runs"].sort(key=lambda run: order.index((run["run"], run["seed"])))
            self.part.out.mkdir(parents=True, exist_ok=True)
            summary.write(self.part.out / "results.json", found)

    def report(self, program: tuple[str, ...]) -> str | None:
        """Write ``report.html`` of the runs that are done here.

        Returns:
            None, or what went wrong.
        """
        done = [str(cell.report) for cell in self.done()]
        if not done:
            return None
        words = ["report", *done, "--overwrite", "--formats", "md,csv"]
        words += ["--title", self.part.preset["about"]]
        words += ["--out", str(self.part.out / "report.html")]
        status = subprocess.run([*program, *words], check=False).returncode
        return f"bcl report ended with status {status}; results.json is whole" if status else None


def to_do(results: list[Results]) -> list[Cell]:
    """Later seeds last; stage by stage, in a stage seed by seed, and of a seed all parts."""
    cells = [cell for each in results for cell in each.to_do()]
    # Keeps the order of equals.
    return sorted(cells, key=lambda cell: (cell.later, cell.stage, cell.seed))


def writer(results: list[Results]) -> Callable[[Cell], None]:
    """What writes the results of a cell's part."""
    of_cell = {cell.folder: each for each in results for cell in each.part.cells}
    return lambda cell: of_cell[cell.folder].write()


def is_probed(cell: Cell) -> bool:
    """Whether its report is there, with the protocols that are asked for."""
    path = cell.report / "report.json"
    if not path.is_file():
        return False
    content = json.loads(path.read_text(encoding="utf-8"))
    wanted = {name for each in parse_protocols(cell.protocols) for name in each.results}
    return wanted <= {entry["name"] for entry in content["protocols"]}


def accuracy(cell: Cell) -> str:
    """First protocol's All and groups of a probed run, in per cent."""
    content = json.loads((cell.report / "report.json").read_text(encoding="utf-8"))
    entry = content["protocols"][0]
    groups = entry["summary"][next(iter(content["groups"]))]
    parts = [f"{100 * groups[name]['mean']:.2f}" for name in ("many", "medium", "few")]
    whole = 100 * entry["summary"]["accuracy"]["mean"]
    return f"{entry['name']} {whole:.2f} ({'/'.join(parts)})"


def check_whole(cells: list[Cell], out: Path) -> None:
    """Refuse to replace the results of all of a folder's runs by those of some."""
    path = out / "results.json"
    if not path.is_file():
        return
    had = {(run["run"], run["seed"]) for run in json.loads(path.read_text("utf-8"))["runs"]}
    lost = sorted(had - {(cell.key, cell.seed) for cell in cells})
    if lost:
        key, seed = lost[0]
        raise InputError(
            f"{path} has {len(lost)} run(s) that this command leaves out, first '{key}' with seed "
            f"{seed}: add them to --runs and --seeds (finished runs are not repeated), or choose "
            "another --out."
        )
