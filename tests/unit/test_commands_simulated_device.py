"""What the demo sees behind a simulated device: the file of a disk, and every difference to an earlier look."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.commands.simulated_device import Belongings, file_behind, shown_disk
from rds_csi.model.sizes import MIB
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions

NQN = "nqn.2026-01.io.rds-csi:v1"
DISK = {
    "type": "file",
    "slot": "v1",
    "file-path": "raid10/v1.img",
    "file-size": str(4 * MIB),
    "nvme-tcp-export": "yes",
    "nvme-tcp-server-nqn": NQN,
    "comment": "ours",
}


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    made = Device(DeviceOptions(tmp_path))
    yield made
    await made.close()


async def differences(device: Device, before: Belongings) -> list[str]:
    return (await Belongings.of(device, "raid10")).differences(before)


async def test_the_file_of_a_disk_is_found_by_its_nqn(device: Device, tmp_path: Path) -> None:
    await device.menus["/disk"].add(DISK)
    assert file_behind(device, NQN) == tmp_path / "pools/raid10/v1.img"
    assert shown_disk(device, NQN) == {"slot": "v1", "file": "/raid10/v1.img", "NQN": NQN, "comment": "ours"}
    with pytest.raises(LookupError, match="exports no disk as"):
        file_behind(device, "nqn.x")


async def test_what_is_made_and_removed_again_makes_no_difference(device: Device) -> None:
    before = await Belongings.of(device, "raid10")
    added = await device.menus["/disk"].add(DISK)
    await device.menus["/disk"].remove(added)
    file = next(item for item in device.menus["/file"].items() if item.values["name"] == "raid10/v1.img")
    await device.menus["/file"].remove(file.id)
    # The directory that the driver works in stays.
    device.storage.make_directory("raid10/rds-csi")
    assert await differences(device, before) == []


async def test_what_is_left_behind_is_named(device: Device) -> None:
    before = await Belongings.of(device, "raid10")
    await device.menus["/disk"].add(DISK)
    assert await differences(device, before) == [
        "left behind, which is a fault of the driver: disk v1",
        "left behind, which is a fault of the driver: file raid10/v1.img",
        f"{4 * MIB} bytes of the pool are not free any more",
    ]


async def test_what_others_have_lost_is_named(device: Device) -> None:
    before = await Belongings.of(device, "raid10")
    swap = next(item for item in device.menus["/disk"].items() if item.values.get("slot") == "swap")
    await device.menus["/disk"].remove(swap.id)
    builder = next(item for item in device.menus["/disk"].items() if item.values.get("slot") == "nixos-builder")
    await device.menus["/disk"].set(builder.id, {"comment": "taken"})
    (device.options.directory / "pools/raid10/nixos/nixos-cache.img").write_bytes(b"other")
    assert await differences(device, before) == [
        "gone, which is a fault of the driver: disk swap",
        "changed, which is a fault of the driver: disk nixos-builder",
        "bytes of other tenants were changed",
    ]
