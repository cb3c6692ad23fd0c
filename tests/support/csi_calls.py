"""Node calls as a kubelet makes them, for volumes that no controller has made, against a real ``rds-csi node``."""

import asyncio
import json
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rds_csi.csi.v1 import (
    NodeGetStorageHealthRequest,
    NodeGetVolumeHealthRequest,
    NodeStageVolumeRequest,
    NodeStub,
    NodeUnstageVolumeRequest,
    VolumeCapability,
    VolumeCapabilityAccessMode,
    VolumeCapabilityAccessModeMode,
    VolumeCapabilityBlockVolume,
    VolumeCapabilityMountVolume,
)
from rds_csi.model.context import SIZE_KEY
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sysfs import NvmeSysfs
from tests.support.driver import Driver
from tests.support.nvmet_target import NvmetTarget
from tests.support.stand_ins import StandIns, running

CONNECTORS = ("nvme-cli", "fabrics")
# As the kubelet: two minutes.
CALL_SECONDS = 120.0
_POLL_SECONDS = 0.02

_WRITER = VolumeCapabilityAccessMode(
    mode=VolumeCapabilityAccessModeMode(VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
)


@dataclass(frozen=True, slots=True)
class StaticVolume:
    """A volume as a hand-written PersistentVolume names it.

    ``fs_type`` is "" for a block volume. ``size`` in bytes is what the array would have told; 0 when nobody did.
    ``parameters`` are of the connection ("ctrlLossTmo").
    """

    volume_id: str
    target: NvmeTarget
    fs_type: str = ""
    size: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def request(self) -> NodeStageVolumeRequest:
        """NodeStageVolumeRequest without its staging path."""
        capability = (
            VolumeCapability(mount=VolumeCapabilityMountVolume(fs_type=self.fs_type), access_mode=_WRITER)
            if self.fs_type
            else VolumeCapability(block=VolumeCapabilityBlockVolume(), access_mode=_WRITER)
        )
        return NodeStageVolumeRequest(
            volume_id=self.volume_id,
            publish_context={SIZE_KEY: str(self.size)} if self.size else {},
            volume_capability=capability,
            volume_context={**self.target.to_context(), **self.parameters},
        )


def volume_on(
    exported: NvmetTarget, volume_id: str, *, fs_type: str = "", size: int = 0, **parameters: str
) -> StaticVolume:
    """The volume that a target exports."""
    target = NvmeTarget(exported.nqn, (exported.address,), exported.port, exported.uuid)
    return StaticVolume(volume_id, target, fs_type, size, parameters)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed, and after how many seconds."""

    status: Status
    message: str
    seconds: float


async def failure_of(call: Awaitable[None]) -> Failure:
    """The failure of a call; AssertionError when it does well."""
    begun = time.monotonic()
    try:
        await call
    except GRPCError as error:
        return Failure(error.status, error.message or "", time.monotonic() - begun)
    raise AssertionError("the call did well")


class NodeServer:
    """``rds-csi node`` with one connector; ``tools`` stand before all programs that it starts."""

    def __init__(self, home: Path, connector: str, *flags: str) -> None:
        self.connector = connector
        self.tools = StandIns(home / "bin")
        self.staging = home / "staging"
        self.staging.mkdir()
        self.driver = Driver(
            home,
            *("--connector", connector, "--node-id", "n1", "--log-format", "json", "--sweep-interval", "0"),
            *flags,
            role="node",
            path=str(self.tools.directory),
        )

    @asynccontextmanager
    async def calls(self) -> AsyncIterator["NodeCalls"]:
        """A client; it shows the server's log when the block fails."""
        async with Channel(path=str(self.driver.socket)) as channel:
            try:
                yield NodeCalls(NodeStub(channel), self.staging)
            except BaseException:
                print(self.driver.text())
                raise

    def ends(self, volume_id: str, method: str = "NodeStageVolume") -> list[str]:
        """The status codes by which the server ended the calls of a volume, as its log tells."""
        entries = [json.loads(line) for line in self.driver.log.read_text().splitlines() if line.startswith("{")]
        return [
            entry["code"]
            for entry in entries
            if entry["message"] == "call ended"
            and entry["method"].endswith(method)
            and entry.get("volume_id") == volume_id
        ]


@contextmanager
def node_servers(*flags: str) -> Iterator[dict[str, NodeServer]]:
    """One server for each connector for the block, started at the same time: on a slow machine a start takes long."""
    with ThreadPoolExecutor(len(CONNECTORS)) as threads, ExitStack() as stack:
        servers = {name: stack.enter_context(_server(name, *flags)) for name in CONNECTORS}
        list(threads.map(lambda server: server.driver.start(), servers.values()))
        yield servers


@contextmanager
def _server(connector: str, *flags: str) -> Iterator[NodeServer]:
    """A server in a directory of its own, not started; ended with the block if it runs then."""
    home = Path(tempfile.mkdtemp(prefix="n-", dir="/run"))
    try:
        server = NodeServer(home, connector, *flags)
        with ExitStack() as stack:
            stack.push(server.driver)
            yield server
    finally:
        shutil.rmtree(home)


class NodeCalls:
    """The calls; each raises GRPCError when it fails."""

    def __init__(self, node: NodeStub, staging: Path) -> None:
        self._node = node
        self._staging = staging

    def path(self, volume: StaticVolume) -> Path:
        """The volume's staging path."""
        return self._staging / volume.volume_id

    def request(self, volume: StaticVolume) -> NodeStageVolumeRequest:
        """The whole NodeStageVolumeRequest."""
        request = volume.request
        request.staging_target_path = str(self.path(volume))
        return request

    async def stage(self, volume: StaticVolume) -> None:
        """NodeStageVolume."""
        await self._node.node_stage_volume(self.request(volume), timeout=CALL_SECONDS)

    async def unstage(self, volume: StaticVolume) -> None:
        """NodeUnstageVolume."""
        request = NodeUnstageVolumeRequest(volume_id=volume.volume_id, staging_target_path=str(self.path(volume)))
        await self._node.node_unstage_volume(request, timeout=CALL_SECONDS)

    async def problems(self, volume: StaticVolume) -> list[str]:
        """What NodeGetVolumeHealth says is wrong: "Reason: message"."""
        request = NodeGetVolumeHealthRequest(volume_id=volume.volume_id, staging_target_path=str(self.path(volume)))
        answer = await self._node.node_get_volume_health(request, timeout=CALL_SECONDS)
        return [f"{entry.reason}: {entry.message}" for entry in answer.volume_health.health_statuses]

    async def storage_problems(self) -> list[str]:
        """What NodeGetStorageHealth says is wrong: "Reason: message"."""
        answer = await self._node.node_get_storage_health(NodeGetStorageHealthRequest(), timeout=CALL_SECONDS)
        return [f"{entry.reason}: {entry.message}" for entry in answer.backend_health]

    async def unhealthy(self, volume: StaticVolume) -> list[str]:
        """``problems``, as soon as there are some."""
        async with asyncio.timeout(CALL_SECONDS):
            while True:
                if problems := await self.problems(volume):
                    return problems
                await asyncio.sleep(_POLL_SECONDS)

    async def patiently_unstage(self, volume: StaticVolume) -> None:
        """NodeUnstageVolume, repeated while another call for the volume is running."""
        async with asyncio.timeout(CALL_SECONDS):
            while True:
                try:
                    return await self.unstage(volume)
                except GRPCError as error:
                    if error.status is not Status.ABORTED:
                        raise
                await asyncio.sleep(_POLL_SECONDS)


async def eventually(condition: Callable[[], bool], what: str, *, seconds: float = CALL_SECONDS) -> None:
    """Return when ``condition()`` holds; AssertionError naming ``what``, and which programs run, after the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not so: {what}; {running()} run"
        await asyncio.sleep(_POLL_SECONDS)


def all_controllers() -> list[str]:
    """Every controller that this kernel has, also one that is not connected yet, which belongs to no subsystem."""
    return [path.name for path in Path("/sys/class/nvme").iterdir() if re.fullmatch(r"nvme\d+", path.name)]


def session_of(nqn: str) -> Session | None:
    """The session of ``nqn`` as sysfs shows it."""
    return NvmeSysfs(HostPaths()).session(nqn)


def controllers_of(nqn: str) -> list[str]:
    """The names of its controllers."""
    session = session_of(nqn)
    return [controller.name for controller in session.controllers] if session is not None else []


def is_live(nqn: str) -> bool:
    """Whether a path is up."""
    session = session_of(nqn)
    return session is not None and session.is_live
