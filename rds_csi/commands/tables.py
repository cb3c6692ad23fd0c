"""Tables for people: aligned columns, and nothing in a cell that could fool a terminal."""

from collections.abc import Sequence

from rds_csi.logging import single_line


def print_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the rows below their heading; control characters in a cell are shown as escapes."""
    lines = [tuple(heading), *(tuple(single_line(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
