"""What the arrays do about trouble while they run: stalled writes, lost exports, other arrays, equal host NQNs."""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from rds_csi.arrays.exports import Exports
from rds_csi.arrays.images.space import Allocator, free_bytes
from rds_csi.arrays.images.store import ImageStore
from rds_csi.arrays.loops import LoopImageDevices
from rds_csi.arrays.nvmet import NvmetArray
from rds_csi.arrays.portal import Port, Portal
from rds_csi.errors import Aborted, DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import AccessMode, Attachment, Node, VolumeSpec
from rds_csi.process import Completed
from rds_csi.workers import Workers
from tests.support.loop_bench import LoopBench
from tests.support.nvmet_memory import MemoryConfigfs, MemoryLoopDevices

PREFIX = "nqn.2026-01.io.rds-csi:"
NQN = PREFIX + "v1"
HOST_1 = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111"
HOST_2 = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222"

T = TypeVar("T")


class NoModules:
    """A runner on a machine whose modules are built in."""

    async def run(self, *argv: str, timeout: float, input: bytes = b"", env: object = None) -> Completed:
        return Completed(argv, 1, "", f"{argv[0]}: FATAL: Module nvmet not found")

    async def run_to_end(self, *argv: str, timeout: float, env: object = None) -> Completed:
        return await self.run(*argv, timeout=timeout)


