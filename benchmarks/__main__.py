"""``python -m benchmarks LOAD``: measure and print. LOAD is the built program of benchmarks/load."""

import sys
from pathlib import Path

from benchmarks.listing import listing
from benchmarks.path import node_path
from benchmarks.report import show
from benchmarks.server import start_and_memory, trivial_calls
from benchmarks.sweep_tree import measure_sweep_tree


def main() -> None:
    """Run every benchmark in turn; the machine should have nothing else to do."""
    calls = trivial_calls(Path(sys.argv[1]))
    show([*start_and_memory(), *calls, *listing(), *node_path(), *measure_sweep_tree()])


if __name__ == "__main__":
    main()
