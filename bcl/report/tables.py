"""One table writer, for the terminal, Markdown, LaTeX and CSV; and the comparison in each."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from bcl.core.text import shown
from bcl.evaluation.results import ProbeReport, rounded
from bcl.report.compare import COLUMNS, Comparison, compare, difference_notes, small_group_notes

SCHEMA = "bcl-cacr/comparison"
SCHEMA_VERSION = 2
CSV_FIELDS = (
    "protocol", "method", "seeds", "draws", "grouping", "column", "mean", "ci95", "gain", "p",
    "low", "high", "over", "gain_low", "gain_high",
)  # fmt: skip
TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "±": "$\\pm$", "<": "$<$", ">": "$>$", "–": "--", "×": "$\\times$",
}  # fmt: skip
MARKDOWN = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "&": "&amp;"})


class Cell(NamedTuple):
    """A number with its interval, "± 1.20" or "[66.1, 82.2]", and its stars."""

    value: str
    interval: str = ""
    stars: str = ""
    bold: bool = False

    def __str__(self) -> str:
        return f"{self.value} {self.interval}".rstrip() + self.stars

    def markdown(self) -> str:
        """As Markdown, bold included."""
        text = str(self).replace("*", "\\*")
        return f"**{text}**" if self.bold else text

    def latex(self) -> str:
        """As LaTeX, with stars raised and only the value bold."""
        value = f"\\textbf{{{tex(self.value)}}}" if self.bold else tex(self.value)
        stars = f"$^{{{self.stars}}}$" if self.stars else ""
        return f"{value} {tex(self.interval)}".rstrip() + stars


@dataclass(frozen=True)
class Table:
    """Rows under a heading, written in any format; the first ``left`` columns are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1

    def text(self) -> str:
        """Aligned columns for a terminal."""
        lines = [[shown(str(cell)) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        layout = "  ".join(f"{{:{'<>'[i >= self.left]}{width}}}" for i, width in enumerate(widths))
        return "\n".join(layout.format(*line) for line in lines)

    def markdown(self) -> str:
        """A pipe table."""
        rule = "|" + "---|" * self.left + "---:|" * (len(self.head) - self.left)
        rows = [
            [c.markdown() if isinstance(c, Cell) else markdown(c) for c in row] for row in self.rows
        ]
        head, *body = (f"| {' | '.join(row)} |" for row in (self.head, *rows))
        return "\n".join([head, rule, *body])

    def latex(self, caption: str) -> str:
        r"""A LaTeX ``table`` with booktabs rules; needs ``\usepackage{booktabs}``."""
        sides = "l" * self.left + "r" * (len(self.head) - self.left)
        rows = [[c.latex() if isinstance(c, Cell) else tex(c) for c in row] for row in self.rows]
        head, *body = (" & ".join(row) + " \\\\" for row in ([tex(c) for c in self.head], *rows))
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{tex(caption)}}}"]
        lines += [f"\\begin{{tabular}}{{{sides}}}", "\\toprule", head, "\\midrule", *body]
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])

    def csv(self) -> str:
        """Comma-separated values."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.head, *self.rows])
        return buffer.getvalue()


def tex(text: str) -> str:
    """Escape what LaTeX would read as commands."""
    return "".join(TEX.get(sign, sign) for sign in text)


def markdown(text: str) -> str:
    """Escape what Markdown would read as a column or as HTML."""
    return shown(text).translate(MARKDOWN)


def stars(p: float | None) -> str:
    """``**`` below 0.01, ``*`` below 0.05."""
    return "" if p is None or p >= 0.05 else "**" if p < 0.01 else "*"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as per cent; a dash where there is none."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def text_table(reports: Sequence[ProbeReport]) -> str:
    """All, Many, Medium, Few and Std of each method and protocol, in per cent, for a terminal.

    Args:
        reports: the runs; seeds of one name are averaged.

    Returns:
        Aligned lines, the grouping, and what one image is worth in groups of few test images.

    Example:
        >>> from bcl import evaluate
        >>> from datamodules import DigitsLT
        >>> gray = lambda images: images.float().mean((2, 3))
        >>> report = evaluate(gray, DigitsLT(), protocols="knn@10", record={"name": "gray"})
        >>> heading, row, groups = text_table([report]).splitlines()
        >>> heading
        'run   protocol    All  Many  Medium   Few  Std(pop)  Std(n-1)'
        >>> row.split()[:2], len(row) == len(heading)
        (['gray', 'knn@10'], True)
    """
    head = ["run", "protocol", "All", "Many", "Medium", "Few", "Std(pop)", "Std(n-1)"]
    by_run: dict[str, list[list[str]]] = {}
    for found in compare(reports):
        for row in found.rows:
            label = row.method + (f" ×{len(row.seeds)}" if len(row.seeds) > 1 else "")
            cells = [percent(row.values[column].mean) for column in COLUMNS if column != "top5"]
            by_run.setdefault(label, []).append([label, found.protocol, *cells])
    rows = [row for rows in by_run.values() for row in rows]
    groups = reports[0].groups[reports[0].grouping].description
    table = Table(head, rows, left=2).text()
    return "\n".join([table, f"groups by {groups}", *small_group_notes(reports[0])])


def markdown_table(reports: Sequence[ProbeReport]) -> str:
    """One Markdown table per protocol, the baseline first."""
    parts = []
    for found in compare(reports):
        table = _table(found, bold=False).markdown()
        about, note = markdown(found.description), markdown(_note(found, reports))
        parts += [f"### {markdown(found.protocol)}", f"{about}.", table, note]
    return "\n\n".join(parts) + "\n"


def latex_table(reports: Sequence[ProbeReport]) -> str:
    """One LaTeX table per protocol; what is established by a test over seeds is bold."""
    parts = []
    for found in compare(reports):
        note = _note(found, reports).replace("\\*", "*")
        caption = f"{found.protocol}: {found.description}. {note}"
        parts.append(_table(found, bold=True).latex(caption) + "\n")
    return "\n".join(parts)


def _table(found: Comparison, bold: bool) -> Table:
    """A comparison; where ``bold``, what is established is."""
    rows: list[list[str | Cell]] = []
    for row in found.rows:
        cells = []
        for column, value in row.values.items():
            interval = "" if value.ci95 is None else f"± {percent(value.ci95)}"
            if value.wilson:
                interval = "[{}, {}]".format(*(percent(end, 1) for end in value.wilson))
            established = bold and found.bold(row.index, column)
            cells.append(Cell(percent(value.mean), interval, stars(value.p), established))
        rows.append([row.method, *cells])
    return Table(["Run", *COLUMNS.values()], rows)


def _note(found: Comparison, reports: Sequence[ProbeReport]) -> str:
    """What a reader of the table needs to know, as Markdown."""
    note = f"Per cent. Groups by {reports[0].groups[found.grouping].description}."
    if any(value.ci95 is not None for value in found.values):
        note += " ± is the 95 % interval over seeds or draws."
    if any(value.wilson for value in found.values):
        note += " [ ] is Wilson's 95 % interval over the test images of a single run."
    note = " ".join([note, *small_group_notes(reports[0])])
    if found.test:
        against = f"p < 0.05, \\*\\* p < 0.01 against {found.rows[0].method}"
        note += f" \\* {against}: {found.test}; Holm's correction."
    return note


def csv_table(reports: Sequence[ProbeReport]) -> str:
    """One line per number, with the columns of `CSV_FIELDS`; accuracies are shares."""
    rows = []
    for found in compare(reports):
        for row in found.rows:
            seeds = " ".join(map(str, row.seeds))
            about = [found.protocol, row.method, seeds, str(row.draws), found.grouping]
            for column, value in row.values.items():
                ends, gains = (each or (None, None) for each in (value.wilson, value.gain_interval))
                numbers = (value.mean, value.ci95, value.gain, value.p, *ends)
                tested = row.over if value.gain_interval else ""
                rows.append([*about, column, *_texts(numbers), tested, *_texts(gains)])
    return Table(CSV_FIELDS, rows).csv()


def _texts(numbers: Sequence[float | None]) -> list[str]:
    return ["" if number is None else str(rounded(number)) for number in numbers]


def comparison_json(reports: Sequence[ProbeReport]) -> str:
    """The tables and the whole reports; `docs/reports.md` has the schema."""
    values = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "baseline": reports[0].name,
        "tables": [asdict(found) for found in compare(reports)],
        "notes": [*small_group_notes(reports[0]), *difference_notes(reports)],
        "reports": [report.to_dict() for report in reports],
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
