"""The array of NVMe subsystems: exports, fencing and recovery on a configfs made of memory."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rds_csi.arrays.exports import Exports
from rds_csi.arrays.images.store import ImageStore
from rds_csi.arrays.nvmet import NvmetArray, open_array
from rds_csi.arrays.portal import Port, Portal
from rds_csi.arrays.protocol import Array, ArrayOptions
from rds_csi.errors import ConfigurationError, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.process import Completed
from rds_csi.workers import Workers
from tests.support.nvmet_memory import MemoryConfigfs, MemoryLoopDevices

PREFIX = "nqn.2026-01.io.rds-csi:"
HOST_1 = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111"
HOST_2 = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222"
HOST_3 = "nqn.2014-08.org.nvmexpress:uuid:33333333-3333-3333-3333-333333333333"


class NoModules:
    """A runner on a machine whose modules are built in."""

    async def run(self, *argv: str, timeout: float, input: bytes = b"", env: object = None) -> Completed:
        return Completed(argv, 1, "", f"{argv[0]}: FATAL: Module nvmet not found")

    async def run_to_end(self, *argv: str, timeout: float, env: object = None) -> Completed:
        return await self.run(*argv, timeout=timeout)


class Machine:
    """A machine whose kernel outlives the arrays that run on it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.configfs = MemoryConfigfs()
        self.loops = MemoryLoopDevices()
        self.portal = Portal("192.0.2.1", 4420)

    def array(self) -> NvmetArray:
        workers = Workers()
        return NvmetArray(
            ImageStore(str(self.directory), workers, self.loops.flush),
            Exports(self.configfs, self.loops, Port(self.configfs, self.portal)),
            self.portal,
            nqn_prefix=PREFIX,
            runner=NoModules(),
            workers=workers,
        )

    async def started(self) -> NvmetArray:
        array = self.array()
        await array.start()
        return array

    async def restarted(self, array: NvmetArray) -> NvmetArray:
        await array.close()
        return await self.started()

    def reboot(self) -> None:
        self.configfs = MemoryConfigfs()
        self.loops = MemoryLoopDevices()

    def hosts(self, volume_id: str) -> list[str]:
        return list(self.configfs.entries("subsystems", PREFIX + volume_id, "allowed_hosts"))

    def ports(self) -> list[str]:
        return list(self.configfs.entries("ports"))

    def is_clean(self) -> bool:
        files = [path for path in self.directory.rglob("*") if path.is_file() and path.name != "lock"]
        empty = all(not self.configfs.entries(name) for name in ("subsystems", "ports", "hosts"))
        return empty and not files and not self.loops.devices


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "array")


def _spec(volume_id: str = "v1", size: int = 4 * MIB, source: ContentSource | None = None) -> VolumeSpec:
    return VolumeSpec(volume_id, f"name of {volume_id}", size, source=source)


def _attachment(node_id: str, host: str = HOST_1) -> Attachment:
    return Attachment(Node(node_id, host), f"token of {node_id}", AccessMode.SINGLE_NODE_WRITER)


def test_nvmet_array_is_an_array() -> None:
    kind: type[Array] = NvmetArray
    assert kind is NvmetArray


async def test_volume_is_exported_under_its_nqn_to_nobody(machine: Machine) -> None:
    array = await machine.started()
    volume = await array.create_volume(_spec())
    assert isinstance(volume.target, NvmeTarget)
    assert volume.target.nqn == PREFIX + "v1"
    assert (volume.target.addresses, volume.target.port) == (("192.0.2.1",), 4420)
    namespace = ("subsystems", PREFIX + "v1", "namespaces", "1")
    assert machine.configfs.read(*namespace, "enable") == "1"
    assert machine.configfs.read(*namespace, "device_uuid") == volume.target.namespace_uuid
    assert machine.configfs.read(*namespace, "device_path") == "/dev/loop0"
    assert machine.configfs.read("subsystems", PREFIX + "v1", "attr_allow_any_host") == "0"
    assert machine.hosts("v1") == []
    assert len(machine.ports()) == 1
    assert array.traits.needs_host_nqn
    assert list(await array.health("v1")) == []
    await array.close()


async def test_create_again_changes_nothing(machine: Machine) -> None:
    array = await machine.started()
    volume = await array.create_volume(_spec())
    assert await array.create_volume(_spec()) == volume
    assert list(machine.loops.devices) == ["loop0"]
    await array.close()


