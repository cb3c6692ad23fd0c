"""The sweep's look and decision in a running process, against what nvme-cli takes only to list the subsystems."""

import asyncio
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

from benchmarks.nvme.target import NQN_PREFIX, TOOL_SECONDS, Exported
from benchmarks.report import Figure
from rds_csi.blockdev.users import DeviceUsers
from rds_csi.filesystem.records import FileStageRecords
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.records import StageRecord
from rds_csi.nvme.orphans import OrphanCleaner
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sightings import Sightings
from rds_csi.nvme.snapshots import Staged
from rds_csi.workers import Workers

ROUNDS = 3
# The sweep's share of nvme-cli's time.
AIM = "≤ 0.20×"


class Scanning:
    """Sweeps that change nothing, as a node makes them: a stage record for each session, none of them an orphan."""

    def __init__(self, directory: Path) -> None:
        self._workers = Workers()
        self._records = FileStageRecords(str(directory / "scanning"), self._workers)
        self._recorded = 0

    def figures(self, volumes: Sequence[Exported]) -> Iterator[Figure]:
        """With these as all the sessions that there are."""
        return iter(asyncio.run(self._measure(volumes)))

    async def _measure(self, volumes: Sequence[Exported]) -> list[Figure]:
        await self._record(volumes[self._recorded :])
        resolver = DeviceResolver(HostPaths(), self._workers)
        cleaner = _cleaner_on(HostPaths(), self._workers, resolver, self._records.all)
        count = len(volumes)
        scans, sweeps, listings = [], [], []
        first = await _seconds_of_sweep(cleaner, count)
        for _ in range(ROUNDS):
            begun = monotonic()
            await resolver.index()
            scans.append(monotonic() - begun)
            sweeps.append(await _seconds_of_sweep(cleaner, count))
            listings.append(await asyncio.to_thread(_seconds_of_listing))
        scan, sweep, listing = map(statistics.median, (scans, sweeps, listings))
        return [
            Figure(
                f"{count} sessions: look and decision / nvme list-subsys -o json",
                f"{sweep * 1000:.0f} / {listing * 1000:.0f} ms = {sweep / listing:.2f}×"
                f" (the first one {first / listing:.2f}×)",
                AIM,
            ),
            Figure(
                f"{count} sessions: cost of one",
                f"{sweep / count * 1e6:.0f} µs ({scan / count * 1e6:.0f} µs of it the scan of sysfs)",
            ),
        ]

    async def _record(self, volumes: Sequence[Exported]) -> None:
        for volume in volumes:
            record = StageRecord(
                volume_id=volume.volume_id,
                staging_path=f"/run/bench/none/{volume.volume_id}",
                target=volume.target,
                config=ConnectionConfig(),
                size=volume.size,
                attachment="",
                boot_id="",
                fs_type="ext4",
            )
            await self._records.store(record, durable=False)
            self._recorded += 1


def _cleaner_on(host: HostPaths, workers: Workers, resolver: DeviceResolver, staged: Staged) -> OrphanCleaner:
    """A sweep that looks and decides, and changes nothing."""
    return OrphanCleaner(
        resolver,
        DeviceUsers(host, workers),
        Sightings(workers),
        disconnect=_refuse,
        staged=staged,
        locks=OperationLocks(),
        moved=_nothing_moved,
        prefix=NQN_PREFIX,
        grace=60.0,
        sweep_unused=True,
        metrics=Metrics(),
        dry_run=True,
    )


async def _seconds_of_sweep(cleaner: OrphanCleaner, count: int) -> float:
    begun = monotonic()
    outcomes = await cleaner.cleanup_orphaned_connections()
    assert len(outcomes) == count, f"{len(outcomes)} sessions, not {count}"
    return monotonic() - begun


def _seconds_of_listing() -> float:
    begun = monotonic()
    subprocess.run(["nvme", "list-subsys", "-o", "json"], check=True, capture_output=True, timeout=TOOL_SECONDS)
    return monotonic() - begun


async def _nothing_moved() -> frozenset[str]:
    return frozenset()


async def _refuse(session: Session) -> None:
    raise AssertionError(f"{session.nqn} would have been disconnected")
