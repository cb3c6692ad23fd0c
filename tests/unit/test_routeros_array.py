"""The RouterOS array as a whole: what a call costs, first contact, capacity, health, adoption, and the inventory."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from rds_csi.arrays.protocol import Array, ArrayOptions, Feature
from rds_csi.arrays.routeros.array import RouterosArray, open_array
from rds_csi.arrays.routeros.objects import Inventory
from rds_csi.arrays.routeros.options import Fencing, SnapshotMeans
from rds_csi.arrays.routeros.records import Version
from rds_csi.errors import (
    AlreadyExists,
    ConfigurationError,
    DriverError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import AccessMode, HealthStatus
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers
from tests.support.routeros_arrays import (
    DRIVER,
    PREFIX,
    VOLUME,
    array_on,
    attachment,
    device_for,
    spec,
)
from tests.support.routeros_memory import POOL, MemoryDevice


async def started(device: MemoryDevice, **options: Fencing | SnapshotMeans) -> RouterosArray:
    """An array after its first contact; what it asked until then does not count."""
    array = array_on(device, **options)  # type: ignore[arg-type]  # a test's own options
    await array.list_volumes()
    device.directories.add(f"{POOL}/rds-csi")
    device.calls.clear()
    return array


async def test_each_call_is_one_exec_when_nothing_stands_in_the_way() -> None:
    device = device_for(SnapshotMeans.BTRFS_SUBVOLUME)
    array = await started(device, snapshots=SnapshotMeans.BTRFS_SUBVOLUME)
    calls: list[tuple[str, Awaitable[object]]] = [
        ("execute", array.create_volume(spec())),
        ("execute", array.attach_volume(VOLUME, attachment())),
        ("execute", array.detach_volume(VOLUME, "node-1")),
        ("execute", array.expand_volume(VOLUME, 2 * GIB)),
        ("execute", array.create_snapshot("snap-a", "snap-a", VOLUME)),
        ("execute", array.delete_snapshot("snap-a")),
        ("list_disks", array.list_volumes()),
        ("execute", array.health(VOLUME)),
        ("find_disks", array.capacity("")),
        ("execute", array.delete_volume(VOLUME)),
        ("execute", array.delete_volume("pvc-absent")),
    ]
    for expected, call in calls:
        device.calls.clear()
        await call
        assert device.calls == [expected]


async def test_the_call_after_a_look_is_one_exec_in_a_new_process() -> None:
    device = MemoryDevice()
    await (await started(device)).create_volume(spec())
    array = await started(device)
    await array.get_volume(VOLUME)
    device.calls.clear()
    await array.attach_volume(VOLUME, attachment())
    assert device.calls == ["execute"]


async def test_an_array_that_is_away_does_not_fail_at_the_start_and_is_used_when_it_is_back() -> None:
    device = MemoryDevice(away=True)
    array = array_on(device)
    await array.start()
    (finding,) = await array.check()
    assert not finding.ok
    with pytest.raises(Unavailable):
        await array.create_volume(spec())
    with pytest.raises(Unavailable):
        await array.get_volume(VOLUME)
    device.away = False
    assert (await array.create_volume(spec())).size == GIB
    assert all(finding.ok for finding in await array.check())
    await array.close()


async def test_a_routeros_that_is_too_old_is_refused_with_its_version() -> None:
    array = array_on(MemoryDevice(version=Version((7, 20, 4), "7.20.4 (stable)")))
    for call in (array.create_volume(spec()), array.list_volumes(), array.delete_volume(VOLUME), array.capacity("")):
        with pytest.raises(FailedPrecondition, match=r"7\.20\.4"):
            await call


async def test_a_device_without_rose_storage_is_refused() -> None:
    array = array_on(MemoryDevice(packages=frozenset({"routeros"})))
    with pytest.raises(FailedPrecondition, match="rose-storage"):
        await array.list_volumes()


async def test_nothing_is_written_while_the_pool_is_not_mounted_but_nodes_are_shut_out() -> None:
    device = MemoryDevice()
    array = await started(device)
    await array.create_volume(spec())
    await array.attach_volume(VOLUME, attachment())
    device.change(POOL, mounted=False, mount_point="")
    array = array_on(device)
    for call in (array.create_volume(spec("pvc-new")), array.delete_volume(VOLUME), array.capacity("")):
        with pytest.raises(Unavailable, match="pool"):
            await call
    await array.detach_volume(VOLUME, "")
    assert (await array.get_volume(VOLUME)).attachments == ()
    assert {problem.reason for problem in await array.health(VOLUME)} == {"PoolNotMounted"}
    device.change(POOL, mounted=True, mount_point=POOL)
    await array.create_volume(spec("pvc-new"))


async def test_a_pool_that_is_not_there_is_named() -> None:
    device = MemoryDevice()
    device.change(POOL, slot="other")
    with pytest.raises(FailedPrecondition, match=POOL):
        await array_on(device).create_volume(spec())


async def test_capacity_is_what_the_pool_has_free_rounded_down_for_one_volume() -> None:
    device = MemoryDevice(size=10 * GIB + 5)
    array = await started(device)
    await array.create_volume(spec())
    for pool in ("", POOL):
        capacity = await array.capacity(pool)
        assert (capacity.available, capacity.maximum_volume_size) == (9 * GIB + 5, 9 * GIB)
    with pytest.raises(InvalidArgument, match="no pool"):
        await array.capacity("elsewhere")


async def test_health_tells_everything_that_is_wrong() -> None:
    device = MemoryDevice()
    array = await started(device)
    volume = await array.create_volume(spec("pvc-a"))
    assert await array.health("pvc-a") == []
    device.change(POOL, state="degraded")
    device.change("pvc-a", exported=False, slot="renamed", disabled=True)
    del device.files[device.by_slot("renamed").file_path]
    problems = await array.health("pvc-a")
    told = {problem.reason: problem.status for problem in problems}
    assert told == {
        "PoolDegraded": HealthStatus.DEGRADED,
        "NotExported": HealthStatus.INACCESSIBLE,
        "Disabled": HealthStatus.INACCESSIBLE,
        "Renamed": HealthStatus.DEGRADED,
        "FileMissing": HealthStatus.DATA_LOSS,
    }
    assert volume.target == (await array.get_volume("pvc-a")).target
    with pytest.raises(NotFound):
        await array.health("pvc-absent")


async def test_health_tells_of_an_edited_mark() -> None:
    device = MemoryDevice()
    array = await started(device)
    await array.create_volume(spec("pvc-a"))
    device.change("pvc-a", comment=device.by_slot("pvc-a").comment + "!")
    (problem,) = await array.health("pvc-a")
    assert problem.reason == "MarkDamaged"


async def test_features_follow_the_means() -> None:
    device = MemoryDevice()
    assert array_on(device, snapshots=SnapshotMeans.BTRFS_SUBVOLUME).traits.features is Feature.ALL
    assert Feature.SNAPSHOTS not in array_on(device).traits.features
    copies = array_on(device, snapshots=SnapshotMeans.FILE_COPY).traits.features
    assert Feature.CLONES in copies
    assert Feature.GROUP_SNAPSHOTS not in copies


async def test_an_array_is_opened_by_its_url_without_asking_anybody(tmp_path: object) -> None:
    options = ArrayOptions(ProcessRunner(), Workers(), HostPaths(), PREFIX, DRIVER)
    urls = (
        f"routeros+ssh://csi@192.0.2.1/?pool={POOL}&key-file=/k&known-hosts=/h&fencing=allow-host",
        f"routeros+https://csi@192.0.2.1/?pool={POOL}&password-file=/p&tls-ca=/c",
    )
    for url in urls:
        array: Array = open_array(url, options)
        _: Inventory = open_array(url, options)
        assert "192.0.2.1" in array.traits.name
        assert array.traits.needs_host_nqn == ("allow-host" in url)
        await array.close()
    with pytest.raises(ConfigurationError):
        open_array("routeros+ssh://csi@192.0.2.1/", options)


async def test_adoption_marks_a_disk_and_leaves_its_data_name_and_nqn() -> None:
    device = MemoryDevice()
    device.put(slot="legacy", type="file", file_path=f"{POOL}/old/legacy.img", size=GIB, nqn="nqn.2020-01.com.x:legacy")
    before = dict(device.disks)
    array = await started(device)
    planned = await array.adopt("legacy", True)
    assert device.disks == before
    adopted = await array.adopt("legacy", False)
    assert adopted == planned
    volume = await array_on(device).get_volume("legacy")
    assert volume == adopted.volume
    assert volume.size == GIB
    await array.delete_volume("legacy")
    assert f"{POOL}/old/legacy.img" not in device.files


async def test_adoption_gives_back_a_mark_that_was_emptied() -> None:
    device = MemoryDevice()
    array = await started(device)
    made = await array.create_volume(spec())
    slot = next(disk.slot for disk in device.disks.values() if disk.comment)
    device.change(slot, comment="")
    with pytest.raises(FailedPrecondition, match=f"adopt {slot} --volume-id {VOLUME}"):
        await array.get_volume(VOLUME)
    adopted = await array.adopt(slot, False, VOLUME, ())
    assert adopted.volume == made
    assert any("attached" in what for what in adopted.lost)


@pytest.mark.parametrize("fencing", Fencing)
async def test_an_exported_disk_that_lost_its_mark_is_adopted_only_with_word_about_its_nodes(fencing: Fencing) -> None:
    device = MemoryDevice()
    array = array_on(device, fencing=fencing)
    await array.create_volume(spec())
    attached = await array.attach_volume(VOLUME, attachment())
    slot = next(disk.slot for disk in device.disks.values() if disk.comment)
    device.change(slot, comment="")
    before = device.by_slot(slot)
    for dry_run in (True, False):
        with pytest.raises(FailedPrecondition, match="--attached-to"):
            await array.adopt(slot, dry_run, VOLUME)
    assert device.by_slot(slot) == before
    adopted = await array.adopt(slot, False, VOLUME, attached.attachments)
    assert adopted.volume.attachments == attached.attachments
    assert not any("attached" in what for what in adopted.lost)
    # The export that a pod may be writing through is as it was.
    assert replace(device.by_slot(slot), comment="") == before


async def test_a_disk_of_others_that_is_exported_needs_no_word_and_loses_nothing() -> None:
    device = MemoryDevice()
    device.put(
        slot="legacy",
        type="file",
        file_path=f"{POOL}/old/legacy.img",
        size=GIB,
        exported=True,
        nqn="nqn.2020-01.com.x:l",
    )
    assert (await array_on(device).adopt("legacy", True)).lost == ()


@pytest.mark.parametrize(
    ("slot", "properties"),
    [
        (POOL, {}),
        ("noted", {"type": "file", "file_path": f"{POOL}/n.img", "size": GIB, "comment": "keep"}),
        ("part", {"type": "partition", "size": GIB}),
        ("mounted", {"type": "file", "file_path": f"{POOL}/m.img", "size": GIB, "mounted": True}),
    ],
)
async def test_adoption_refuses_what_cannot_be_a_volume(slot: str, properties: dict[str, object]) -> None:
    device = MemoryDevice()
    if properties:
        device.put(slot=slot, **properties)
    with pytest.raises(FailedPrecondition):
        await array_on(device).adopt(slot, False)


async def test_adoption_refuses_names_that_are_no_ids_and_disks_that_are_volumes() -> None:
    device = MemoryDevice()
    device.put(slot="Upper_Case", type="file", file_path=f"{POOL}/u.img", size=GIB)
    array = await started(device)
    with pytest.raises(InvalidArgument):
        await array.adopt("Upper_Case", False)
    with pytest.raises(NotFound):
        await array.adopt("absent", False)
    await array.create_volume(spec("pvc-a"))
    with pytest.raises(DriverError, match="already"):
        await array.adopt("pvc-a", False)


async def test_everything_of_ours_is_listed_with_what_is_wrong() -> None:
    device = MemoryDevice()
    array = await started(device)
    for volume_id in ("pvc-a", "pvc-b", "pvc-c"):
        await array.create_volume(spec(volume_id))
    del device.files[device.by_slot("pvc-b").file_path]
    del device.disks[device.by_slot("pvc-c").id]
    told = {item.key: item.problem for item in await array.list_objects()}
    assert told["volume/pvc-a"] == ""
    assert told["volume/pvc-b"]
    assert len([key for key in told if key.startswith("leftover/")]) == 1


async def test_a_node_that_another_controller_let_in_is_seen_when_the_attachment_is_written() -> None:
    device = MemoryDevice()
    first, second = await started(device), await started(device)
    await first.create_volume(spec())
    # Both have looked, and both saw nobody.
    await first.get_volume(VOLUME)
    await second.get_volume(VOLUME)
    mine, theirs = (
        replace(attachment(node), access_mode=AccessMode.SINGLE_NODE_WRITER) for node in ("node-1", "node-2")
    )
    results = await asyncio.gather(
        first.attach_volume(VOLUME, mine), second.attach_volume(VOLUME, theirs), return_exceptions=True
    )
    (refused,) = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(refused, FailedPrecondition)
    (attached,) = (await first.get_volume(VOLUME)).attachments
    assert attached.node.node_id in str(refused)
    assert (await first.attach_volume(VOLUME, attached)).attachments == (attached,)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_adoption_refuses_a_disk_whose_file_another_disk_has(dry_run: bool) -> None:
    device = MemoryDevice()
    for slot in ("legacy", "twin"):
        device.put(slot=slot, type="file", file_path=f"{POOL}/old/legacy.img", size=GIB)
    before = dict(device.disks)
    array = await started(device)
    with pytest.raises(AlreadyExists, match="twin"):
        await array.adopt("legacy", dry_run)
    assert device.disks == before
