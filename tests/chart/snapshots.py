"""Snapshots: what the chart renders for each value file, committed, so that a change is seen in review."""

import re
from pathlib import Path

from tests.chart.helm import render

SNAPSHOTS = Path(__file__).parent / "snapshots"


def render_snapshot(values: Path) -> str:
    """The manifests for a value file, without what differs from one release of Helm to the next: empty lines."""
    lines = [line.rstrip() for line in render(values).splitlines()]
    return re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip("\n") + "\n"


def read_snapshot(values: Path) -> str:
    """The committed snapshot of a value file; "" when there is none."""
    path = SNAPSHOTS / values.name
    return path.read_text() if path.exists() else ""
