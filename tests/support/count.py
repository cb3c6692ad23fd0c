"""Add up the tests of all lanes: ``count.py DIRECTORY STATUS``.

DIRECTORY holds ``lanes.json`` (nox's report) and the JUnit XML files ``LANE.xml`` or ``LANE-anything.xml``; STATUS is
nox's exit status. The last line printed is ``N passed, N failed``. A lane that failed without a failing test (lint, a
crash) counts as one failure, so that the sum never looks good when the run was not. Exit status 0 only when nothing
failed and something passed. Standard library only: it must run where everything else went wrong.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Counts:
    """Tests by outcome. An error in a fixture is a failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed"


def counts_of(report: Path) -> Counts:
    """The tests in a JUnit XML file; one that cannot be read is a failure."""
    try:
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return Counts(failed=1)
    total = Counts()
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            total += Counts(failed=1)
        elif case.find("skipped") is not None:
            total += Counts(skipped=1)
        else:
            total += Counts(passed=1)
    return total


def lanes_of(report: Path) -> dict[str, str]:
    """The outcome of every lane by its name: ``success``, ``failed``, ``skipped`` or ``aborted``."""
    try:
        sessions = json.loads(report.read_text())["sessions"]
        return {str(session["name"]): str(session["result"]) for session in sessions}
    except (OSError, ValueError, KeyError):
        return {}


def add_up(directory: Path, status: int) -> Counts:
    """The sum over all lanes; prints a line for each."""
    lanes = lanes_of(directory / "lanes.json")
    reports: dict[str, Counts] = {}
    for path in sorted(directory.glob("*.xml")):
        lane = next((name for name in lanes if path.stem == name or path.stem.startswith(f"{name}-")), path.stem)
        reports[lane] = reports.get(lane, Counts()) + counts_of(path)
    total = Counts()
    for lane in dict.fromkeys([*lanes, *reports]):
        counts = reports.get(lane, Counts())
        outcome = lanes.get(lane, "unknown")
        if outcome not in ("success", "skipped") and not counts.failed:
            counts += Counts(failed=1)
        print(f"{lane}: {outcome}, {counts}, {counts.skipped} skipped")
        total += counts
    if status and not total.failed:
        total += Counts(failed=1)
    return total


def main(directory: str, status: str) -> int:
    """Print the sum; the exit status of the whole run."""
    total = add_up(Path(directory), int(status))
    print(total, flush=True)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