async def test_only_attached_hosts_connect(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    nqn = PREFIX + "v1"
    assert not machine.configfs.connect(nqn, HOST_1)
    volume = await array.attach_volume("v1", _attachment("n1"))
    assert [item.node.node_id for item in volume.attachments] == ["n1"]
    assert machine.configfs.connect(nqn, HOST_1)
    assert not machine.configfs.connect(nqn, HOST_2)
    await array.close()


async def test_detach_cuts_the_host_off(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1"))
    machine.configfs.connect(PREFIX + "v1", HOST_1)
    await array.detach_volume("v1", "n1")
    assert machine.configfs.connected == set()
    assert not machine.configfs.connect(PREFIX + "v1", HOST_1)
    assert (await array.get_volume("v1")).attachments == ()
    assert machine.configfs.entries("hosts") == []
    await array.close()


async def test_detach_of_one_node_keeps_what_others_need(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec("v1"))
    await array.create_volume(_spec("v2"))
    await array.attach_volume("v1", _attachment("n1", HOST_1))
    await array.attach_volume("v1", _attachment("n2", HOST_2))
    await array.attach_volume("v1", _attachment("n3", HOST_3))
    await array.attach_volume("v2", _attachment("n1", HOST_1))
    await array.detach_volume("v1", "n1")
    await array.detach_volume("v1", "n2")
    assert machine.hosts("v1") == [HOST_3]
    assert machine.hosts("v2") == [HOST_1]
    await array.detach_volume("v1", "")
    assert machine.hosts("v1") == []
    assert machine.configfs.entries("hosts") == [HOST_1]
    await array.close()


async def test_node_that_comes_back_under_another_nqn_replaces_the_old_one(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1", HOST_1))
    machine.configfs.connect(PREFIX + "v1", HOST_1)
    await array.attach_volume("v1", _attachment("n1", HOST_2))
    assert machine.hosts("v1") == [HOST_2]
    assert machine.configfs.connected == set()
    await array.close()


async def test_cut_that_failed_is_made_again_by_the_repeat(machine: Machine) -> None:
    """Fencing is not real until the connection is gone, whichever of its steps failed the first time."""
    array = await machine.started()
    await array.create_volume(_spec())
    failures = 0
    for calls in range(20):
        await array.attach_volume("v1", _attachment("n1"))
        assert machine.configfs.connect(PREFIX + "v1", HOST_1)
        machine.configfs.calls_left = calls
        try:
            await array.detach_volume("v1", "n1")
        except Unavailable:
            failures += 1
        machine.configfs.calls_left = None
        await array.detach_volume("v1", "n1")
        assert machine.configfs.connected == set()
        assert machine.hosts("v1") == []
        assert list(await array.health("v1")) == []
    assert 2 < failures < 20
    await array.close()


async def test_attach_needs_a_host_nqn_that_is_a_name(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    for host in ("", "x", "nqn.2014-08.org.nvmexpress:../../subsystems/x", "nqn.2014-08.org.nvmexpress:a\nb"):
        with pytest.raises(InvalidArgument):
            await array.attach_volume("v1", _attachment("n1", host))
    assert (await array.get_volume("v1")).attachments == ()
    with pytest.raises(NotFound):
        await array.attach_volume("v9", _attachment("n1"))
    await array.close()


async def test_delete_removes_everything(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec("v1"))
    await array.create_volume(_spec("v2"))
    await array.attach_volume("v1", _attachment("n1"))
    with pytest.raises(FailedPrecondition):
        await array.delete_volume("v1")
    await array.detach_volume("v1", "n1")
    await array.delete_volume("v1")
    await array.delete_volume("v1")
    assert len(machine.ports()) == 1
    await array.delete_volume("v2")
    assert machine.is_clean()
    await array.close()


async def test_growth_reaches_the_loop_device_and_the_hosts(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    assert (await array.expand_volume("v1", 9 * MIB)).size == 9 * MIB
    assert machine.loops.devices["loop0"][1] == 9 * MIB
    assert machine.configfs.revalidated == [PREFIX + "v1"]
    await array.close()


async def test_reboot_restores_every_export_and_its_hosts(machine: Machine) -> None:
    array = await machine.started()
    first = await array.create_volume(_spec("v1"))
    await array.create_volume(_spec("v2"))
    await array.attach_volume("v1", _attachment("n1"))
    await array.create_snapshot("s1", "s1", "v1")
    machine.reboot()
    array = await machine.restarted(array)
    assert machine.configfs.connect(PREFIX + "v1", HOST_1)
    assert not machine.configfs.connect(PREFIX + "v2", HOST_1)
    assert (await array.get_volume("v1")).target == first.target
    namespace = ("subsystems", PREFIX + "v1", "namespaces", "1")
    assert isinstance(first.target, NvmeTarget)
    assert machine.configfs.read(*namespace, "device_uuid") == first.target.namespace_uuid
    assert list(await array.health("v2")) == []
    assert (await array.get_snapshot("s1")).ready
    await array.close()


async def test_restart_leaves_live_exports_alone(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1"))
    machine.configfs.connect(PREFIX + "v1", HOST_1)
    before = dict(machine.configfs.attributes)
    array = await machine.restarted(array)
    assert machine.configfs.connected == {(PREFIX + "v1", HOST_1)}
    before[("subsystems", PREFIX + "v1", "namespaces", "1", "revalidate_size")] = "1"
    assert machine.configfs.attributes == before
    await array.close()


async def test_health_tells_an_export_that_somebody_removed(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    port = machine.ports()[0]
    machine.configfs.unlink("ports", port, "subsystems", PREFIX + "v1")
    assert [item.reason for item in await array.health("v1")] == ["NotExported"]
    machine.reboot()
    array = await machine.restarted(array)
    assert list(await array.health("v1")) == []
    await array.close()


async def test_foreign_port_at_the_portal_is_used_and_kept(machine: Machine) -> None:
    machine.configfs.make("ports", "1")
    for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", "192.0.2.1"), ("trsvcid", "4420")):
        machine.configfs.write(value, "ports", "1", f"addr_{name}")
    machine.configfs.make("subsystems", "nqn.2020-01.com.example:other")
    machine.configfs.make("hosts", HOST_2)
    array = await machine.started()
    await array.create_volume(_spec())
    assert machine.configfs.exists("ports", "1", "subsystems", PREFIX + "v1")
    await array.delete_volume("v1")
    assert machine.ports() == ["1"]
    assert machine.configfs.entries("subsystems") == ["nqn.2020-01.com.example:other"]
    assert machine.configfs.entries("hosts") == [HOST_2]
    await array.close()


async def test_address_of_another_machine_is_unavailable_with_a_remedy(machine: Machine) -> None:
    machine.portal = Portal("198.51.100.1", 4420)
    array = await machine.started()
    with pytest.raises(Unavailable, match="Name an address of this machine"):
        await array.create_volume(_spec())
    assert machine.ports() == []
    await array.delete_volume("v1")
    assert machine.is_clean()
    await array.close()


async def test_kernel_without_nvmet_is_unavailable_until_it_is_there(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    machine.reboot()
    machine.configfs.directories.clear()
    array = await machine.restarted(array)
    with pytest.raises(Unavailable, match="modprobe"):
        await array.create_volume(_spec("v2"))
    with pytest.raises(Unavailable):
        await array.delete_volume("v1")
    assert [finding.ok for finding in await array.check() if finding.subject == "NVMe target"] == [False]
    assert (await array.get_volume("v1")).volume_id == "v1"
    machine.configfs.directories |= MemoryConfigfs().directories
    await array.create_volume(_spec("v2"))
    assert list(await array.health("v1")) == []
    await array.close()


async def test_snapshot_flushes_the_device_of_its_volume(machine: Machine) -> None:
    array = await machine.started()
    await array.create_volume(_spec())
    await array.create_snapshot("s1", "s1", "v1")
    await array.create_volume(_spec("v2", source=ContentSource(SourceKind.SNAPSHOT, "s1")))
    assert machine.loops.flushed[0].endswith("/volumes/v1.img")
    first, second = [volume.target for volume in await array.list_volumes()]
    assert isinstance(first, NvmeTarget)
    assert isinstance(second, NvmeTarget)
    assert first.namespace_uuid != second.namespace_uuid
    await array.close()


async def test_volume_made_again_has_another_uuid(machine: Machine) -> None:
    array = await machine.started()
    first = await array.create_volume(_spec())
    await array.delete_volume("v1")
    second = await array.create_volume(_spec())
    assert first.target != second.target
    await array.close()


async def test_many_volumes_and_hosts_at_once(machine: Machine) -> None:
    array = await machine.started()
    names = [f"v{number}" for number in range(20)]
    for _ in range(3):
        await asyncio.gather(*(array.create_volume(_spec(name)) for name in names))
        await asyncio.gather(*(array.attach_volume(name, _attachment("n1")) for name in names))
        assert all(machine.hosts(name) == [HOST_1] for name in names)
        await asyncio.gather(*(array.detach_volume(name, "n1") for name in names))
        await asyncio.gather(*(array.delete_volume(name) for name in names))
        assert machine.is_clean()
    await array.close()


class Killed(BaseException):
    """The process ends here: nothing after it is undone."""


async def _life(array: NvmetArray) -> None:
    await array.create_volume(_spec("v1"))
    await array.attach_volume("v1", _attachment("n1"))
    await array.expand_volume("v1", 6 * MIB)
    await array.detach_volume("v1", "n1")
    await array.delete_volume("v1")


async def _created(array: NvmetArray) -> None:
    await array.create_volume(_spec("v1"))


async def _attached(array: NvmetArray) -> None:
    await array.attach_volume("v1", _attachment("n1"))


async def _grown(array: NvmetArray) -> None:
    await array.expand_volume("v1", 6 * MIB)


async def _detached(array: NvmetArray) -> None:
    await array.detach_volume("v1", "n1")


async def _deleted(array: NvmetArray) -> None:
    await array.delete_volume("v1")


@pytest.mark.parametrize("reboot", [False, True])
async def test_killed_at_any_write_to_configfs_the_repeat_completes(machine: Machine, reboot: bool) -> None:
    """Every step of a volume's life, killed before each of its writes to configfs; then restart and repeat."""
    steps: list[Callable[[NvmetArray], Awaitable[None]]] = [_created, _attached, _grown, _detached, _deleted]
    kills = 0
    for index, step in enumerate(steps):
        for calls in range(60):
            array = await machine.started()
            for earlier in steps[:index]:
                await earlier(array)
            machine.configfs.calls_left, machine.configfs.stop = calls, Killed()
            killed = False
            try:
                await step(array)
            except Killed:
                killed = True
                kills += 1
            machine.configfs.calls_left = None
            if reboot:
                await array.close()
                machine.reboot()
                array = await machine.started()
            else:
                array = await machine.restarted(array)
            for later in steps[index:]:
                await later(array)
            assert machine.is_clean(), (step, calls)
            await array.close()
            if not killed:
                break
        else:
            pytest.fail("the step never ended")
    assert kills > 20


def _options(directory: Path, prefix: str = PREFIX) -> ArrayOptions:
    return ArrayOptions(NoModules(), Workers(), HostPaths(str(directory)), prefix)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nvmet://192.0.2.1:4420", "does not name a directory"),
        ("nvmet://192.0.2.1:4420/x?backing=/tmp", "does not name a directory"),
        ("nvmet://192.0.2.1:4420?backing=", "directory is missing"),
        ("nvmet://192.0.2.1:4420?backing=tmp", "not an absolute path"),
        ("nvmet://192.0.2.1:4420?backing=/no/such/parent", "is not a directory"),
        ("nvmet://192.0.2.1:4420?baking=/tmp", "did you mean 'backing'"),
        ("nvmet://192.0.2.1:4420?backing=/tmp&backing=/tmp", "twice"),
        ("nvmet://192.0.2.1:99999?backing=/tmp", "ort"),
        ("nvmet://0.0.0.0:4420?backing=/tmp", "cannot connect"),
        ("nvmet://?backing=/tmp", "not an IP address"),
        ("nvmet://storage.example:4420?backing=/tmp", "not an IP address"),
        ("nvmet://user:secret@192.0.2.1?backing=/tmp", "user name or password"),
    ],
)
def test_wrong_url_is_told_in_one_sentence(tmp_path: Path, url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as error:
        open_array(url, _options(tmp_path))
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert error.value.remedy


def test_wrong_prefix_is_told(tmp_path: Path) -> None:
    for prefix in ("", "x", "nqn.2026-01.io.x:a/b", "nqn.2026-01.io." + "x" * 200 + ":"):
        with pytest.raises(ConfigurationError):
            open_array(f"nvmet://192.0.2.1?backing={tmp_path}/array", _options(tmp_path, prefix))


async def test_array_opened_by_url_reads_the_host_below_its_root(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "sys/kernel/config")
    array = open_array(f"nvmet://[2001:db8::1]:4421?backing={tmp_path}/array", _options(tmp_path))
    await array.start()
    assert "2001:db8::1 port 4421" in array.traits.name
    with pytest.raises(Unavailable, match="modprobe"):
        await array.create_volume(_spec())
    await array.close()
