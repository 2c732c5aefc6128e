"""Tables to print."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Columns of equal width: text to the left, numbers to the right, None as a dash."""
    if not rows:
        return "  nothing to evaluate"
    cells = [header, *([_cell(value) for value in row] for row in rows)]
    columns = []
    for column, value in zip(zip(*cells, strict=True), rows[0], strict=True):
        align = str.ljust if isinstance(value, str) else str.rjust
        columns.append([align(cell, max(map(len, column))) for cell in column])
    lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
