"""The memory connector: any target, no device, failures on demand."""

from pathlib import Path

import pytest

from rds_csi.connectors.memory import MemoryConnector
from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import FileTarget, NvmeTarget

NVME = NvmeTarget("nqn.2026-01.io.example:v0", ("192.0.2.1",))
CONFIG = ConnectionConfig()


async def test_any_target_becomes_an_invented_device() -> None:
    connector = MemoryConnector()
    first = await connector.connect(NVME, CONFIG)
    second = await connector.connect(FileTarget("/absent/image"), CONFIG)
    assert first.created
    assert second.created
    assert first.device.number != second.device.number
    assert first.device.number.major == 0
    assert first.device.size == GIB
    assert set(connector.connected) == {NVME, FileTarget("/absent/image")}
    assert await connector.target_of(first.device.number) == NVME
    assert not (await connector.connect(NVME, CONFIG)).created


async def test_an_image_file_gives_its_size(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(5 << 20)
    connector = MemoryConnector()
    target = FileTarget(str(image))
    assert (await connector.connect(target, CONFIG)).device.size == 5 << 20
    with image.open("r+b") as stream:
        stream.truncate(6 << 20)
    assert (await connector.rescan(target, 6 << 20)).size == 6 << 20
    with pytest.raises(DeadlineExceeded):
        await connector.rescan(target, 7 << 20)


async def test_what_is_disconnected_is_gone() -> None:
    connector = MemoryConnector()
    await connector.connect(NVME, CONFIG)
    assert await connector.health(NVME) == ""
    await connector.disconnect(NVME)
    await connector.disconnect(NVME)
    assert await connector.find(NVME) is None
    assert await connector.health(NVME)
    with pytest.raises(Unavailable):
        await connector.rescan(NVME, 1)


async def test_a_failure_is_raised_once() -> None:
    connector = MemoryConnector()
    connector.failures["connect"] = Unavailable("the array is away")
    with pytest.raises(Unavailable):
        await connector.connect(NVME, CONFIG)
    assert (await connector.connect(NVME, CONFIG)).created


def test_contexts_make_the_round_trip() -> None:
    connector = MemoryConnector()
    config = ConnectionConfig(ctrl_loss_tmo=60)
    for target in (NVME, FileTarget("/images/v")):
        assert connector.read_context(connector.volume_context(target, config)) == (target, config)
