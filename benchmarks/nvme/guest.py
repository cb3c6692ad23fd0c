"""``python -m benchmarks.nvme.guest``: every measurement, in the machine that ``benchmarks.nvme`` starts."""

import argparse
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks.nvme import burst, lives
from benchmarks.nvme.floor import Floor, host_options
from benchmarks.nvme.scanning import Scanning
from benchmarks.nvme.target import Crowd, Portal
from benchmarks.report import Figure, show
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB, MIB
from rds_csi.nvme.identity import load_identity

DIRECTORY = Path("/run/bench")
CONNECTORS = ("nvme-cli", "fabrics")
PARTS = ("path", "burst", "few", "crowd", "many")
FEW = (10, 100)
CROWD = 200
MANY = 500
BURST = 64


class Bench:
    """The parts in their order: sessions are only ever added to."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags
        DIRECTORY.mkdir()
        identity = load_identity(HostPaths(), str(DIRECTORY))
        self._portal = Portal(DIRECTORY)
        self._floor = Floor(DIRECTORY, identity)
        self._crowd = Crowd(self._portal, host_options(identity))
        self._volume = self._portal.volumes("volume", 1, GIB)[0]
        self._scanning = Scanning(DIRECTORY)
        self._alone: dict[str, lives.Lives] = {}

    def path(self) -> Iterator[Figure]:
        """One volume's life beside no other session."""
        for connector in self._flags.connector:
            self._alone[connector] = self._lives(connector, 3 if self._flags.quick else 9)
            yield from lives.figures(self._alone[connector])

    def burst(self) -> Iterator[Figure]:
        """Many small volumes at once."""
        volumes = self._portal.volumes("burst", 8 if self._flags.quick else BURST, 32 * MIB)
        for connector in self._flags.connector:
            yield from burst.figures(DIRECTORY, self._floor, connector, volumes)

    def few(self) -> Iterator[Figure]:
        """The sweep's look at few sessions."""
        for size in FEW:
            self._crowd.grow(size)
            yield from self._scanning.figures(self._crowd.volumes)

    def many(self) -> Iterator[Figure]:
        """The sweep's look at many sessions."""
        self._crowd.grow(MANY)
        yield from self._scanning.figures(self._crowd.volumes)

    def crowd(self) -> Iterator[Figure]:
        """One volume's life beside many sessions."""
        self._crowd.grow(CROWD)
        for connector in self._flags.connector:
            # As many rounds as beside none: two medians are compared.
            crowded = self._lives(connector, 3 if self._flags.quick else 9)
            yield from lives.figures(crowded)
            if connector in self._alone:
                yield from lives.crowd_figures(self._alone[connector], crowded)

    def _lives(self, connector: str, rounds: int) -> lives.Lives:
        return lives.measure(
            DIRECTORY, self._floor, lives.Lives(connector, len(self._crowd.volumes)), self._volume, rounds
        )


def main() -> int:
    """Measure the parts that were asked for, and print; 1 when one of them failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--connector", action="append", choices=CONNECTORS)
    parser.add_argument("--part", action="append", choices=PARTS)
    flags = parser.parse_args()
    flags.connector = flags.connector or CONNECTORS
    if "vm_job=" not in Path("/proc/cmdline").read_text():
        sys.exit("this changes the machine: start it as python -m benchmarks.nvme")
    bench = Bench(flags)
    figures: list[Figure] = []
    failed = False
    for part in flags.part or PARTS:
        begun = time.monotonic()
        try:
            figures.extend(getattr(bench, part)())
        except Exception:
            # The others are told all the same.
            traceback.print_exc()
            failed = True
        print(f"{part}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    show(figures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
