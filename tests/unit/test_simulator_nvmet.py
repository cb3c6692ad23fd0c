"""Disks of the simulated device that are exported for real: what is made in the kernel, and that it goes again."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rds_csi.errors import Unavailable
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions
from rds_csi.simulator.exports import Export
from rds_csi.simulator.menu import RouterosError
from rds_csi.simulator.nvmet import NvmetExports
from rds_csi.simulator.options import SimulatorOptions
from rds_csi.simulator.server import Simulator
from tests.support.loop_bench import LoopBench
from tests.support.nvmet_directories import NvmetDirectories
from tests.support.simulators import until

HOSTS = ("nqn.2014-08.org.nvmexpress:uuid:1",)


class Bench:
    """A made-up kernel, and exports of one simulator in it."""

    def __init__(self, root: Path) -> None:
        self.loops = LoopBench(root)
        self.tree = NvmetDirectories(root / "nvmet")
        self.exports = self.simulator()

    def simulator(self) -> NvmetExports:
        return NvmetExports("127.0.0.1", self.loops.loops, root=self.tree.root, directories=self.tree.directories)

    def export(self, slot: str = "a") -> Export:
        return Export(f"*{slot}", slot, f"nqn.x:{slot}", 4420, HOSTS, self.loops.image, 1 << 20)

    def subsystem(self, slot: str = "a") -> Path:
        return self.tree.root / "subsystems" / f"nqn.x:{slot}"

    def bound(self) -> list[str]:
        return [path.name for path in Path(self.loops.host.sys, "block").iterdir() if self.loops.is_bound(path.name)]

    def sectors(self) -> int:
        """How many the one loop device has."""
        (loop,) = self.bound()
        return int(Path(self.loops.host.sys, "block", loop, "size").read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_an_export_comes_and_goes_whole(bench: Bench) -> None:
    await bench.exports.changed(None, bench.export())
    assert bench.tree.left() == [
        "hosts/nqn.2014-08.org.nvmexpress:uuid:1",
        "ports/8192",
        "subsystems/nqn.x:a",
    ]
    assert (bench.subsystem() / "namespaces/1/enable").read_text() == "1"
    assert (bench.tree.root / "ports/8192/subsystems/nqn.x:a").is_symlink()
    assert len(bench.bound()) == 1
    await bench.exports.changed(bench.export(), None)
    assert (bench.tree.left(), bench.bound()) == ([], [])


async def test_a_step_that_fails_keeps_no_other_from_being_done_and_is_done_later(bench: Bench) -> None:
    await bench.exports.changed(None, bench.export())
    bench.tree.stuck.add(bench.subsystem())
    with pytest.raises(OSError, match="busy"):
        await bench.exports.changed(bench.export(), None)
    assert (bench.tree.left(), bench.bound()) == (["subsystems/nqn.x:a"], [])
    bench.tree.stuck.clear()
    await bench.exports.changed(bench.export(), None)
    assert bench.tree.left() == []


async def test_a_disk_whose_export_went_in_part_is_exported_whole_again(bench: Bench) -> None:
    await bench.exports.changed(None, bench.export())
    bench.tree.stuck.add(bench.subsystem())
    with pytest.raises(OSError, match="busy"):
        await bench.exports.changed(bench.export(), None)
    bench.tree.stuck.clear()
    await bench.exports.changed(None, bench.export())
    assert (bench.tree.root / "ports/8192/subsystems/nqn.x:a").is_symlink()
    assert len(bench.bound()) == 1


async def test_at_the_end_one_stuck_export_does_not_keep_the_others(bench: Bench) -> None:
    for slot in ("a", "b", "c"):
        await bench.exports.changed(None, bench.export(slot))
    bench.tree.stuck.add(bench.subsystem("a"))
    await bench.exports.close()
    assert (bench.tree.left(), bench.bound()) == (["subsystems/nqn.x:a"], [])


async def test_a_half_made_export_leaves_nothing(bench: Bench) -> None:
    bench.tree.refused.add(bench.subsystem() / "namespaces/1")
    with pytest.raises(OSError, match="Invalid"):
        await bench.exports.changed(None, bench.export())
    assert (bench.tree.left(), bench.bound()) == ([], [])


async def test_a_change_that_failed_half_way_can_be_taken_back_whole(bench: Bench) -> None:
    before = bench.export()
    await bench.exports.changed(None, before)
    sectors = bench.sectors()
    with bench.loops.image.open("r+b") as image:
        image.truncate(2 * 512 * sectors)
    bench.tree.refused.add(bench.tree.root / "hosts/other")
    after = replace(before, size=before.size * 2, allowed_hosts=("other",))
    with pytest.raises(OSError, match="Invalid"):
        await bench.exports.changed(before, after)
    assert bench.sectors() == 2 * sectors
    with bench.loops.image.open("r+b") as image:
        image.truncate(512 * sectors)
    await bench.exports.changed(after, before)
    assert bench.sectors() == sectors
    assert [path.name for path in (bench.subsystem() / "allowed_hosts").iterdir()] == list(HOSTS)
    assert (bench.tree.root / "ports/8192/subsystems/nqn.x:a").is_symlink()


async def test_a_subsystem_of_somebody_else_is_left_alone_and_named(bench: Bench) -> None:
    await bench.exports.changed(None, bench.export())
    second = bench.simulator()
    with pytest.raises(Unavailable, match=r"subsystems/nqn\.x:a is there already.*remove it"):
        await second.changed(None, bench.export())
    await second.close()
    assert (bench.tree.root / "ports/8192/subsystems/nqn.x:a").is_symlink()


async def test_without_a_target_in_the_kernel_it_says_so_at_once(bench: Bench) -> None:
    (bench.tree.root / "subsystems").rmdir()
    with pytest.raises(Unavailable, match="modprobe"):
        bench.exports.check()


def test_tenants_of_simulators_that_export_have_nqns_of_their_own(tmp_path: Path) -> None:
    options = SimulatorOptions(tmp_path, nvmet_address="127.0.0.1")
    nqns = set()
    for name in ("1", "2"):
        device = Device(replace(options.device_options(tmp_path / name), directory=tmp_path / name))
        nqns |= {export.nqn for export in device.exports()}
    assert len(nqns) == 4


async def test_at_the_end_no_job_exports_again(bench: Bench, tmp_path: Path) -> None:
    options = SimulatorOptions(tmp_path / "device", ssh_port=None, https_port=None, nvmet_address="127.0.0.1")
    async with Simulator(options, exports=lambda _: bench.exports) as simulator:
        assert len(bench.bound()) == 2
        disk = await simulator.device.disks.add(DISK)

        async def toggle() -> None:
            while True:
                for value in ("no", "yes"):
                    await simulator.device.disks.set(disk, {"nvme-tcp-export": value})

        simulator.device.start_job(toggle(), owner="csi")
        await until(lambda: len(bench.bound()) != 3)
    assert (bench.tree.left(), bench.bound()) == ([], [])


# What the device makes of an export that failed.


def a_device(root: Path, listener: Callable[[Export | None, Export | None], Awaitable[None]]) -> Device:
    device = Device(DeviceOptions(root, seed_tenants=False))
    device.on_export_changed.append(listener)
    return device


DISK = {
    "type": "file",
    "slot": "v1",
    "file-path": "raid10/v1.img",
    "file-size": str(1 << 20),
    "nvme-tcp-export": "yes",
    "nvme-tcp-server-nqn": "nqn.x:a",
}


class Kernel:
    """Follows exports, and refuses when told to."""

    def __init__(self) -> None:
        self.exported: dict[str, Export] = {}
        self.refuses = False

    async def changed(self, before: Export | None, after: Export | None) -> None:
        if self.refuses and after != self.exported.get((after or before or self.nobody()).disk_id):
            raise OSError("no")
        if before is not None:
            self.exported.pop(before.disk_id, None)
        if after is not None:
            self.exported[after.disk_id] = after

    def nobody(self) -> Export:
        raise AssertionError("neither before nor after")


async def test_a_disk_whose_export_fails_is_not_there(tmp_path: Path) -> None:
    kernel = Kernel()
    device = a_device(tmp_path, kernel.changed)
    free = device.storage.pools["raid10"].free
    kernel.refuses = True
    with pytest.raises(RouterosError, match="nvme-tcp export failed"):
        await device.disks.add(DISK)
    assert device.disks.lookup("slot", "v1") == ()
    assert (device.storage.find("raid10/v1.img"), device.storage.pools["raid10"].free) == (None, free)
    kernel.refuses = False
    await device.disks.add(DISK)
    assert [export.slot for export in kernel.exported.values()] == ["v1"]


async def test_a_file_that_was_there_keeps_its_size_when_the_export_of_its_disk_fails(tmp_path: Path) -> None:
    kernel = Kernel()
    device = a_device(tmp_path, kernel.changed)
    file = device.storage.make_file("raid10/v1.img", 4096)
    free = device.storage.pools["raid10"].free
    kernel.refuses = True
    with pytest.raises(RouterosError, match="nvme-tcp export failed"):
        await device.disks.add(DISK)
    assert (file.users, file.size, file.real_path.stat().st_size) == (0, 4096, 4096)
    assert device.storage.pools["raid10"].free == free


async def test_a_refused_change_of_an_export_changes_nothing(tmp_path: Path) -> None:
    kernel = Kernel()
    device = a_device(tmp_path, kernel.changed)
    disk = await device.disks.add(DISK)
    before = dict((device.disks.item(disk) or pytest.fail("gone")).values)
    kernel.refuses = True
    for change in ({"nvme-tcp-server-nqn": "nqn.x:b", "slot": "v2"}, {"file-size": str(2 << 20)}):
        with pytest.raises(RouterosError, match="nvme-tcp export failed"):
            await device.disks.set(disk, change)
        assert (device.disks.item(disk) or pytest.fail("gone")).values == before
    assert device.exports() == list(kernel.exported.values())
    assert (tmp_path / "pools/raid10/v1.img").stat().st_size == 1 << 20
    with pytest.raises(RouterosError, match="nvme-tcp export failed"):
        await device.disks.remove(disk)
    assert device.exports() == list(kernel.exported.values())
    kernel.refuses = False
    await device.disks.remove(disk)
    assert not kernel.exported
