"""Outages of staged volumes on a real kernel, through the server's own socket: what comes back by itself, what the
driver brings back, and what it tells of the rest."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rds_csi.csi.v1 import (
    NodeGetVolumeHealthRequest,
    NodePublishVolumeRequest,
    NodeStageVolumeRequest,
    NodeStub,
    NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
    VolumeCapability,
    VolumeCapabilityAccessMode,
    VolumeCapabilityAccessModeMode,
    VolumeCapabilityBlockVolume,
    VolumeCapabilityMountVolume,
)
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sysfs import NvmeSysfs
from tests.kernel.conftest import MakeTarget
from tests.support.driver import Driver
from tests.support.nvmet_target import NVMET, NvmetTarget

CALL_SECONDS = 60.0
# A call that must not wait for anything: what is dead is not touched.
PROMPT_SECONDS = 15.0
# For the driver's next look, on a machine that has other things to do.
HEALTH_SECONDS = 15.0
POLL_SECONDS = 0.05
# The outage of the done-criterion.
OUTAGE_SECONDS = 20.0
# How long a target stays away after the kernel gave its session up: some attempts fail.
AWAY_SECONDS = 3.0
REMEDY = "Delete the pods that use it on this node"

PAYLOAD = os.urandom(1 << 20)
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()

# Appends a numbered block after the other, each with fsync, until its standard input ends; tells the count.
WRITER = """
import os, select, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
count = 0
while not select.select([0], [], [], 0.02)[0]:
    os.write(descriptor, count.to_bytes(8, "big") * 512)
    os.fsync(descriptor)
    count += 1
    print(count, flush=True)
"""


@pytest.fixture(scope="module")
def driver(lane_machine: None) -> Iterator[Driver]:
    """``rds-csi node``, for all tests here; its target is not the driver's array, which would repair itself."""
    home = Path(tempfile.mkdtemp(prefix="d-", dir="/run"))
    try:
        with Driver(home, "--connector", "nvme-cli", "--node-id", "n1", role="node") as running:
            yield running
    finally:
        shutil.rmtree(home)


