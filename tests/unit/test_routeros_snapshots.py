"""Snapshots, clones and groups on a RouterOS array, by btrfs subvolumes and by copying files."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Expect, Outcome, SetDisk
from rds_csi.arrays.routeros.copy_records import Copy
from rds_csi.arrays.routeros.mark import decode
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.arrays.routeros.records import Disk
from rds_csi.errors import AlreadyExists, DriverError, FailedPrecondition, NotFound, Unavailable, Unimplemented
from rds_csi.model.sizes import GIB
from rds_csi.retry import RetryPolicy
from tests.support.clock import FakeClock
from tests.support.routeros_arrays import NOW, array_on, attachment, device_for, from_snapshot, from_volume, spec
from tests.support.routeros_memory import DROPPED, HALF, LOST, POOL, MemoryClient, MemoryDevice

BTRFS, COPY = SnapshotMeans.BTRFS_SUBVOLUME, SnapshotMeans.FILE_COPY
BOTH = pytest.mark.parametrize("means", [BTRFS, COPY])


def content(device: MemoryDevice, slot: str) -> str:
    return device.files[device.by_slot(slot).file_path].content


@BOTH
async def test_a_snapshot_holds_the_volumes_data_and_outlives_it(means: SnapshotMeans) -> None:
    device = device_for(means)
    array = array_on(device, snapshots=means)
    await array.create_volume(spec("pvc-a"))
    original = content(device, "pvc-a")
    await array.create_snapshot("snap", "snap", "pvc-a")
    device.run_jobs()
    snapshot = await array.create_snapshot("snap", "snap", "pvc-a")
    assert (snapshot.ready, snapshot.size, snapshot.source_volume_id) == (True, GIB, "pvc-a")
    assert snapshot.created == NOW
    assert not device.by_slot("s-snap").exported
    await array.delete_volume("pvc-a")
    assert content(device, "s-snap") == original
    assert await array_on(device, snapshots=means).list_snapshots() == [snapshot]
    await array.delete_snapshot("snap")
    assert len(device.disks) == 1
    assert not device.files
    with pytest.raises(NotFound):
        await array.get_snapshot("snap")


@BOTH
@pytest.mark.parametrize("size", [GIB, 3 * GIB])
async def test_a_volume_from_a_snapshot_or_volume_has_its_data_and_the_size_asked_for(
    means: SnapshotMeans, size: int
) -> None:
    device = device_for(means)
    array = array_on(device, snapshots=means)
    await array.create_volume(spec("pvc-a"))
    await array.create_snapshot("snap", "snap", "pvc-a")
    device.run_jobs()
    await array.get_snapshot("snap")
    for volume_id, source in (("pvc-b", from_snapshot("snap")), ("pvc-c", from_volume("pvc-a"))):
        wanted = spec(volume_id, size, source=source)
        made = await array.create_volume(wanted)
        assert (made.size, made.source) == (size, source)
        assert content(device, volume_id) == content(device, "pvc-a")
        assert device.by_slot(volume_id).exported
        assert await array_on(device, snapshots=means).create_volume(wanted) == made
    await array.delete_snapshot("snap")
    await array.attach_volume("pvc-a", attachment())


@BOTH
async def test_what_was_made_half_is_made_anew(means: SnapshotMeans) -> None:
    device = device_for(means)
    array = array_on(device, snapshots=means)
    await array.create_volume(spec("pvc-a"))
    for fault in (HALF, LOST, DROPPED):
        device.faults.extend([fault] * 6)
        # A lost reply may be settled within the call.
        with contextlib.suppress(DriverError):
            await array.create_snapshot("snap", "snap", "pvc-a")
        device.faults.clear()
        array = array_on(device, snapshots=means)
        await array.create_snapshot("snap", "snap", "pvc-a")
        device.run_jobs()
        assert (await array.create_snapshot("snap", "snap", "pvc-a")).ready
        await array.delete_snapshot("snap")
    assert len(device.files) == 1


@BOTH
async def test_a_volume_not_yet_made_from_its_source_is_absent_until_the_repeated_call_has_completed_it(
    means: SnapshotMeans,
) -> None:
    device = device_for(means)
    array = array_on(device, snapshots=means)
    await array.create_volume(spec("pvc-a"))
    wanted = spec("pvc-b", 2 * GIB, source=from_volume("pvc-a"))
    made = await array.create_volume(wanted)
    mark = decode(device.by_slot("pvc-b").comment)
    assert mark is not None
    # As a killed call leaves it.
    unfinished = SetDisk({"comment": replace(mark, ready=False).encode()})
    device.execute(Command(Anchors(slots=("pvc-b",)), (Deed(Expect(disks=1), (unfinished,)),)))
    array = array_on(device, snapshots=means)
    with pytest.raises(NotFound):
        await array.get_volume("pvc-b")
    assert [volume.volume_id for volume in await array.list_volumes()] == ["pvc-a"]
    assert await array.create_volume(wanted) == made == await array.get_volume("pvc-b")


@BOTH
async def test_absent_sources_are_not_found(means: SnapshotMeans) -> None:
    array = array_on(device_for(means), snapshots=means)
    with pytest.raises(NotFound):
        await array.create_snapshot("snap", "snap", "pvc-absent")
    for source in (from_snapshot("absent"), from_volume("absent")):
        with pytest.raises(NotFound):
            await array.create_volume(spec(source=source))
    await array.delete_snapshot("absent")


async def test_a_source_that_another_controller_removed_is_not_found() -> None:
    device = device_for(BTRFS)
    array = array_on(device, snapshots=BTRFS)
    await array.create_volume(spec("pvc-a"))
    await array_on(device, snapshots=BTRFS).delete_volume("pvc-a")
    with pytest.raises(NotFound):
        await array.create_snapshot("snap", "snap", "pvc-a")
    assert not device.subvolumes


async def test_a_volume_that_is_in_no_subvolume_is_told() -> None:
    device = device_for(BTRFS)
    await array_on(device).create_volume(spec("pvc-a"))
    with pytest.raises(FailedPrecondition, match="subvolume of its own"):
        await array_on(device, snapshots=BTRFS).create_snapshot("snap", "snap", "pvc-a")


async def test_an_array_without_means_says_so() -> None:
    array = array_on(MemoryDevice())
    await array.create_volume(spec("pvc-a"))
    for call in (
        array.create_snapshot("snap", "snap", "pvc-a"),
        array.create_volume(spec("pvc-b", source=from_volume("pvc-a"))),
        array.create_group("group", "group", ["pvc-a"]),
    ):
        with pytest.raises(Unimplemented):
            await call
    with pytest.raises(NotFound):
        await array.get_snapshot("snap")


async def test_a_subvolume_pool_must_be_btrfs() -> None:
    with pytest.raises(FailedPrecondition, match="btrfs"):
        await array_on(MemoryDevice(fs="xfs"), snapshots=BTRFS).create_volume(spec())


async def test_a_snapshot_that_is_being_copied_is_not_ready_until_it_is_whole() -> None:
    device = device_for(COPY)
    array = array_on(device, snapshots=COPY)
    await array.create_volume(spec("pvc-a"))
    device.copy_looks = 99
    taken = await array.create_snapshot("snap", "a name", "pvc-a")
    assert (taken.ready, taken.name, taken.size) == (False, "a name", GIB)
    for one in (array, array_on(device, snapshots=COPY)):
        assert await one.get_snapshot("snap") == taken
        assert await one.list_snapshots() == [taken]
        assert await one.create_snapshot("snap", "a name", "pvc-a") == taken
    assert len(device.jobs) == 1
    device.run_jobs()
    whole = await array.get_snapshot("snap")
    assert whole.ready
    assert await array.list_snapshots() == [whole]


async def test_the_source_of_a_copy_stays_as_it_is_until_the_copy_is_over() -> None:
    device = device_for(COPY)
    array = array_on(device, snapshots=COPY)
    await array.create_volume(spec("pvc-a"))
    device.copy_looks = 99
    await array.create_snapshot("snap", "snap", "pvc-a")
    for call in (
        array.attach_volume("pvc-a", attachment()),
        array.expand_volume("pvc-a", 2 * GIB),
        array.delete_volume("pvc-a"),
        array.delete_snapshot("snap"),
    ):
        with pytest.raises(Unavailable, match="copied"):
            await call
    await array.attach_volume("pvc-a", attachment("reader", readonly=True))
    device.run_jobs()
    await array.attach_volume("pvc-a", attachment())


async def test_a_copy_whose_job_died_is_begun_anew_by_the_repeated_call() -> None:
    device = device_for(COPY)
    array = array_on(device, snapshots=COPY)
    await array.create_volume(spec("pvc-a"))
    await array.create_snapshot("snap", "snap", "pvc-a")
    device.kill_jobs()
    assert not (await array.create_snapshot("snap", "snap", "pvc-a")).ready
    assert len(device.jobs) == 1
    device.run_jobs()
    assert (await array.get_snapshot("snap")).ready
    await array.create_snapshot("other", "other", "pvc-a")
    device.kill_jobs()
    await array.delete_snapshot("other")
    assert len(device.files) == 2


async def test_a_volume_that_is_attached_for_writing_is_not_copied() -> None:
    device = device_for(COPY)
    array = array_on(device, snapshots=COPY)
    await array.create_volume(spec("pvc-a"))
    await array.attach_volume("pvc-a", attachment("writer"))
    with pytest.raises(FailedPrecondition, match="writer"):
        await array.create_snapshot("snap", "snap", "pvc-a")
    with pytest.raises(FailedPrecondition, match="writer"):
        await array.create_volume(spec("pvc-b", source=from_volume("pvc-a")))
    assert not device.jobs


async def test_a_long_copy_is_told_with_its_progress_and_found_by_the_repeated_call() -> None:
    device = device_for(COPY)
    array = array_on(device, snapshots=COPY)
    await array.create_volume(spec("pvc-a"))
    device.copy_looks = 500
    with pytest.raises(Unavailable, match=f"of {GIB} bytes"):
        await array.create_volume(spec("pvc-b", source=from_volume("pvc-a")))
    assert len(device.jobs) == 1
    with pytest.raises(Unavailable):
        await array_on(device, snapshots=COPY).create_volume(spec("pvc-c", source=from_volume("pvc-a")))
    assert len(device.jobs) == 1
    device.run_jobs()
    assert (await array.create_volume(spec("pvc-b", source=from_volume("pvc-a")))).size == GIB


async def test_a_group_is_of_one_moment_and_goes_as_a_whole() -> None:
    device = device_for(BTRFS)
    array = array_on(device, snapshots=BTRFS)
    for volume_id in ("pvc-a", "pvc-b"):
        await array.create_volume(spec(volume_id))
    group = await array.create_group("group", "a group", ["pvc-a", "pvc-b"])
    assert group.ready
    assert group.name == "a group"
    assert [item.source_volume_id for item in group.snapshots] == ["pvc-a", "pvc-b"]
    other = array_on(device, snapshots=BTRFS)
    assert await other.create_group("group", "a group", ["pvc-a", "pvc-b"]) == group
    assert await other.get_group("group") == group
    assert {item.group_id for item in await other.list_snapshots()} == {"group"}
    await other.delete_group("group")
    await other.delete_group("group")
    with pytest.raises(NotFound):
        await array.get_group("group")
    assert len(device.files) == 2


async def test_a_group_needs_volumes_that_nobody_writes_to() -> None:
    device = device_for(BTRFS)
    array = array_on(device, snapshots=BTRFS)
    for volume_id in ("pvc-a", "pvc-b"):
        await array.create_volume(spec(volume_id))
    await array.attach_volume("pvc-b", attachment("writer"))
    with pytest.raises(FailedPrecondition, match="writer"):
        await array.create_group("group", "group", ["pvc-a", "pvc-b"])
    assert await array.list_snapshots() == []
    # A single one is of one moment by itself.
    assert (await array.create_snapshot("snap", "snap", "pvc-b")).ready


@pytest.mark.parametrize("lives", range(1, 5))
async def test_a_group_that_was_half_made_is_taken_anew(lives: int) -> None:
    device = device_for(BTRFS)
    array = array_on(device, snapshots=BTRFS)
    for volume_id in ("pvc-a", "pvc-b"):
        await array.create_volume(spec(volume_id))
    device.faults.extend([""] * (lives - 1) + [DROPPED] * 9)
    with pytest.raises(Unavailable):
        await array.create_group("group", "group", ["pvc-a", "pvc-b"])
    device.faults.clear()
    first = [disk.id for disk in device.disks.values() if disk.slot.startswith("s-")]
    device.files[device.by_slot("pvc-a").file_path].content = "written meanwhile"
    again = array_on(device, snapshots=BTRFS)
    group = await again.create_group("group", "group", ["pvc-a", "pvc-b"])
    assert group.ready
    assert len(group.snapshots) == 2
    members = [disk for disk in device.disks.values() if disk.slot.startswith("s-")]
    whole = len(first) == 2
    assert [disk.id in first for disk in members] == [whole, whole]


async def test_a_snapshot_in_a_members_place_is_told() -> None:
    device = device_for(BTRFS)
    array = array_on(device, snapshots=BTRFS)
    await array.create_volume(spec("pvc-a"))
    await array.create_snapshot("group-pvc-a", "group-pvc-a", "pvc-a")
    with pytest.raises(AlreadyExists):
        await array.create_group("group", "group", ["pvc-a"])


async def test_a_foreign_disk_in_a_snapshots_place_is_untouched() -> None:
    device = device_for(BTRFS)
    array = array_on(device, snapshots=BTRFS)
    await array.create_volume(spec("pvc-a"))
    device.put(slot="s-snap", type="file", file_path=f"{POOL}/theirs.img", size=GIB)
    before = dict(device.disks), dict(device.files)
    with pytest.raises(FailedPrecondition):
        await array.create_snapshot("snap", "snap", "pvc-a")
    with pytest.raises(FailedPrecondition):
        await array.delete_snapshot("snap")
    assert (device.disks, device.files) == before


class SlowClient(MemoryClient):
    """Every call takes a while, so that whatever runs at the same time comes in between."""

    def __init__(self, device: MemoryDevice, turns: int) -> None:
        super().__init__(device)
        self._turns = turns

    async def execute(self, command: Command) -> Outcome:
        await self._wait()
        return await super().execute(command)

    async def find_disks(self, anchors: Anchors) -> tuple[Disk, ...]:
        await self._wait()
        return await super().find_disks(anchors)

    async def list_disks(self) -> tuple[Disk, ...]:
        await self._wait()
        return await super().list_disks()

    async def copy_file(self, source: str, destination: str, then: Command) -> str:
        await self._wait()
        return await super().copy_file(source, destination, then)

    async def _wait(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)


def named_copies(device: MemoryDevice) -> set[str]:
    """The ids of what the marks say is being made by copying."""
    marks = [decode(disk.comment) for disk in device.disks.values()]
    return {Copy.decode(mark.job).object_id for mark in marks if mark is not None and mark.job}


@pytest.mark.parametrize("turns", [(0, 0), (1, 1), (1, 5), (5, 1), (3, 4), (2, 9), (9, 2)])
@pytest.mark.parametrize("same_process", [True, False])
async def test_of_two_copies_of_one_source_one_waits_and_the_running_one_is_written_down(
    turns: tuple[int, int], same_process: bool
) -> None:
    device = device_for(COPY)
    await array_on(device, snapshots=COPY).create_volume(spec("pvc-a"))
    device.copy_looks = 10_000
    first = slow_array(device, turns[0])
    second = first if same_process else slow_array(device, turns[1])
    wanted = spec("pvc-c", source=from_volume("pvc-a"))

    def paths() -> set[str]:
        return {job.destination for job in device.jobs.values()}

    results = await asyncio.gather(
        first.create_snapshot("s1", "s1", "pvc-a"), second.create_volume(wanted), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert refused
    assert all(isinstance(error, Unavailable) for error in refused)
    assert len(paths()) <= 1
    assert len(device.jobs) == len(named_copies(device))
    assert all(any(name in path for name in named_copies(device)) for path in paths())
    with contextlib.suppress(Unavailable):
        await first.create_snapshot("s1", "s1", "pvc-a")
    if device.jobs:
        with pytest.raises(Unavailable, match="copied"):
            await first.attach_volume("pvc-a", attachment())
    device.copy_looks = 2
    for _ in range(3):
        device.run_jobs()
        with contextlib.suppress(Unavailable):
            await first.create_snapshot("s1", "s1", "pvc-a")
        with contextlib.suppress(Unavailable):
            await second.create_volume(wanted)
    assert (await first.get_snapshot("s1")).ready
    assert (await second.get_volume("pvc-c")).size == GIB
    await first.attach_volume("pvc-a", attachment())


def slow_array(device: MemoryDevice, turns: int) -> RouterosArray:
    return RouterosArray(
        array_on(device, snapshots=COPY).options,
        SlowClient(device, turns),
        clock=FakeClock().clock,
        today=lambda: NOW,
        policy=RetryPolicy(attempts=3, first_delay=0.0),
    )


async def test_a_copy_whose_record_was_cleared_before_it_began_is_not_begun() -> None:
    device = device_for(COPY)
    await array_on(device, snapshots=COPY).create_volume(spec("pvc-a"))
    slow, other = slow_array(device, 20), array_on(device, snapshots=COPY)
    taking = asyncio.create_task(slow.create_snapshot("s1", "s1", "pvc-a"))
    for _ in range(1000):
        if named_copies(device):
            break
        await asyncio.sleep(0)
    # It is seen written down, and no job at work for it.
    await other.attach_volume("pvc-a", attachment("writer"))
    with pytest.raises(Unavailable, match="meanwhile"):
        await taking
    assert not device.jobs
    assert not named_copies(device)


async def test_a_copy_whose_job_is_not_known_is_not_begun_again_while_any_job_runs() -> None:
    device = device_for(COPY)
    array = array_on(device, snapshots=COPY)
    await array.create_volume(spec("pvc-a"))
    device.copy_looks = 99
    device.faults.extend(["", "", LOST])
    assert not (await array.create_snapshot("snap", "snap", "pvc-a")).ready
    (job,) = device.jobs
    assert not device.faults
    for one in (array, array_on(device, snapshots=COPY)):
        assert not (await one.create_snapshot("snap", "snap", "pvc-a")).ready
        with pytest.raises(Unavailable, match="copied"):
            await one.attach_volume("pvc-a", attachment())
    assert list(device.jobs) == [job]
    device.run_jobs()
    assert (await array.create_snapshot("snap", "snap", "pvc-a")).ready
