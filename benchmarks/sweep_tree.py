"""The sweep's decision about thousands of made-up subsystems: scan, users of all devices, closer looks, verdicts."""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Figure
from tests.support.sweep_host import SweepHost

SUBSYSTEMS = 5000
# Of ten subsystems: one of another driver, one orphan, one with a partition; the others are mounted, some by name.
AIM_SECONDS = 5.0
ROUNDS = 3

# A tree of 100,000 files: in memory, where there is such a place.
_MEMORY = "/dev/shm"


def measure_sweep_tree(subsystems: int = SUBSYSTEMS) -> Sequence[Figure]:
    """Decide about a made-up host, as a dry run does; the tree's making is not measured."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as directory:
        return asyncio.run(_measure(Path(directory), subsystems))


async def _measure(directory: Path, subsystems: int) -> Sequence[Figure]:
    host = SweepHost(directory)
    for number in range(subsystems):
        _make(host, number)
    cleaner = host.cleaner(dry_run=True)
    seconds = []
    outcomes = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        outcomes = list(await cleaner.cleanup_orphaned_connections())
        seconds.append(time.perf_counter() - begun)
    counts = Counter(outcome.verdict.decision.value for outcome in outcomes)
    told = ", ".join(f"{count} {decision}" for decision, count in sorted(counts.items()))
    return [
        Figure(
            f"sweep decision about {subsystems} subsystems ({told}), best of {ROUNDS}",
            f"{min(seconds):.2f} s",
            f"≤ {AIM_SECONDS:g} s",
        )
    ]


def _make(host: SweepHost, number: int) -> None:
    kind = number % 10
    if kind == 0:
        host.session(f"v{number}", prefix="nqn.2000-02.com.mikrotik:")
    elif kind == 1:
        host.session(f"v{number}", state="connecting")
    else:
        session = host.session(f"v{number}")
        if kind == 2:
            host.mount(f"/mnt/{number}", host.partition(session), f"/dev/nvme{session}n1p1")
        else:
            host.mount_disk(session, f"/mnt/{number}")
            host.mount_disk(session, f"/pods/{number}")
