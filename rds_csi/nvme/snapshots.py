"""Gathers what the sweep decides upon: sessions, who uses their devices, records, operations, as one snapshot."""

import asyncio
import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rds_csi.blockdev.disks import Disk, disk_of, node_name
from rds_csi.blockdev.mounts import Mounted
from rds_csi.blockdev.users import DeviceUsers, Uses
from rds_csi.errors import DriverError
from rds_csi.locks import OperationLocks
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.decision import Snapshot, every, is_foreign, names
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session, SessionIndex
from rds_csi.nvme.sightings import Sightings

log = logging.getLogger(__name__)

# The array, or a cluster, is asked what is attached elsewhere.
MOVED_SECONDS = 10.0

# drivers/nvme/host/core.c, nvme_alloc_ns(): a disk has the number of its subsystem, or, without native multipath,
# of its controller, and the kernel gives that number to no other while the disk is mounted.
_DISK = re.compile(r"nvme(?P<instance>\d+)n\d+")

Staged = Callable[[], Awaitable[Sequence[StageRecord]]]
Moved = Callable[[], Awaitable[frozenset[str]]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is ours, and what the sweep may do (settings)."""

    prefix: str
    grace: float
    sweep_unused: bool


class Snapshots:
    """Takes snapshots. What could not be looked at is in them, as such; only sysfs itself has to be readable."""

    def __init__(
        self,
        resolver: DeviceResolver,
        users: DeviceUsers,
        sightings: Sightings,
        *,
        staged: Staged,
        moved: Moved,
        locks: OperationLocks,
        rules: Rules,
    ) -> None:
        self._resolver = resolver
        self._users = users
        self._sightings = sightings
        self._staged = staged
        self._moved = moved
        self._locks = locks
        self._rules = rules

    async def of_all(self, now: float) -> Snapshot:
        """Every subsystem; of ours also who uses it, as far as the tables of all devices tell."""
        snapshot = await self._take(await self._resolver.index(), now, await self._ask_moved())
        return replace(snapshot, running=self._running(snapshot))

    async def again(self, nqn: str, before: Snapshot, now: float) -> Snapshot:
        """One subsystem of ours that was in ``before`` and whose locks the caller holds, looked at anew; an empty
        snapshot when it has gone. A left-over beside its successor is not in it."""
        session = await self._resolver.session(nqn)
        index = SessionIndex({nqn: (session,)} if session is not None else {})
        # Who has moved may have come back meanwhile; that another one has gone would only cost it its grace.
        moved = await self._ask_moved() if nqn in before.moved else frozenset()
        return await self._take(index, now, moved, around=before.index)

    async def closer(self, snapshot: Snapshot, nqns: Iterable[str]) -> Snapshot:
        """The same, with what else uses the devices of ``nqns``: asked only before they are taken away."""
        owners = {disk: nqn for nqn in nqns for disk in _disks(snapshot.index.by_nqn[nqn])}
        if not owners:
            return snapshot
        uses = await self._users.look_closer(tuple(owners))
        known = {disk.name: nqn for disk, nqn in owners.items()}
        found = {nqn: list(phrases) for nqn, phrases in snapshot.uses.items()}
        for name, phrases in uses.by_disk.items():
            found.setdefault(known[name], []).extend(phrases)
        blind = dict.fromkeys(owners.values(), uses.blind) if uses.blind else {}
        unseen = {known[name]: reason for name, reason in uses.unseen.items()}
        return replace(snapshot, uses=found, unseen={**snapshot.unseen, **unseen, **blind})

    async def _take(
        self, index: SessionIndex, now: float, moved: frozenset[str], around: SessionIndex | None = None
    ) -> Snapshot:
        """``around`` are other sessions, whose devices lost mounts may be of."""
        ours = [session for session in every(index) if not is_foreign(session, self._rules.prefix)]
        uses = await self._users.look(_disks(ours))
        blind = uses.blind
        records: Mapping[str, Sequence[StageRecord]] = {}
        try:
            records = _by_nqn(await self._staged())
        except DriverError as error:
            blind = blind or error.message
        found, unseen = _attribute((index, around or index), ours, uses, records)
        return Snapshot(
            index=index,
            prefix=self._rules.prefix,
            now=now,
            grace=self._rules.grace,
            sweep_unused=self._rules.sweep_unused,
            uses=found,
            unseen=unseen,
            blind=blind,
            records=records,
            moved=moved,
            hangs=self._sightings.hangs,
            first_seen=self._sightings.first_seen,
        )

    def _running(self, snapshot: Snapshot) -> Mapping[str, str]:
        """By NQN. Operations hold the volume's id, its NQN, or both."""
        operations = {running.key: running.operation for running in self._locks.running()}
        found = {nqn: operations[nqn] for nqn in snapshot.index.by_nqn if nqn in operations}
        for nqn, records in snapshot.records.items():
            for record in records:
                if record.volume_id in operations:
                    found.setdefault(nqn, operations[record.volume_id])
        return found

    async def _ask_moved(self) -> frozenset[str]:
        """Who does not answer knows of nothing: then the rules for all others hold."""
        try:
            async with asyncio.timeout(MOVED_SECONDS):
                return await self._moved()
        except (DriverError, TimeoutError) as error:
            log.info("what is attached elsewhere is not known: %s", error or "no answer in time")
            return frozenset()


def _disks(sessions: Iterable[Session]) -> tuple[Disk, ...]:
    return tuple(Disk(ns.device, ns.number) for session in sessions for ns in session.namespaces)


def _by_nqn(records: Iterable[StageRecord]) -> Mapping[str, Sequence[StageRecord]]:
    found: dict[str, list[StageRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record.target, NvmeTarget):
            found[record.target.nqn].append(record)
    return found


def _attribute(
    indexes: Iterable[SessionIndex],
    ours: Sequence[Session],
    uses: Uses,
    records: Mapping[str, Sequence[StageRecord]],
) -> tuple[Mapping[str, Sequence[str]], Mapping[str, str]]:
    """Uses and what could not be told, by NQN. All sessions of one NQN share theirs: they are disconnected together."""
    found: dict[str, list[str]] = defaultdict(list)
    for session in ours:
        for disk in _disks([session]):
            found[session.nqn] += uses.by_disk.get(disk.name, ())
        for record in records.get(session.nqn, ()):
            if not record.block and record.staging_path in uses.mount_points:
                found[session.nqn].append(f"something is mounted at its staging path {record.staging_path}")
    unseen: dict[str, str] = {}
    whose = _Owners(indexes if uses.lost else (), records)
    for mount in uses.lost:
        owners = whose.of(mount)
        for nqn in owners:
            found[nqn].append(
                f"{node_name(mount.source) or mount.number}, which has left the kernel, is mounted at {mount.path}"
            )
        if not owners:
            reason = f"the device of the mount at {mount.path} is gone, and may have been this one's"
            unseen |= {session.nqn: reason for session in ours}
    return {nqn: tuple(dict.fromkeys(phrases)) for nqn, phrases in found.items() if phrases}, unseen


class _Owners:
    """Whose device a lost mount was: told by the stage record, or by the number in the device's name."""

    def __init__(self, indexes: Iterable[SessionIndex], records: Mapping[str, Sequence[StageRecord]]) -> None:
        self._by_number: dict[str, set[str]] = defaultdict(set)
        self._by_name: dict[str, set[str]] = defaultdict(set)
        for nqn, of_nqn in records.items():
            for record in of_nqn:
                self._by_number[record.device_number].add(nqn)
        for session in itertools.chain.from_iterable(map(every, indexes)):
            for name in (session.subsystem, *names(session), *(ns.device for ns in session.namespaces)):
                self._by_name[name].add(session.nqn)

    def of(self, mount: Mounted) -> frozenset[str]:
        """NQNs; none when it is not known."""
        device = disk_of(node_name(mount.source))
        match = _DISK.fullmatch(device)
        instance = match["instance"] if match else ""
        known = (device, f"nvme-subsys{instance}", f"nvme{instance}") if match else ()
        found = (self._by_number.get(mount.number), *map(self._by_name.get, known))
        return frozenset(next(filter(None, found), ()))
