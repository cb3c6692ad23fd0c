"""Which volumes count as staged."""

from dataclasses import replace

import pytest

from rds_csi.filesystem.memory import MemoryFilesystems, MemoryStageRecords
from rds_csi.filesystem.protocol import Content
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.services.staged import StagedVolumes

TARGET = NvmeTarget("nqn.2026-01.io.example:v1", ("192.0.2.1",))
RECORD = StageRecord("v1", "/staging/v1", TARGET, ConnectionConfig(), 1 << 30, "token", "boot-1")


class World:
    """Records and mounts of this boot, ``boot-1``."""

    def __init__(self) -> None:
        self.records = MemoryStageRecords()
        self.filesystems = MemoryFilesystems()
        self.staged = StagedVolumes(self.records, self.filesystems, "boot-1")

    async def mount(self, path: str) -> None:
        self.filesystems.contents["/dev/nvme0n1"] = Content("ext4", "u", False, "")
        await self.filesystems.mount(Device("/dev/nvme0n1", DeviceNumber(259, 1), 1 << 30), path, "ext4", ())

    async def ids(self) -> list[str]:
        return [record.volume_id for record in await self.staged()]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_volume_is_staged_while_something_is_mounted_at_its_staging_path(world: World) -> None:
    await world.records.store(RECORD)
    assert await world.ids() == []
    await world.mount("/staging/v1")
    assert await world.ids() == ["v1"]
    await world.filesystems.unmount("/staging/v1")
    assert await world.ids() == []


async def test_a_block_volume_is_staged_by_its_record(world: World) -> None:
    await world.records.store(replace(RECORD, block=True))
    assert await world.ids() == ["v1"]


async def test_what_an_earlier_boot_staged_is_not(world: World) -> None:
    await world.records.store(replace(RECORD, block=True, boot_id="boot-0"))
    assert await world.ids() == []
