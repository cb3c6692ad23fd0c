"""Volumes of the Go driver: taken over as they are, under its name only, and only when all of them agrees."""

import pytest

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.mark import decode
from rds_csi.errors import FailedPrecondition, NotFound
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import NvmeTarget
from tests.support.routeros_arrays import VOLUME, array_on, attachment, spec
from tests.support.routeros_memory import POOL, MemoryDevice

GO_DRIVER = "rds.csi.srvlab.io"
NQN = f"nqn.2000-02.com.mikrotik:{VOLUME}"
PATH = f"{POOL}/metal-csi/{VOLUME}.img"


def go_device(**changes: object) -> MemoryDevice:
    device = MemoryDevice()
    disk = {"slot": VOLUME, "type": "file", "file_path": PATH, "size": 2 * GIB, "nqn": NQN, "port": 4420}
    device.put(**{**disk, "exported": True, **changes})
    device.put(slot="nixos-1", type="file", file_path=f"{POOL}/nixos-1.img", nqn="nqn.2000-02.com.mikrotik:nixos-1")
    return device


def go_array(device: MemoryDevice) -> RouterosArray:
    return array_on(device, driver=GO_DRIVER)


async def test_its_volume_is_a_volume_with_its_own_target() -> None:
    device = go_device()
    volume = await go_array(device).get_volume(VOLUME)
    assert (volume.name, volume.size) == (VOLUME, 2 * GIB)
    assert volume.target == NvmeTarget(NQN, ("192.0.2.1",), 4420)
    assert await go_array(device).list_volumes() == [volume]
    assert await go_array(device).create_volume(spec(size=2 * GIB)) == volume
    assert device.by_slot(VOLUME).comment == "", "a look writes nothing"


async def test_the_first_write_marks_it_and_names_its_file() -> None:
    device = go_device()
    attached = await go_array(device).attach_volume(VOLUME, attachment())
    mark = decode(device.by_slot(VOLUME).comment)
    assert mark is not None
    assert mark.path == PATH
    again = go_array(device)
    assert await again.get_volume(VOLUME) == attached
    await again.detach_volume(VOLUME, "")
    assert (await again.expand_volume(VOLUME, 3 * GIB)).size == 3 * GIB


async def test_it_is_deleted_with_its_file_and_nothing_else_is() -> None:
    for attach_first in (False, True):
        device = go_device()
        array = go_array(device)
        if attach_first:
            await array.attach_volume(VOLUME, attachment())
            await array.detach_volume(VOLUME, "")
        await go_array(device).delete_volume(VOLUME)
        assert list(device.files) == [f"{POOL}/nixos-1.img"]
        with pytest.raises(NotFound):
            await array.get_volume(VOLUME)


async def test_under_another_driver_name_it_is_somebody_elses() -> None:
    device = go_device()
    array = array_on(device)
    assert await array.list_volumes() == []
    with pytest.raises(FailedPrecondition):
        await array.delete_volume(VOLUME)
    assert PATH in device.files


@pytest.mark.parametrize(
    "changes",
    [
        {"comment": "keep"},
        {"nqn": "nqn.2000-02.com.mikrotik:else"},
        {"file_path": f"{POOL}/else.img"},
        {"type": "partition"},
    ],
)
async def test_what_does_not_agree_in_everything_is_not_taken_over(changes: dict[str, object]) -> None:
    device = go_device(**changes)
    before = dict(device.disks), dict(device.files)
    array = go_array(device)
    assert await array.list_volumes() == []
    for call in (array.get_volume(VOLUME), array.delete_volume(VOLUME), array.attach_volume(VOLUME, attachment())):
        with pytest.raises(FailedPrecondition):
            await call
    assert (device.disks, device.files) == before


async def test_new_volumes_are_made_our_way_beside_them() -> None:
    device = go_device()
    array = go_array(device)
    other = VOLUME.replace("0f0e", "aaaa")
    await array.create_volume(spec(other))
    assert [volume.volume_id for volume in await array.list_volumes()] == [VOLUME, other]


async def test_it_is_listed_as_unmarked_until_the_first_write() -> None:
    device = go_device()
    array = go_array(device)
    (item,) = await array.list_objects()
    assert (item.object_id, item.unmarked, item.problem) == (VOLUME, True, "")
    await array.attach_volume(VOLUME, attachment())
    (item,) = await array.list_objects()
    assert not item.unmarked
