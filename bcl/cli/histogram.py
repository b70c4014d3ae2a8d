"""Histograms of class counts as text."""

from collections.abc import Sequence

from bcl.core.text import shown


def histogram_text(counts: Sequence[int], names: Sequence[str] | None = None) -> str:
    """Bars of text for C class counts, largest first: at most 40 rows of 80 columns."""
    if not len(counts):
        return "no classes"
    order = sorted(range(len(counts)), key=lambda index: (-counts[index], index))
    step = -(-len(order) // 40)
    full = [shown(name) for name in names or map("class {}".format, range(len(counts)))]
    label = [name if len(name) <= 24 else f"{name[:23]}…" for name in full]
    width = max((len(label[index]) for index in order[::step]), default=0)
    digits = max((len(f"{count:,}") for count in counts), default=0)
    largest = max([*counts, 1])
    lines = []
    for index in order[::step]:
        bar = "#" * -(-counts[index] * 40 // largest)
        lines.append(f"{label[index]:<{width}}  {counts[index]:>{digits},} {bar}".rstrip())
    if step > 1:
        lines.append(f"(every {step}th of {len(order)} classes)")
    return "\n".join(lines)
