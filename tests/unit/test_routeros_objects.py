"""What the orphan report finds on a device: ours, what is left of ours, what was damaged, and never a foreign thing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.objects import ArrayObject, Inventory, ObjectKind, classify, find_id, is_of_snapshot
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.arrays.routeros.ownership import Ownership
from rds_csi.arrays.routeros.records import Disk, File
from rds_csi.model.sizes import GIB
from tests.support.routeros_arrays import DRIVER, PREFIX, VOLUME, array_on, attachment, device_for, spec
from tests.support.routeros_memory import POOL, MemoryDevice

NAMES = Names(DRIVER, "prod", PREFIX, POOL, "rds-csi")
OWNERSHIP = Ownership(DRIVER, "prod")


async def listed(device: MemoryDevice, means: SnapshotMeans = SnapshotMeans.NONE) -> dict[str, ArrayObject]:
    array = array_on(device, snapshots=means)
    assert isinstance(array, Inventory)
    found = await array.list_objects()
    await array.close()
    assert [item.key for item in found] == sorted(item.key for item in found)
    return {item.key: item for item in found}


async def test_a_volume_is_told_with_its_nodes_and_nothing_wrong() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec())
    await array.attach_volume(VOLUME, attachment())
    (item,) = (await listed(device)).values()
    assert (item.kind, item.object_id, item.attached_to) == (ObjectKind.VOLUME, VOLUME, ("node-1",))
    assert (item.size, item.problem) == (GIB, "")


async def test_foreign_disks_and_files_are_not_told() -> None:
    device = MemoryDevice()
    device.put(slot="nixos-1", type="file", size=GIB, file_path="raid10/nixos-1.img")
    device.put(slot="db", type="file", size=GIB, file_path="raid10/rds-csi/db.img", comment="the database")
    other = Mark(Kind.VOLUME, DRIVER, "other-cluster", "pvc-9", "pvc-9")
    path = replace(NAMES, cluster="other-cluster").volume_path("pvc-9")
    device.put(slot="pvc-9", type="file", size=GIB, file_path=path, comment=other.encode())
    assert await listed(device) == {}


async def test_a_file_without_a_disk_is_a_leftover_whose_id_a_plain_slot_tells() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec("pvc-1"))
    await array.create_volume(spec(VOLUME))
    for disk in [disk for disk in device.disks.values() if disk.type == "file"]:
        del device.disks[disk.id]
    short, long = (await listed(device)).values()
    assert {short.kind, long.kind} == {ObjectKind.LEFTOVER}
    by_id = {item.object_id: item for item in (short, long)}
    assert by_id["pvc-1"].path == NAMES.volume_path("pvc-1")
    hidden = by_id[""]
    told = (hidden.driver, hidden.cluster, hidden.slot, hidden.proof)
    assert find_id(["pvc-2", VOLUME], *told) == VOLUME
    assert find_id(["pvc-2"], *told) == ""


async def test_a_file_of_another_cluster_proves_nothing() -> None:
    device = MemoryDevice()
    path = replace(NAMES, cluster="other").volume_path("pvc-1")
    device.put(slot="x", type="file", size=GIB, file_path=path)
    del device.disks[device.by_slot("x").id]
    (item,) = (await listed(device)).values()
    assert (item.kind, item.object_id) == (ObjectKind.LEFTOVER, "")


async def test_a_disk_whose_file_is_gone_is_told() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec())
    del device.files[NAMES.volume_path(VOLUME)]
    (item,) = (await listed(device)).values()
    assert item.problem == f"its file {NAMES.volume_path(VOLUME)} is gone"


@pytest.mark.parametrize("comment", ["rds-csi/1/edited", "rds-csi/2/newer", "", "a note"])
async def test_a_disk_whose_mark_was_edited_emptied_or_overwritten_is_damaged(comment: str) -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec("pvc-1"))
    device.change("pvc-1", comment=comment)
    (item,) = (await listed(device)).values()
    assert (item.key, item.object_id) == ("damaged/pvc-1", "")
    assert item.problem


@pytest.mark.parametrize("means", [SnapshotMeans.BTRFS_SUBVOLUME, SnapshotMeans.FILE_COPY])
async def test_snapshots_are_told_and_what_is_left_of_them(means: SnapshotMeans) -> None:
    device = device_for(means)
    array = array_on(device, snapshots=means)
    await array.create_volume(spec("pvc-1"))
    await array.create_snapshot("snap-1", "snap-1", "pvc-1")
    device.run_jobs()
    found = await listed(device, means)
    assert set(found) == {"volume/pvc-1", "snapshot/snap-1"}
    assert found["snapshot/snap-1"].problem == "" or means is SnapshotMeans.FILE_COPY
    del device.disks[device.by_slot("s-snap-1").id]
    leftovers = [item for item in (await listed(device, means)).values() if item.kind is ObjectKind.LEFTOVER]
    assert [(item.object_id, is_of_snapshot(item, item.object_id)) for item in leftovers] == [("snap-1", True)]


async def test_a_file_that_is_being_copied_is_told_as_such() -> None:
    device = device_for(SnapshotMeans.FILE_COPY)
    device.copy_looks = 1000
    array = array_on(device, snapshots=SnapshotMeans.FILE_COPY)
    await array.create_volume(spec("pvc-1"))
    assert not (await array.create_snapshot("snap-1", "snap-1", "pvc-1")).ready
    assert any("s-snap-1" in path for path in device.files)
    found = await listed(device, SnapshotMeans.FILE_COPY)
    (copied,) = [item for item in found.values() if item.kind is ObjectKind.LEFTOVER]
    assert copied.object_id == "snap-1"
    assert "being copied" in copied.problem


async def test_a_subvolume_without_a_file_is_a_leftover() -> None:
    device = device_for(SnapshotMeans.BTRFS_SUBVOLUME)
    array = array_on(device, snapshots=SnapshotMeans.BTRFS_SUBVOLUME)
    await array.create_volume(spec("pvc-1"))
    del device.disks[device.by_slot("pvc-1").id]
    device.files.clear()
    (item,) = (await listed(device, SnapshotMeans.BTRFS_SUBVOLUME)).values()
    assert (item.kind, item.object_id) == (ObjectKind.LEFTOVER, "pvc-1")


def _volume_disk(volume_id: str, disk_id: str) -> Disk:
    mark = Mark(Kind.VOLUME, DRIVER, "prod", volume_id, volume_id)
    return Disk(disk_id, slot=volume_id, type="file", comment=mark.encode(), file_path=NAMES.volume_path(volume_id))


def test_what_is_made_or_removed_between_the_looks_is_no_damage() -> None:
    made, removed = _volume_disk("made", "*2"), _volume_disk("removed", "*1")
    files = [File("*9", removed.file_path, "file", GIB)]
    found = classify(OWNERSHIP, NAMES, before=[removed], files=files, subvolumes=(), after=[made])
    assert [(item.key, item.problem) for item in found] == [("volume/made", "")]


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True), st.lists(st.sampled_from("abcd"), unique=True))
def test_every_disk_and_every_file_is_told_once(disks: list[str], files: list[str]) -> None:
    there = [_volume_disk(volume_id, f"*{number + 1}") for number, volume_id in enumerate(disks)]
    found = classify(
        OWNERSHIP,
        NAMES,
        before=there,
        files=[File("*9", NAMES.volume_path(volume_id), "file", GIB) for volume_id in files],
        subvolumes=(),
        after=there,
    )
    volumes = {item.object_id: item.problem for item in found if item.kind is ObjectKind.VOLUME}
    leftovers = {item.object_id for item in found if item.kind is ObjectKind.LEFTOVER}
    assert set(volumes) == set(disks)
    assert {volume_id for volume_id, problem in volumes.items() if problem} == set(disks) - set(files)
    assert leftovers == set(files) - set(disks)