class Staged:
    """One volume on the node: what a CO would call about it, and what it would see."""

    def __init__(
        self, name: str, node: NodeStub, directory: Path, target: NvmetTarget, fs_type: str, config: ConnectionConfig
    ) -> None:
        """``fs_type`` is "" for a raw block volume."""
        self.name = name
        self.target = target
        self.staging = directory / f"staging-{name}"
        self.pod = directory / "pods" / name
        self.fs_type = fs_type
        self._node = node
        nvme = NvmeTarget(target.nqn, (target.address,), target.port, target.uuid)
        self._context = {**nvme.to_context(), **config.to_context()}
        self._publish_context = {"size": str(target.size), "attachment": f"token-{name}"}

    @property
    def capability(self) -> VolumeCapability:
        mode = VolumeCapabilityAccessModeMode(VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
        access = VolumeCapabilityAccessMode(mode=mode)
        if not self.fs_type:
            return VolumeCapability(block=VolumeCapabilityBlockVolume(), access_mode=access)
        return VolumeCapability(mount=VolumeCapabilityMountVolume(fs_type=self.fs_type), access_mode=access)

    async def stage(self) -> None:
        request = NodeStageVolumeRequest(
            volume_id=self.name,
            publish_context=self._publish_context,
            staging_target_path=str(self.staging),
            volume_capability=self.capability,
            volume_context=self._context,
        )
        await self._node.node_stage_volume(request, timeout=CALL_SECONDS)

    async def publish(self, *, path: str = "") -> None:
        request = NodePublishVolumeRequest(
            volume_id=self.name,
            publish_context=self._publish_context,
            staging_target_path=str(self.staging),
            target_path=path or str(self.pod),
            volume_capability=self.capability,
            volume_context=self._context,
        )
        await self._node.node_publish_volume(request, timeout=CALL_SECONDS)

    async def remove(self) -> None:
        """The pod is deleted. Prompt, whatever has become of the volume."""
        await self._node.node_unpublish_volume(
            NodeUnpublishVolumeRequest(volume_id=self.name, target_path=str(self.pod)), timeout=PROMPT_SECONDS
        )
        await self._node.node_unstage_volume(
            NodeUnstageVolumeRequest(volume_id=self.name, staging_target_path=str(self.staging)),
            timeout=PROMPT_SECONDS,
        )

    async def is_removed(self) -> bool:
        """Try ``remove``; False while something is still busy."""
        try:
            await self.remove()
        except GRPCError as error:
            print(f"{self.name} is still there: {error.message}")
            return False
        return True

    async def health(self) -> dict[str, str]:
        """Reason → message."""
        request = NodeGetVolumeHealthRequest(volume_id=self.name, staging_target_path=str(self.staging))
        answer = await self._node.node_get_volume_health(request, timeout=PROMPT_SECONDS)
        return {entry.reason: entry.message for entry in answer.volume_health.health_statuses}

    @property
    def data(self) -> Path:
        """Where the pod has its data."""
        return self.pod / "data" if self.fs_type else self.pod

    @property
    def states(self) -> list[str]:
        """The states of the session's controllers; empty when there are none."""
        session = NvmeSysfs(HostPaths()).session(self.target.nqn)
        return [controller.state for controller in session.controllers] if session is not None else []

    async def is_lost(self) -> bool:
        return self.states == []

    async def is_live(self) -> bool:
        return self.states == ["live"]

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """As a pod has a raw block device: open. One that nobody holds may come back with its old number, as if
        nothing had been."""
        descriptor = None if self.fs_type else os.open(self.data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def write(self) -> None:
        """The payload, down to the array."""
        with self.data.open("wb" if self.fs_type else "r+b") as stream:
            stream.write(PAYLOAD)
            stream.flush()
            os.fsync(stream.fileno())

    def digest(self) -> str:
        with self.data.open("rb") as stream:
            return hashlib.sha256(stream.read(len(PAYLOAD))).hexdigest()


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float) -> float:
    """The seconds after which the condition held."""
    begun = time.monotonic()
    while not await condition():
        assert time.monotonic() - begun < seconds, f"after {seconds:g} s still not so: {what}"
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - begun


@contextlib.asynccontextmanager
async def published(
    driver: Driver, directory: Path, name: str, target: NvmetTarget, fs_type: str, config: ConnectionConfig
) -> AsyncIterator[Staged]:
    """A volume that a pod has; whatever happens, it is taken away while its target is there."""
    (directory / "pods").mkdir(exist_ok=True)
    async with Channel(path=str(driver.socket)) as channel:
        volume = Staged(name, NodeStub(channel), directory, target, fs_type, config)
        try:
            await volume.stage()
            await volume.publish()
            yield volume
        except BaseException:
            # At once: what it leaves may keep the rest of the report waiting.
            traceback.print_exc(file=sys.stdout)
            print(driver.text(), flush=True)
            raise
        finally:
            back(target)
            await until(volume.is_removed, f"{name} is taken away", CALL_SECONDS)


def back(target: NvmetTarget) -> None:
    """The target is reachable, whether it was or not: nothing that waits for it can be ended before."""
    with contextlib.suppress(FileExistsError):
        target.restore()


@contextlib.contextmanager
def port_kept_open(target: NvmetTarget) -> Iterator[None]:
    """Another subsystem on the target's port: it goes on listening while the target's own is not linked, and answers
    that there is no such subsystem, and that asking again is no use (DNR)."""
    ports = (NVMET / "ports").iterdir()
    port = next(item for item in ports if (item / "addr_trsvcid").read_text().strip() == str(target.port))
    other = NVMET / "subsystems" / f"{target.nqn}-other"
    other.mkdir()
    link = port / "subsystems" / other.name
    link.symlink_to(other)
    try:
        yield
    finally:
        link.unlink()
        other.rmdir()


@contextlib.asynccontextmanager
async def writer(volume: Staged, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that writes on and on, until its standard input ends."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", WRITER, str(volume.data)),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        # A process that waits for its I/O cannot be killed.
        back(volume.target)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.wait_for(process.wait(), CALL_SECONDS)


def written(log: Path) -> int:
    """How many blocks the writer has told of; AssertionError with its own words when it failed."""
    lines = log.read_text().splitlines()
    assert all(line.isdecimal() for line in lines), "\n".join(lines[-20:])
    return int(lines[-1]) if lines else 0


async def writes_on(log: Path, what: str, seconds: float) -> float:
    before = written(log)

    async def more() -> bool:
        return written(log) > before + 2

    return await until(more, what, seconds)


async def run_through_an_outage(driver: Driver, directory: Path, target: NvmetTarget) -> None:
    """A listener that is away for 20 s, with default parameters: nobody notices but the clock."""
    log = directory / "writer.log"
    config = ConnectionConfig()
    async with published(driver, directory, "outage", target, "ext4", config) as volume:
        async with writer(volume, log) as process:
            await writes_on(log, "the writer writes", CALL_SECONDS)
            target.break_link()
            begun = time.monotonic()

            async def away() -> bool:
                return "since" in (await volume.health()).get("SessionUnhealthy", "")

            await until(away, "the health tells since when", HEALTH_SECONDS)
            await asyncio.sleep(OUTAGE_SECONDS - (time.monotonic() - begun))
            blocks = written(log)
            assert await volume.health() != {}
            target.restore()
            await writes_on(log, "the writer writes again", 2 * config.reconnect_delay)

            async def well() -> bool:
                return await volume.health() == {}

            await until(well, "the health is clear", HEALTH_SECONDS)
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), CALL_SECONDS) == 0, log.read_text()[-2000:]
        total = written(log)
        assert total > blocks
        content = await asyncio.to_thread(volume.data.read_bytes)
        assert content == b"".join(number.to_bytes(8, "big") * 512 for number in range(total))
    assert "(volume outage) is live again after" in driver.text()


