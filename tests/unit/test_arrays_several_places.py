"""Two arrays on one device, in two pools: their clusters keep them apart; with one cluster they are refused."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.several import SeveralArrays, open_array
from rds_csi.arrays.several_places import check_places, on_one_device, siblings_of
from rds_csi.errors import ConfigurationError, FailedPrecondition, NotFound
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB
from rds_csi.process import ProcessRunner
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.server import Simulator, SimulatorOptions
from rds_csi.workers import Workers
from tests.support.routeros_arrays import DRIVER, array_on, attachment, from_snapshot, spec
from tests.support.routeros_memory import MemoryDevice

PREFIX = "nqn.2026-01.io.rds-csi:prod:"


@dataclass(frozen=True)
class Place:
    """A device with two pools, and a file of arrays that names both."""

    simulator: Simulator
    directory: Path

    def open(self, fast: str, slow: str) -> SeveralArrays:
        """Like a process that has just started; what the two URLs say of their clusters."""
        files = self.simulator.write_credentials(self.directory / "credentials")
        url = f"routeros+ssh://csi@127.0.0.1:{self.simulator.ssh_port}/?key-file={files.client_key}"
        url += f"&known-hosts={files.known_hosts}"
        path = self.directory / "arrays.toml"
        path.write_text(
            f'default = "fast"\n[arrays.fast]\nurl = "{url}&pool=one&snapshots=btrfs-subvolume{fast}"\n'
            f'[arrays.slow]\nurl = "{url}&pool=two{slow}"\n'
        )
        return open_array(f"config://{path}", ArrayOptions(ProcessRunner(), Workers(), HostPaths(), PREFIX))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    pools = (PoolOptions("one", filesystem="btrfs", label="one"), PoolOptions("two"))
    async with Simulator(SimulatorOptions(directory=tmp_path / "device", pools=pools)) as simulator:
        yield Place(simulator, tmp_path)


async def test_one_device_and_one_cluster_are_refused_at_the_start(place: Place) -> None:
    with pytest.raises(ConfigurationError, match=r"fast and slow .* cluster 'prod'"):
        place.open("", "")
    with pytest.raises(ConfigurationError, match="cluster=…"):
        place.open("&cluster=prod", "")


async def test_two_pools_of_one_device_keep_their_volumes_apart(place: Place) -> None:
    arrays = place.open("", "&cluster=prod-slow")
    try:
        await arrays.create_volume(spec("a", pool="fast"))
        await arrays.create_volume(spec("b", pool="slow"))
    finally:
        await arrays.close()
    arrays = place.open("", "&cluster=prod-slow")
    try:
        assert [volume.volume_id for volume in await arrays.list_volumes()] == ["a", "b"]
        assert [(await arrays.get_volume(item)).pool for item in "ab"] == ["fast/one", "slow/two"]
        # A class that was changed makes no second one.
        assert (await arrays.create_volume(spec("b", pool="fast"))).pool == "slow/two"
        for volume_id in "ab":
            assert (await arrays.attach_volume(volume_id, attachment())).attachments
            assert (await arrays.expand_volume(volume_id, 2 * GIB)).size == 2 * GIB
            assert await arrays.health(volume_id) == []
            await arrays.detach_volume(volume_id, "node-1")
        await arrays.create_snapshot("s", "s", "a")
        assert (await arrays.create_volume(spec("r", source=from_snapshot("s"), size=2 * GIB))).pool == "fast/one"
    finally:
        await arrays.close()
    arrays = place.open("", "&cluster=prod-slow")
    try:
        await arrays.delete_snapshot("s")
        for volume_id in ("a", "b", "r"):
            await arrays.delete_volume(volume_id)
            with pytest.raises(NotFound):
                await arrays.get_volume(volume_id)
            await arrays.delete_volume(volume_id)
        assert await arrays.list_volumes() == []
    finally:
        await arrays.close()


async def test_what_another_of_the_arrays_has_on_the_device_is_absent_and_what_a_stranger_has_is_not() -> None:
    device = MemoryDevice()
    children = {"fast": array_on(device), "slow": array_on(device, cluster="prod-slow")}
    arrays = SeveralArrays(children, "fast")
    await children["slow"].create_volume(spec("v"))
    # Still being made from a source: no array has it yet, and its deletion finds it.
    mark = Mark(Kind.VOLUME, DRIVER, "prod-slow", "v", "v", ready=False)
    device.change("v", comment=mark.encode())
    with pytest.raises(NotFound):
        await arrays.get_volume("v")
    await arrays.delete_volume("v")
    assert "v" not in {disk.slot for disk in device.disks.values()}
    stranger = array_on(device, cluster="stranger")
    await stranger.create_volume(spec("x"))
    with pytest.raises(FailedPrecondition, match="stranger"):
        await arrays.get_volume("x")
    with pytest.raises(FailedPrecondition):
        await arrays.delete_volume("x")
    assert "x" in {disk.slot for disk in device.disks.values()}


def test_arrays_are_on_one_device_when_they_name_one_host() -> None:
    one, two = array_on(MemoryDevice()), array_on(MemoryDevice(), cluster="other")
    far = array_on(MemoryDevice(), host="192.0.2.9")
    assert on_one_device(one, two)
    assert not on_one_device(one, far)
    check_places({"one": one, "two": two, "far": far})
    assert siblings_of({"one": one, "two": two, "far": far}) == {
        "one": frozenset({"other"}),
        "two": frozenset({"prod"}),
        "far": frozenset(),
    }