class StallingWorkers(Workers):
    """Workers whose steps for ``stalled`` keys hang until ``gate`` opens, and are given up after a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.came_back = asyncio.Event()
        self.stalled = ""
        self.keys: list[str] = []

    async def run(self, function: Callable[[], T], *, timeout: float, key: str = "") -> T:
        self.keys.append(key)
        if not self.stalled or not key.startswith(self.stalled):
            return await super().run(function, timeout=timeout, key=key)

        def stall() -> T:
            self.gate.wait()
            return function()

        return await super().run(stall, timeout=0.05, key=key)

    def _came_back(self, key: str) -> None:
        super()._came_back(key)
        self.came_back.set()


class Machine:
    """One kernel, on which arrays over several directories may run."""

    def __init__(self) -> None:
        self.configfs = MemoryConfigfs()
        self.loops = MemoryLoopDevices()
        self.portal = Portal("192.0.2.1", 4420)
        self.workers = StallingWorkers()

    async def started(self, directory: Path) -> NvmetArray:
        array = NvmetArray(
            ImageStore(str(directory), self.workers, self.loops.flush),
            Exports(self.configfs, self.loops, Port(self.configfs, self.portal)),
            self.portal,
            nqn_prefix=PREFIX,
            runner=NoModules(),
            workers=self.workers,
        )
        await array.start()
        return array


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "array").mkdir()
    return tmp_path / "array"


def _spec(volume_id: str = "v1") -> VolumeSpec:
    return VolumeSpec(volume_id, f"name of {volume_id}", 4 * MIB)


def _attachment(node_id: str, host: str = HOST_1) -> Attachment:
    return Attachment(Node(node_id, host), f"token of {node_id}", AccessMode.SINGLE_NODE_WRITER)


async def test_detach_behind_a_stalled_attach_is_not_answered_until_it_is_true(
    machine: Machine, directory: Path
) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec())
    machine.workers.stalled = "volume v1"
    with pytest.raises(DeadlineExceeded):
        await array.attach_volume("v1", _attachment("n1"))
    with pytest.raises(Unavailable, match="has not come back"):
        await array.detach_volume("v1", "n1")
    machine.workers.gate.set()
    async with asyncio.timeout(10):
        await machine.workers.came_back.wait()
    assert [item.node.node_id for item in (await array.get_volume("v1")).attachments] == ["n1"]
    machine.workers.stalled = ""
    await array.detach_volume("v1", "n1")
    assert (await array.get_volume("v1")).attachments == ()
    await array.close()


async def test_check_exports_what_could_not_be_restored_at_the_start(machine: Machine, directory: Path) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1"))
    await array.close()
    machine.configfs, machine.loops = MemoryConfigfs(addresses=frozenset()), MemoryLoopDevices()
    array = await machine.started(directory)
    [left] = [finding for finding in await array.check() if finding.subject == "exports"]
    assert not left.ok
    assert "volume v1" in left.message
    assert left.remedy
    machine.configfs.addresses = frozenset({"192.0.2.1"})
    assert [finding for finding in await array.check() if finding.subject == "exports"] == []
    assert machine.configfs.connect(NQN, HOST_1)
    assert not machine.configfs.connect(NQN, HOST_2)
    await array.close()


async def test_check_exports_again_what_was_wiped_and_lets_in_whom_the_record_names(
    machine: Machine, directory: Path
) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1", HOST_1))
    await array.attach_volume("v1", _attachment("n2", HOST_2))
    await array.detach_volume("v1", "n1")
    empty = MemoryConfigfs()
    machine.configfs.directories, machine.configfs.attributes = empty.directories, empty.attributes
    machine.configfs.links = empty.links
    assert [finding.subject for finding in await array.check() if not finding.ok] == []
    assert machine.configfs.connect(NQN, HOST_2)
    assert not machine.configfs.connect(NQN, HOST_1)
    assert list(await array.health("v1")) == []
    await array.close()


async def test_check_leaves_a_volume_alone_that_is_being_worked_on(machine: Machine, directory: Path) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec())
    port = machine.configfs.entries("ports")[0]
    machine.configfs.unlink("ports", port, "subsystems", NQN)
    machine.workers.stalled = "volume v1"
    growth = asyncio.create_task(array.expand_volume("v1", 8 * MIB))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Aborted):
        await array.detach_volume("v1", "")
    await array.check()
    assert not machine.configfs.exists("ports", port, "subsystems", NQN)
    with pytest.raises(DeadlineExceeded):
        await growth
    machine.workers.gate.set()
    await array.check()
    assert machine.configfs.exists("ports", port, "subsystems", NQN)
    await array.close()


async def test_copy_of_the_directory_neither_takes_over_nor_removes_an_export(
    machine: Machine, directory: Path, tmp_path: Path
) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1"))
    shutil.copytree(directory, tmp_path / "copy")
    before = (dict(machine.configfs.attributes), dict(machine.configfs.links), dict(machine.loops.devices))
    copy = await machine.started(tmp_path / "copy")
    for call in (copy.detach_volume("v1", "n1"), copy.expand_volume("v1", MIB)):
        with pytest.raises(FailedPrecondition, match="another array exports it"):
            await call
    assert [finding.subject for finding in await copy.check() if not finding.ok] == ["exports"]
    assert [problem.reason for problem in await copy.health("v1")] == ["NotExported"]
    assert (machine.configfs.attributes, machine.configfs.links, machine.loops.devices) == before
    await array.close()
    # What is left over deleted files is nobody's.
    shutil.rmtree(directory)
    await copy.check()
    await copy.detach_volume("v1", "n1")
    await copy.delete_volume("v1")
    assert machine.configfs.entries("subsystems") == []
    await copy.close()


async def test_copy_of_the_directory_cannot_delete_an_export(machine: Machine, directory: Path, tmp_path: Path) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec())
    shutil.copytree(directory, tmp_path / "copy")
    copy = await machine.started(tmp_path / "copy")
    with pytest.raises(FailedPrecondition, match="nqn-prefix"):
        await copy.delete_volume("v1")
    assert list(await array.health("v1")) == []
    await array.close()
    await copy.close()


async def test_two_nodes_with_one_host_nqn_are_refused(machine: Machine, directory: Path) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec("v1"))
    await array.create_volume(_spec("v2"))
    await array.attach_volume("v1", _attachment("n1", HOST_1))
    for volume_id in ("v1", "v2"):
        with pytest.raises(FailedPrecondition, match="/etc/nvme/hostnqn"):
            await array.attach_volume(volume_id, _attachment("n2", HOST_1))
    await array.attach_volume("v2", _attachment("n1", HOST_1))
    await array.attach_volume("v2", _attachment("n2", HOST_2))
    assert [item.node.node_id for item in (await array.get_volume("v1")).attachments] == ["n1"]
    await array.close()


async def test_one_volume_whose_image_cannot_be_looked_at_does_not_keep_the_others_from_starting(
    machine: Machine, directory: Path
) -> None:
    array = await machine.started(directory)
    await array.create_volume(_spec("v1"))
    await array.create_volume(_spec("v2"))
    await array.close()
    image = directory / "volumes" / "v1.img"
    image.unlink()
    image.symlink_to(image)
    os.truncate(directory / "volumes" / "v2.img", 8 * MIB)
    machine.configfs, machine.loops = MemoryConfigfs(), MemoryLoopDevices()
    array = await machine.started(directory)
    assert (await array.get_volume("v2")).size == 8 * MIB
    assert list(await array.health("v2")) == []
    await array.close()


async def test_every_step_that_may_hang_has_a_key(machine: Machine, directory: Path) -> None:
    array = await machine.started(directory)
    machine.workers.keys.clear()
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1"))
    await array.capacity("")
    await array.health("v1")
    await array.check()
    await array.detach_volume("v1", "")
    await array.delete_volume("v1")
    assert len(machine.workers.keys) > 10
    assert "" not in machine.workers.keys
    await array.close()


def test_growth_of_a_thick_volume_needs_room_for_the_blocks_it_shares(directory: Path) -> None:
    path = directory / "v.img"
    with path.open("w+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, 64 * MIB)

        def promised() -> list[tuple[str, int]]:
            return [(str(directory / "absent"), free_bytes(str(directory)) - 16 * MIB)]

        alone = Allocator(str(directory), promised, lambda _: 0)
        shared = Allocator(str(directory), promised, lambda _: 64 * MIB)
        with pytest.raises(ResourceExhausted):
            shared.allocate_thick(stream.fileno(), 65 * MIB)
        assert path.stat().st_size == 64 * MIB
        alone.allocate_thick(stream.fileno(), 65 * MIB)
        assert path.stat().st_size == 65 * MIB


@pytest.mark.parametrize(
    ("address", "wildcard", "used"),
    [("192.0.2.1", "0.0.0.0", True), ("192.0.2.1", "::", True), ("::1", "::", True), ("::1", "0.0.0.0", False)],
)
def test_wildcard_port_serves_its_own_family(address: str, wildcard: str, used: bool) -> None:
    configfs = MemoryConfigfs()
    configfs.addresses |= {wildcard}
    configfs.make("ports", "1")
    for name, value in (("trtype", "tcp"), ("traddr", wildcard), ("trsvcid", "4420")):
        configfs.write(value, "ports", "1", f"addr_{name}")
    configfs.make("subsystems", NQN)
    Port(configfs, Portal(address, 4420)).link(NQN)
    assert configfs.exists("ports", "1", "subsystems", NQN) == used


def test_device_over_an_existing_file_that_is_not_the_image_is_foreign(tmp_path: Path) -> None:
    bench = LoopBench(tmp_path)
    devices, image = LoopImageDevices(bench.loops), str(bench.image)
    other = tmp_path / "elsewhere" / bench.image.name
    other.parent.mkdir()
    other.write_bytes(b"x" * 512)
    bench.bind("loop4")
    bench.bind("loop5", file=other)
    assert devices.foreign("loop4", image) == ""
    assert devices.foreign("loop5", image) == str(other)
    assert devices.foreign("(null)", image) == ""
    other.unlink()
    assert devices.foreign("loop5", image) == ""