async def told_of_the_loss(volume: Staged, config: ConnectionConfig) -> None:
    """From the moment at which the kernel has given the session up, until it is back and a person knows what to do."""

    async def told() -> bool:
        health = await volume.health()
        return "given it up" in health.get("DeviceGone", "") and REMEDY in health.get("DeviceLost", "")

    await until(told, f"the health of {volume.name} tells of the loss", HEALTH_SECONDS)
    await asyncio.sleep(AWAY_SECONDS)
    volume.target.restore()
    took = await until(volume.is_live, f"{volume.name} is live again", 2 * config.reconnect_delay)
    print(f"{volume.name}: live {took:.1f} s after the target's return")

    async def told_what_to_do() -> bool:
        health = await volume.health()
        return list(health) == ["DeviceLost"] and REMEDY in health["DeviceLost"]

    await until(told_what_to_do, f"the health of {volume.name} tells what to do", HEALTH_SECONDS)
    if volume.fs_type:
        for call in (volume.stage(), volume.publish(path=f"{volume.pod}-2")):
            with pytest.raises(GRPCError, match=REMEDY) as refused:
                await asyncio.wait_for(call, PROMPT_SECONDS)
            assert refused.value.status is Status.FAILED_PRECONDITION


async def come_back_after_a_loss(volume: Staged) -> None:
    """The pod is deleted and made anew, as the health has said."""
    await volume.remove()
    assert volume.states == []
    await volume.stage()
    await volume.publish()
    assert await volume.health() == {}
    assert await asyncio.to_thread(volume.digest) == DIGEST


async def outlive_the_loss_timeout(driver: Driver, directory: Path, target: NvmetTarget, fs_type: str) -> None:
    """ctrl_loss_tmo expires while a pod has the volume."""
    config = ConnectionConfig(ctrl_loss_tmo=8, reconnect_delay=4)
    name = f"loss-{fs_type or 'block'}"
    async with published(driver, directory, name, target, fs_type, config) as volume:
        await asyncio.to_thread(volume.write)
        with volume.in_use():
            target.break_link()
            await until(volume.is_lost, f"the kernel gives {name} up", 30)
            await told_of_the_loss(volume, config)
        await come_back_after_a_loss(volume)


async def outlive_do_not_retry(driver: Driver, directory: Path, target: NvmetTarget, *, gives_up: bool) -> None:
    """The subsystem is taken away, and the target answers that it knows none of that name."""
    config = ConnectionConfig()
    async with published(driver, directory, "dnr", target, "xfs", config) as volume:
        await asyncio.to_thread(volume.write)
        with port_kept_open(target):
            target.break_link()
            if gives_up:
                await until(volume.is_lost, "the kernel gives up at the first retry", 30)
                await told_of_the_loss(volume, config)
                await come_back_after_a_loss(volume)
                return
            await asyncio.sleep(2.2 * config.reconnect_delay)
            assert volume.states == ["connecting"]
            target.restore()
            await until(volume.is_live, "the kernel comes back by itself", 2 * config.reconnect_delay)

            async def well() -> bool:
                return await volume.health() == {}

            await until(well, "the health is clear", HEALTH_SECONDS)
            assert await asyncio.to_thread(volume.digest) == DIGEST


async def test_volumes_outlive_outages_and_the_driver_tells_what_it_cannot_mend(
    driver: Driver, scratch: Path, nvmet_target: MakeTarget, kernel_release: tuple[int, int]
) -> None:
    """All at the same time: each is an outage that has to be waited for."""
    targets = [nvmet_target() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        group.create_task(run_through_an_outage(driver, scratch, targets[0]))
        group.create_task(outlive_the_loss_timeout(driver, scratch, targets[1], "ext4"))
        group.create_task(outlive_the_loss_timeout(driver, scratch, targets[2], ""))
        # Linux 6.12 is the first of the lane's kernels that takes "do not retry" at its word.
        gives_up = kernel_release >= (6, 12)
        group.create_task(outlive_do_not_retry(driver, scratch, targets[3], gives_up=gives_up))
