"""Tables as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from bcl.evaluation.results import ProbeReport, rounded
from bcl.report.compare import COLUMNS, compare, difference_notes

SCHEMA = "bcl-cacr/comparison"
SCHEMA_VERSION = 1
CSV_FIELDS = ("protocol", "method", "seeds", "draws", "rule", "column", "mean", "ci95", "gain", "p")
Values = dict[str, Any]


def stars(p: float | None) -> str:
    """``**`` below 0.01, ``*`` below 0.05."""
    return "" if p is None or p >= 0.05 else "**" if p < 0.01 else "*"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as percent; a dash where there is none."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def text_table(reports: Sequence[ProbeReport]) -> str:
    """Many, Medium, Few, Std and All of every method and protocol, in per cent, for a terminal.

    Args:
        reports: the runs; seeds of one name are averaged.

    Returns:
        Lines of one width, and the grouping rule.

    Example:
        >>> from bcl import evaluate
        >>> from datamodules import DigitsLT
        >>> gray = lambda images: images.float().mean((2, 3))
        >>> report = evaluate(gray, DigitsLT(), protocols="knn@10", record={"name": "gray"})
        >>> heading, row, rule = text_table([report]).splitlines()
        >>> heading
        'run   protocol  Many  Medium   Few  Std(pop)  Std(n-1)    All'
        >>> row.split()[:2], len(row) == len(heading)
        (['gray', 'knn@10'], True)
    """
    columns = [column for column in COLUMNS if column != "top5"]
    head = ["run", "protocol", "Many", "Medium", "Few", "Std(pop)", "Std(n-1)", "All"]
    tables = compare(reports)
    order: dict[str, list[list[str]]] = {}
    for table in tables:
        for row in table["rows"]:
            label = row["method"] + (f" ×{len(row['seeds'])}" if len(row["seeds"]) > 1 else "")
            cells = [percent(row["values"][column]["mean"]) for column in columns]
            order.setdefault(label, []).append([label, table["protocol"], *cells])
    rows = [row for block in order.values() for row in block]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right))
    return "\n".join([*lines, f"groups by {reports[0].groups[reports[0].rule]['description']}"])


def markdown_table(reports: Sequence[ProbeReport]) -> str:
    """One Markdown table a protocol.

    Args:
        reports: the runs, the baseline first.

    Returns:
        Markdown.
    """
    lines = []
    for table in compare(reports):
        lines += [f"### {table['protocol']}", "", f"{table['description']}.", ""]
        lines += ["| Run | " + " | ".join(COLUMNS.values()) + " |", "|---" + "|---:" * 7 + "|"]
        for row in table["rows"]:
            name = row["method"].replace("|", "\\|")
            cells = [_cell(row["values"][column], "±") for column in COLUMNS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", _footnote(table, reports), ""]
    return "\n".join(lines)


def _cell(value: Values, sign: str) -> str:
    text = percent(value["mean"])
    if value["ci95"] is not None:
        text += f" {sign} {percent(value['ci95'])}"
    mark = stars(value.get("p"))
    return text + mark.replace("*", "\\*")


def _footnote(table: Values, reports: Sequence[ProbeReport]) -> str:
    text = f"Per cent. Groups by {reports[0].groups[table['rule']]['description']}."
    if any(v["ci95"] is not None for row in table["rows"] for v in row["values"].values()):
        text += " ± is the 95 % interval over seeds or draws."
    if table["test"]:
        text += (
            f" \\* p < 0.05, \\*\\* p < 0.01 against {table['rows'][0]['method']}: "
            f"{table['test']}; Holm's correction."
        )
    return text


def latex_table(reports: Sequence[ProbeReport]) -> str:
    r"""One LaTeX table a protocol, with booktabs rules.

    Args:
        reports: the runs, the baseline first.

    Returns:
        LaTeX; needs ``\usepackage{booktabs}``.
    """
    lines = []
    for table in compare(reports):
        caption = f"{table['protocol']}: {table['description']}. "
        caption += _footnote(table, reports).replace("\\*", "*")
        lines += [
            "\\begin{table}", "\\centering", f"\\caption{{{tex(caption)}}}",
            "\\begin{tabular}{lrrrrrrr}", "\\toprule",
            "Run & " + " & ".join(tex(name) for name in COLUMNS.values()) + " \\\\", "\\midrule",
        ]  # fmt: skip
        best = {column: _best(table, column) for column in ("many", "medium", "few", "all")}
        for row in table["rows"]:
            cells = []
            for column in COLUMNS:
                value = row["values"][column]
                text = percent(value["mean"]).replace("–", "--")
                top = best.get(column)
                if len(table["rows"]) > 1 and top is not None and value["mean"] == top:
                    text = f"\\textbf{{{text}}}"
                if value["ci95"] is not None:
                    text += f" $\\pm$ {percent(value['ci95'])}"
                mark = stars(value.get("p"))
                cells.append(text + (f"$^{{{mark}}}$" if mark else ""))
            lines.append(f"{tex(row['method'])} & " + " & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines)


def _best(table: Values, column: str) -> float | None:
    means = [row["values"][column]["mean"] for row in table["rows"]]
    return max((mean for mean in means if mean is not None), default=None)


def tex(text: str) -> str:
    """Escape what LaTeX would read as commands."""
    signs = {
        "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
        "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
        "±": "$\\pm$", "<": "$<$", ">": "$>$", "–": "--", "×": "$\\times$",
    }  # fmt: skip
    return "".join(signs.get(sign, sign) for sign in text)


def csv_table(reports: Sequence[ProbeReport]) -> str:
    """One line a number: `CSV_FIELDS`; accuracies are shares.

    Args:
        reports: the runs, the baseline first.

    Returns:
        CSV with a heading.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for table in compare(reports):
        for row in table["rows"]:
            for column in COLUMNS:
                value = row["values"][column]
                numbers = {key: value.get(key) for key in ("mean", "ci95", "gain", "p")}
                writer.writerow(
                    {
                        "protocol": table["protocol"],
                        "method": row["method"],
                        "seeds": " ".join(str(seed) for seed in row["seeds"]),
                        "draws": row["draws"],
                        "rule": table["rule"],
                        "column": column,
                        **{k: "" if v is None else rounded(v) for k, v in numbers.items()},
                    }
                )
    return buffer.getvalue()


def comparison_dict(reports: Sequence[ProbeReport]) -> Values:
    """The tables and the whole reports as plain values; `docs/reports.md` has the schema.

    Args:
        reports: the runs, the baseline first.

    Returns:
        A dict for JSON.
    """
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "baseline": reports[0].name,
        "tables": compare(reports),
        "notes": difference_notes(reports),
        "reports": [report.to_dict() for report in reports],
    }


def comparison_json(reports: Sequence[ProbeReport]) -> str:
    """`comparison_dict` as text."""
    return json.dumps(comparison_dict(reports), indent=1, ensure_ascii=False) + "\n"
