"""Tables as plain text."""

from collections.abc import Sequence

from bcl.evaluation.results import ProbeReport

GROUP_KEYS = ("many", "medium", "few", "std_population", "std_sample")


def text_table(reports: Sequence[ProbeReport]) -> str:
    """Many, Medium, Few, Std and All of every run and protocol, in per cent, for a terminal.

    Args:
        reports: the runs.

    Returns:
        Lines of one width.
    """
    head = ["run", "protocol", "Many", "Medium", "Few", "Std(pop)", "Std(n-1)", "All"]
    rows = []
    for report in reports:
        for entry in report.protocols:
            groups = entry["summary"][report.rule]
            values = [groups[key]["mean"] for key in GROUP_KEYS]
            values.append(entry["summary"]["accuracy"]["mean"])
            cells = ["–" if v is None or v != v else f"{100 * v:.2f}" for v in values]
            rows.append([report.name, entry["name"], *cells])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right))
    rules = {report.groups[report.rule]["description"] for report in reports}
    return "\n".join([*lines, "groups by " + "; ".join(sorted(rules))])
