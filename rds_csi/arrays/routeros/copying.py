"""Snapshots and clones by copying files (/file/copy), in a job on the device, which adds the disk when all is copied.

While it runs, the mark of the SOURCE names the copy (its ``job``): so everybody knows that the source must not change,
and what is being made of it. A part of a copy whose job has died is removed, its name says that it is ours, and the
copy is begun anew by the repeated call. A copy that is whole has a disk; what is left of it in the source's mark is
cleared by whoever next wants to change the source.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from rds_csi import deadline
from rds_csi.arrays.routeros.btrfs import make_ready
from rds_csi.arrays.routeros.commands import AddDisk, Command, Deed, Expect, SetDisk, Step
from rds_csi.arrays.routeros.copy_records import BeingCopied, Copy, check_unwritten, copies_of
from rds_csi.arrays.routeros.core import Core, Plan
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.pool import Site
from rds_csi.arrays.routeros.settling import UNSENT
from rds_csi.arrays.routeros.volumes import Volumes, clear, file_disk, not_found
from rds_csi.errors import DriverError, NotFound, ResourceExhausted, Unavailable
from rds_csi.model.sizes import MIB, round_up
from rds_csi.model.volumes import SourceKind, Volume, VolumeSpec
from rds_csi.retry import RetryPolicy, retry_transient

# Seconds between two looks at a copy, at first and doubled up to; how long a call without a deadline waits for one.
FIRST_POLL_SECONDS = 0.1
POLL_SECONDS = 2.0
WAIT_SECONDS = 60.0
# Seconds of the caller's deadline that are left for saying how far the copy is.
MARGIN_SECONDS = 5.0


class Copies:
    """Starts copies, watches them, and cleans up after dead ones."""

    def __init__(
        self, core: Core, volumes: Volumes, *, today: Callable[[], datetime], policy: RetryPolicy = UNSENT
    ) -> None:
        self._core = core
        self._volumes = volumes
        self._today = today
        self._policy = policy

    async def take(self, mark: Mark) -> Owned | tuple[Owned, Copy]:
        """The snapshot that ``mark`` tells of: its disk, or its source and the copy that runs."""
        site = await self._core.pool.writable()
        taken = await self._core.find(Kind.SNAPSHOT, mark.object_id)
        if taken is not None:
            return taken
        pending = await self.pending(mark.object_id)
        if pending and await self._runs(site, pending[1]):
            return pending
        source = pending[0] if pending else await self._volumes.need(mark.source_volume_id)
        if not pending and source.mark.job and Copy.decode(source.mark.job).target == (Kind.SNAPSHOT, mark.object_id):
            # Begun between the two looks: whether it runs nobody has asked.
            raise _begun(source)
        ready = replace(mark, created=mark.created or self._today(), ready=True)
        begun = await self._begin(site, source, Copy(Kind.SNAPSHOT, mark.object_id, _time(ready), mark.name), ready)
        # A small one may be whole by now.
        return await self._core.find(Kind.SNAPSHOT, mark.object_id) or begun

    async def pending(self, snapshot_id: str) -> tuple[Owned, Copy] | None:
        """The source and the copy that is to be the snapshot, by the marks; None when there is none."""
        copies = copies_of(await self._core.all(Kind.VOLUME))
        return next((item for item in copies if item[1].target == (Kind.SNAPSHOT, snapshot_id)), None)

    async def restore(self, spec: VolumeSpec, source: Owned) -> Volume:
        """Make a volume whose first content is the source's; waits for the copy as long as the caller does.

        Unavailable, saying how far it is, when it takes longer.
        """
        site = await self._core.pool.writable()
        size = round_up(spec.size, MIB)
        ends = self._core.clock.now() + min(WAIT_SECONDS, _patience())
        pause = FIRST_POLL_SECONDS
        while True:
            made = await self._core.find(Kind.VOLUME, spec.volume_id)
            if made is not None:
                return self._volumes.volume(await make_ready(self._core, made, spec, size))
            source = await self._again(source)
            if not await self._goes_on(site, source, spec.volume_id):
                mark = self._volumes.mark(spec, ready=size <= source.disk.size)
                await self._begin(site, source, Copy(Kind.VOLUME, spec.volume_id, self._today(), spec.name), mark)
            if self._core.clock.now() >= ends:
                raise Unavailable(await self._progress(site, Kind.VOLUME, spec.volume_id, source))
            await self._core.clock.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)

    async def settle(self, kind: Kind, object_id: str) -> None:
        """Clear the copy that the disk's mark names, when it is over; BeingCopied, saying how far it is, until then."""
        site = await self._core.pool.site()
        owned = await self._core.find(kind, object_id)
        if owned is None or not owned.mark.job:
            return
        copy = Copy.decode(owned.mark.job)
        if await self._core.find(copy.kind, copy.object_id) is None and await self._runs(site, copy):
            raise BeingCopied(
                await self._progress(site, copy.kind, copy.object_id, owned), remedy="Wait until the copy is whole."
            )
        await self._note(owned, owned.mark.job, "")

    async def cancel(self, snapshot_id: str) -> None:
        """Forget a copy that died before it was a snapshot; BeingCopied while it runs, as a job cannot be stopped."""
        pending = await self.pending(snapshot_id)
        if pending is not None:
            await self.settle(Kind.VOLUME, pending[0].object_id)

    async def _goes_on(self, site: Site, source: Owned, volume_id: str) -> bool:
        """Whether the copy to that volume runs; BeingCopied while another one of the same source does."""
        if not source.mark.job:
            return False
        copy = Copy.decode(source.mark.job)
        if copy.target == (Kind.VOLUME, volume_id):
            return await self._runs(site, copy)
        await self.settle(source.mark.kind, source.object_id)
        return False

    async def _again(self, source: Owned) -> Owned:
        found = await self._core.find(source.mark.kind, source.object_id)
        if found is None:
            raise NotFound(f"the source {source.object_id} does not exist on this array any more")
        return found

    async def _begin(self, site: Site, source: Owned, copy: Copy, mark: Mark) -> tuple[Owned, Copy]:
        """Write the copy down, remove what is left of a dead one, start the job, write down which it is.

        BeingCopied when another copy of the source has begun since ``source`` was looked at.
        """
        before = source.mark.job
        if before and Copy.decode(before).target != copy.target:
            await self.settle(source.mark.kind, source.object_id)
            before = ""
        source = await self._claim(source, before, copy.encode())
        names = site.names
        anchors = self._core.ownership.anchors(names, copy.kind, copy.object_id)
        path = anchors.paths[0]
        if not await clear(self._core, site, copy.kind, copy.object_id, anchors, path):
            return source, copy
        if copy.kind is Kind.VOLUME:
            step = self._volumes.new_disk(site, mark, None)
        else:
            disk = file_disk(names.snapshot_slot(copy.object_id), path, None)
            step = AddDisk({**disk, "nvme-tcp-export": "no", "comment": mark.encode()})
        then = Command(anchors, (Deed(Expect(disks=0), (step,)),))

        async def start() -> str:
            if not await self._core.pool.has_room(source.disk.size):
                raise ResourceExhausted(
                    f"the pool has not the {source.disk.size} bytes for {copy.title}",
                    remedy="Make room in the pool: delete volumes or snapshots, or add disks.",
                )
            # Whoever saw no job may have cleared the record since; the source may be written to by now.
            if (await self._again(source)).mark.job != copy.encode():
                raise _begun(source)
            return await self._core.client.copy_file(self._core.file_of(site, source), path, then)

        try:
            job = await retry_transient(start, self._policy)
        except (LostReply, GarbageReply):
            # It may run or not: the next call sees whether the file grows.
            return source, copy
        except DriverError:
            await self._note(source, copy.encode(), "")
            raise
        told = replace(copy, job=job)
        return await self._note(source, copy.encode(), told.encode()), told

    async def _claim(self, source: Owned, before: str, after: str) -> Owned:
        """Write into the source's mark that a copy begins (``after``), in place of ``before``, while nobody can write
        to the source. BeingCopied when the mark names yet another: a record that is replaced is a job that nobody
        waits for, while the source is written to."""

        def plan(owned: Owned) -> tuple[Step, ...] | None:
            if owned.mark.job == after:
                return None
            if owned.mark.job != before:
                raise _begun(owned)
            check_unwritten(owned)
            return (_set_job(owned, after),)

        return await self._write(source, plan)

    async def _note(self, source: Owned, before: str, after: str) -> Owned:
        """Write ``after`` into the source's mark in place of ``before``; nothing when it says something else."""

        def plan(owned: Owned) -> tuple[Step, ...] | None:
            return (_set_job(owned, after),) if owned.mark.job == before else None

        return await self._write(source, plan)

    async def _write(self, source: Owned, plan: Plan) -> Owned:
        what = f"the copy of {source.object_id} could not be written down"
        change = await self._core.change(source.mark.kind, source.object_id, plan, what=what)
        if change.after is None:
            raise not_found(source.object_id)
        return change.after

    async def _runs(self, site: Site, copy: Copy) -> bool:
        """Whether the device is at it. Where the job is not known, any job of ours may be it (waiting too long is
        harmless), and so may one that is seen only by its file, which grows."""
        jobs = await self._core.client.running_jobs()
        if copy.job:
            return copy.job in jobs
        if jobs:
            return True
        first = await self._part(site, copy.kind, copy.object_id)
        await self._core.clock.sleep(POLL_SECONDS)
        if first != await self._part(site, copy.kind, copy.object_id):
            return True
        # Its call may have got as far as starting it meanwhile.
        return bool(await self._core.client.running_jobs())

    async def _part(self, site: Site, kind: Kind, object_id: str) -> int | None:
        """Bytes of the file that is being written; None when there is none, or its size is not told."""
        anchors = self._core.ownership.anchors(site.names, kind, object_id)
        outcome = await self._core.settling.execute(Command(anchors, (Deed(Expect(disks=0, no_file=True)),)))
        return outcome.files[0].size if outcome.files else None

    async def _progress(self, site: Site, kind: Kind, object_id: str, source: Owned) -> str:
        part = await self._part(site, kind, object_id)
        done = "some" if part is None else str(part)
        return f"{kind.name.lower()} {object_id} is being copied: {done} of {source.disk.size} bytes"


def _set_job(owned: Owned, job: str) -> SetDisk:
    return SetDisk({"comment": replace(owned.mark, job=job).encode()})


def _begun(source: Owned) -> BeingCopied:
    return BeingCopied(
        f"the copies of {source.object_id} were changed by another call meanwhile", remedy="Ask again: one at a time."
    )


def kind_of(kind: SourceKind) -> Kind:
    """The disk's kind for a content source's."""
    return Kind.SNAPSHOT if kind is SourceKind.SNAPSHOT else Kind.VOLUME


def _time(mark: Mark) -> datetime:
    return mark.created or datetime.fromtimestamp(0, UTC)


def _patience() -> float:
    left = deadline.remaining()
    return WAIT_SECONDS if left is None else max(0.0, left - MARGIN_SECONDS)
