"""A measured figure, its aim, and the table of all."""

import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what was measured, how much it came to, and what is aimed at."""

    what: str
    measured: str
    aim: str = ""


def show(figures: Iterable[Figure]) -> None:
    """Print a Markdown table, aligned for a terminal, and whose Python was measured: one that was built without its
    compiler's profile (``--enable-optimizations``) takes a tenth longer for everything."""
    rows = [("figure", "measured", "aim"), *((f.what, f.measured, f.aim) for f in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(f"Python {platform.python_version()} of {sys.base_prefix}")
