"""Volumes on a RouterOS array: what is in the way, what goes wrong half-way, and whose a disk is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from rds_csi.arrays.routeros.commands import Command, Outcome
from rds_csi.arrays.routeros.mark import decode
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.arrays.routeros.volumes import SIZE_SECONDS
from rds_csi.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.targets import NvmeTarget
from tests.support.clock import FakeClock
from tests.support.routeros_arrays import PREFIX, VOLUME, array_on, attachment, spec
from tests.support.routeros_memory import DROPPED, HALF, LOST, POOL, REFUSED, UNSENT, MemoryDevice, Stored


@dataclass
class Busy(MemoryDevice):
    """A device on which somebody else does something after each command."""

    after_command: Callable[[], object] = lambda: None

    def execute(self, command: Command, *, refuse: bool = False, steps: int | None = None) -> Outcome:
        outcome = super().execute(command, refuse=refuse, steps=steps)
        self.after_command()
        return outcome


def our_files(device: MemoryDevice) -> list[str]:
    return [path for path in device.files if "/rds-csi/" in path]


async def test_a_volume_is_a_file_disk_that_is_exported_and_neither_mounted_nor_shared() -> None:
    device = MemoryDevice()
    volume = await array_on(device).create_volume(spec(size=GIB + 1))
    (disk,) = [disk for disk in device.disks.values() if disk.type == "file"]
    assert len(disk.slot) == 32
    assert disk.exported
    assert volume.size == disk.size == GIB + MIB
    assert volume.target == NvmeTarget(f"{PREFIX}{disk.slot}", ("192.0.2.1",), 4420)
    assert volume.provisioning is Provisioning.THICK
    assert volume.pool == POOL
    assert disk.file_path.startswith(f"{POOL}/rds-csi/{disk.slot}.")


async def test_a_second_create_finds_the_volume_as_it_is() -> None:
    device = MemoryDevice()
    made = await array_on(device).create_volume(spec())
    assert await array_on(device).create_volume(spec(size=5 * GIB)) == made


async def test_everything_is_read_back_from_the_array_by_another_process() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec(mutable_parameters={"queueSize": "64"}))
    await array.attach_volume(VOLUME, attachment())
    await array.modify_volume(VOLUME, {"queueSize": "32"})
    volume = await array_on(device).get_volume(VOLUME)
    assert volume.attachments == (attachment(),)
    assert volume.mutable_parameters == {"queueSize": "32"}
    assert await array_on(device).list_volumes() == [volume]


async def test_the_base_directory_is_made_only_in_a_pool_that_is_mounted() -> None:
    device = MemoryDevice()
    await array_on(device).create_volume(spec())
    assert f"{POOL}/rds-csi" in device.directories


@pytest.mark.parametrize("fault", [UNSENT, DROPPED, LOST])
async def test_a_lost_command_is_settled_within_the_call(fault: str) -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec("pvc-first"))
    for call in (
        lambda: array.create_volume(spec()),
        lambda: array.attach_volume(VOLUME, attachment()),
        lambda: array.detach_volume(VOLUME, ""),
        lambda: array.expand_volume(VOLUME, 2 * GIB),
        lambda: array.delete_volume(VOLUME),
    ):
        device.faults.append(fault)
        await call()
    assert len(our_files(device)) == 1


async def test_what_stays_lost_is_unavailable_and_never_not_found() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec())
    device.faulty_looks = True
    device.faults.extend([DROPPED] * 20)
    with pytest.raises(Unavailable):
        await array.get_volume(VOLUME)
    with pytest.raises(Unavailable):
        await array.attach_volume(VOLUME, attachment())


async def test_a_deletion_that_was_killed_half_way_is_finished_by_the_next() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec())
    device.faults.extend([HALF, DROPPED, DROPPED, DROPPED])
    with pytest.raises(Unavailable):
        await array.delete_volume(VOLUME)
    assert len(our_files(device)) == 1
    await array_on(device).delete_volume(VOLUME)
    assert our_files(device) == []


async def test_a_file_without_a_disk_is_never_adopted_and_goes_with_the_deletion() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec())
    (path,) = our_files(device)
    kept = device.files[path]
    device.disks = {key: disk for key, disk in device.disks.items() if disk.slot == POOL}
    with pytest.raises(FailedPrecondition, match="may hold data"):
        await array.create_volume(spec())
    assert device.files[path] is kept
    await array.delete_volume(VOLUME)
    assert our_files(device) == []
    await array.create_volume(spec())


async def test_a_foreign_file_in_the_base_directory_is_left() -> None:
    device = MemoryDevice()
    device.directories.add(f"{POOL}/rds-csi")
    device.files[f"{POOL}/rds-csi/pvc-a.img"] = Stored(GIB, "theirs", GIB)
    array = array_on(device)
    await array.create_volume(spec("pvc-a"))
    await array.delete_volume("pvc-a")
    assert our_files(device) == [f"{POOL}/rds-csi/pvc-a.img"]


async def test_a_full_pool_is_resource_exhausted_whatever_the_words_are() -> None:
    device = MemoryDevice(size=10 * GIB)
    array = array_on(device)
    with pytest.raises(ResourceExhausted):
        await array.create_volume(spec(size=11 * GIB))
    await array.create_volume(spec(size=9 * GIB))
    with pytest.raises(ResourceExhausted):
        await array.expand_volume(VOLUME, 20 * GIB)
    device.faults.append(REFUSED)
    device.refusal = "failure: not enough space on disk"
    with pytest.raises(ResourceExhausted):
        await array.create_volume(spec("pvc-small", size=MIB))
    assert len(our_files(device)) == 1


async def test_a_missing_policy_is_told_with_the_remedy() -> None:
    device = MemoryDevice(refusal="not enough permissions (9)")
    device.faults.append(REFUSED)
    with pytest.raises(FailedPrecondition, match="policies read and write"):
        await array_on(device).create_volume(spec())


async def test_unknown_words_are_told_as_routeros_says_them() -> None:
    device = MemoryDevice(refusal="failure: the moon is full")
    device.faults.extend([REFUSED] * 9)
    with pytest.raises(FailedPrecondition, match="the moon is full"):
        await array_on(device).create_volume(spec())


async def test_a_volume_that_came_out_too_small_is_removed_again() -> None:
    device = MemoryDevice(short_by=4096)
    with pytest.raises(Internal, match="removed again"):
        await array_on(device).create_volume(spec())
    assert our_files(device) == []
    assert len(device.disks) == 1


async def test_a_size_that_is_told_a_moment_later_is_waited_for() -> None:
    device, clock = MemoryDevice(short_by=4096), FakeClock()
    clock.at_first_pause = lambda: device.change("pvc-a", size=GIB)
    assert (await array_on(device, clock=clock).create_volume(spec("pvc-a"))).size == GIB
    device.grows, later = False, FakeClock()
    later.at_first_pause = lambda: device.change("pvc-a", size=2 * GIB)
    assert (await array_on(device, clock=later).expand_volume("pvc-a", 2 * GIB)).size == 2 * GIB
    last = FakeClock()
    with pytest.raises(FailedPrecondition, match="did not grow"):
        await array_on(device, clock=last).expand_volume("pvc-a", 3 * GIB)
    assert last.seconds == pytest.approx(SIZE_SECONDS)


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
async def test_a_disk_that_appears_while_it_is_deleted_is_never_called_deleted(kind: str) -> None:
    device = Busy(fs="btrfs")
    array = array_on(device, snapshots=SnapshotMeans.BTRFS_SUBVOLUME)
    await array.create_volume(spec())
    if kind == "snapshot":
        await array.create_snapshot("snap-a", "snap-a", VOLUME)
    disk = list(device.disks.values())[-1]
    # Somebody removes the disk, and after the next command it is there again.
    del device.disks[disk.id]
    device.after_command = lambda: device.disks.update({disk.id: disk})
    call = array.delete_volume(VOLUME) if kind == "volume" else array.delete_snapshot("snap-a")
    with pytest.raises(Unavailable, match="appeared meanwhile"):
        await call
    assert disk.file_path in device.files
    device.after_command = lambda: None
    await (array.delete_volume(VOLUME) if kind == "volume" else array.delete_snapshot("snap-a"))
    assert disk.file_path not in device.files


async def test_a_pool_that_the_array_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        await array_on(MemoryDevice()).create_volume(spec(pool="elsewhere"))
    assert (await array_on(MemoryDevice()).create_volume(spec(pool=POOL))).pool == POOL


async def test_a_volume_with_attachments_is_not_deleted() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec())
    await array.attach_volume(VOLUME, attachment("node-7"))
    for one in (array, array_on(device)):
        with pytest.raises(FailedPrecondition, match="node-7"):
            await one.delete_volume(VOLUME)
    await array_on(device).detach_volume(VOLUME, "")
    # The first one still remembers the attachment, and looks before it refuses.
    await array.delete_volume(VOLUME)
    assert our_files(device) == []


async def test_a_disk_of_another_cluster_in_the_place_is_told_and_untouched() -> None:
    device = MemoryDevice()
    await array_on(device, cluster="other").create_volume(spec("pvc-a"))
    before = dict(device.disks), dict(device.files)
    array = array_on(device)
    with pytest.raises(AlreadyExists, match="other"):
        await array.create_volume(spec("pvc-a"))
    with pytest.raises(FailedPrecondition):
        await array.delete_volume("pvc-a")
    with pytest.raises(FailedPrecondition):
        await array.get_volume("pvc-a")
    assert (device.disks, device.files) == before
    assert await array.list_volumes() == []


async def test_a_disk_without_a_mark_in_the_place_is_told_and_untouched() -> None:
    device = MemoryDevice()
    device.put(slot="pvc-a", type="file", file_path=f"{POOL}/a.img", size=GIB)
    before = dict(device.disks), dict(device.files)
    array = array_on(device)
    for call in (array.create_volume(spec("pvc-a")), array.delete_volume("pvc-a"), array.get_volume("pvc-a")):
        with pytest.raises(FailedPrecondition, match="'pvc-a'"):
            await call
    assert (device.disks, device.files) == before


@pytest.mark.parametrize("edit", ["", "rds-csi/2/newer", "cut"])
async def test_a_damaged_mark_stops_everything_and_nothing_is_touched(edit: str) -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec("pvc-a"))
    comment = device.by_slot("pvc-a").comment
    device.change("pvc-a", comment=comment[:-3] if edit == "cut" else edit)
    before = dict(device.disks), dict(device.files)
    for one in (array, array_on(device)):
        for call in (
            one.create_volume(spec("pvc-a")),
            one.get_volume("pvc-a"),
            one.attach_volume("pvc-a", attachment()),
            one.expand_volume("pvc-a", 2 * GIB),
            one.delete_volume("pvc-a"),
        ):
            with pytest.raises(FailedPrecondition):
                await call
    assert (device.disks, device.files) == before
    device.change("pvc-a", comment=comment)
    await array.delete_volume("pvc-a")


async def test_a_disk_that_was_renamed_by_hand_is_still_the_volume() -> None:
    device = MemoryDevice()
    array = array_on(device)
    made = await array.create_volume(spec("pvc-a"))
    device.change("pvc-a", slot="renamed")
    for one in (array, array_on(device)):
        assert await one.get_volume("pvc-a") == made
        assert await one.create_volume(spec("pvc-a")) == made
        await one.attach_volume("pvc-a", attachment())
        await one.detach_volume("pvc-a", "")
    await array.delete_volume("pvc-a")
    assert our_files(device) == []


async def test_two_disks_with_the_mark_of_one_volume_are_both_named() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec("pvc-a"))
    disk = device.by_slot("pvc-a")
    device.put(slot="twin", type="file", comment=disk.comment, nqn=disk.nqn, exported=True, size=GIB)
    for one in (array, array_on(device)):
        for call in (one.get_volume("pvc-a"), one.delete_volume("pvc-a"), one.attach_volume("pvc-a", attachment())):
            with pytest.raises(FailedPrecondition, match="'pvc-a' and 'twin'"):
                await call


async def test_a_disk_whose_file_was_changed_by_hand_is_not_deleted() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec("pvc-a"))
    device.change("pvc-a", file_path=f"{POOL}/tenant.img")
    device.files[f"{POOL}/tenant.img"] = Stored(GIB, "theirs", GIB)
    with pytest.raises(FailedPrecondition, match=r"tenant\.img"):
        await array_on(device).delete_volume("pvc-a")
    assert f"{POOL}/tenant.img" in device.files


async def test_expanding_never_shrinks_and_reads_the_size_back() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec(size=2 * GIB))
    assert (await array.expand_volume(VOLUME, GIB)).size == 2 * GIB
    assert (await array.expand_volume(VOLUME, 3 * GIB - 1)).size == 3 * GIB
    device.grows = False
    with pytest.raises(FailedPrecondition, match="did not grow"):
        await array.expand_volume(VOLUME, 4 * GIB)
    with pytest.raises(NotFound):
        await array.expand_volume("pvc-absent", GIB)


async def test_a_size_seen_long_ago_never_makes_a_volume_smaller() -> None:
    device, clock = MemoryDevice(), FakeClock()
    array = array_on(device, clock=clock)
    await array.create_volume(spec(size=GIB))
    await array_on(device).expand_volume(VOLUME, 5 * GIB)
    clock.seconds += 60
    assert (await array.expand_volume(VOLUME, 2 * GIB)).size == 5 * GIB


async def test_a_volume_that_was_made_anew_meanwhile_is_not_taken_for_the_old_one() -> None:
    device = MemoryDevice()
    array, other = array_on(device), array_on(device)
    await array.create_volume(spec(size=GIB))
    await other.delete_volume(VOLUME)
    await other.create_volume(spec(size=5 * GIB))
    assert (await array.expand_volume(VOLUME, 2 * GIB)).size == 5 * GIB


async def test_attachments_of_two_controllers_are_both_kept() -> None:
    device = MemoryDevice()
    array, other = array_on(device), array_on(device)
    await array.create_volume(spec())
    await other.attach_volume(VOLUME, attachment("node-1"))
    attached = await array.attach_volume(VOLUME, attachment("node-2"))
    assert [item.node.node_id for item in attached.attachments] == ["node-1", "node-2"]
    newer = replace(attachment("node-1"), token="newer")
    assert newer in (await other.attach_volume(VOLUME, newer)).attachments
    (disk,) = [disk for disk in device.disks.values() if disk.comment]
    mark = decode(disk.comment)
    assert mark is not None
    assert len(mark.attachments) == 2


async def test_absent_volumes_are_not_found_or_detached_and_deleted_already() -> None:
    array = array_on(MemoryDevice())
    await array.delete_volume(VOLUME)
    await array.detach_volume(VOLUME, "")
    for call in (
        array.get_volume(VOLUME),
        array.attach_volume(VOLUME, attachment()),
        array.modify_volume(VOLUME, {}),
    ):
        with pytest.raises(NotFound):
            await call
