"""Where notices come from: failed calls, the keeper of sessions, the sweep, the comparison of host identities."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import betterproto
import pytest
from grpclib.exceptions import GRPCError

from rds_csi.csi import v1 as csi
from rds_csi.errors import (
    Aborted,
    DriverError,
    FailedPrecondition,
    FormatRefused,
    Internal,
    OutOfReach,
    ResourceExhausted,
    Unavailable,
)
from rds_csi.filesystem.memory import MemoryFilesystems
from rds_csi.filesystem.protocol import Content
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.notices import ClaimName, Notice, Reason
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import AccessMode, Attachment, Volume
from rds_csi.model.volumes import Node as HostNode
from rds_csi.nvme.keeper import SessionKeeper
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.uevents import Uevents
from rds_csi.rpc.notices import notice_of
from rds_csi.rpc.server import CsiServer
from rds_csi.services import topology
from rds_csi.services.formatting import FormatGate
from rds_csi.services.hosts import HostNqns
from rds_csi.services.wishes import StageWish
from rds_csi.workers import Workers
from tests.support.clock import FakeClock
from tests.support.nvme_tree import NvmeTree
from tests.support.rpc import Node, Served
from tests.support.sweep_host import PREFIX, SweepHost

STAGE = csi.NodeStageVolumeRequest(volume_id="pvc-1", staging_target_path="/s")
CLAIM = {"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "team"}
CREATE = csi.CreateVolumeRequest(name="pvc-1", parameters=CLAIM)
GROW = csi.ControllerExpandVolumeRequest(volume_id="pvc-1")

# Calls


@pytest.mark.parametrize(
    ("method", "request_", "error", "reason"),
    [
        ("NodeStageVolume", STAGE, FormatRefused("it holds data"), Reason.FORMAT_REFUSED),
        ("NodeStageVolume", STAGE, FailedPrecondition("it is too small"), Reason.VOLUME_REFUSED),
        ("NodePublishVolume", csi.NodePublishVolumeRequest("pvc-1"), FailedPrecondition("x"), Reason.VOLUME_REFUSED),
        ("NodeExpandVolume", csi.NodeExpandVolumeRequest("pvc-1"), FailedPrecondition("x"), Reason.VOLUME_REFUSED),
        ("NodeStageVolume", STAGE, Internal("it is broken", remedy="Mend it."), Reason.VOLUME_REFUSED),
        ("NodeStageVolume", STAGE, Internal("it is broken"), None),
        ("NodeStageVolume", STAGE, Unavailable("it is away", remedy="Wait."), None),
        ("NodeStageVolume", STAGE, Aborted("another one runs"), None),
        ("NodeStageVolume", STAGE, ResourceExhausted("no memory"), None),
        ("NodeStageVolume", STAGE, KeyError("volume_id"), None),
        ("NodeUnstageVolume", csi.NodeUnstageVolumeRequest("pvc-1"), FailedPrecondition("in use"), None),
        ("ControllerExpandVolume", GROW, ResourceExhausted("it is full"), Reason.ARRAY_FULL),
        ("ControllerExpandVolume", GROW, FailedPrecondition("x"), None),
        ("CreateVolume", CREATE, ResourceExhausted("it is full"), Reason.ARRAY_FULL),
        ("CreateVolume", CREATE, OutOfReach("from elsewhere"), None),
        ("CreateVolume", csi.CreateVolumeRequest(name="pvc-1"), ResourceExhausted("it is full"), None),
        ("CreateSnapshot", csi.CreateSnapshotRequest("pvc-1"), ResourceExhausted("it is full"), None),
    ],
)
def test_a_failed_call_is_a_notice_when_a_person_must_act(
    method: str, request_: betterproto.Message, error: Exception, reason: Reason | None
) -> None:
    notice = notice_of(method, request_, error)
    assert (notice.reason if notice is not None else None) is reason
    if notice is not None:
        is_create = method == "CreateVolume"
        assert notice.warning
        assert notice.message == str(error)
        assert notice.volume_id == ("" if is_create else "pvc-1")
        assert notice.claim == (ClaimName("team", "data") if is_create else None)


def test_a_topology_out_of_reach_is_no_full_array() -> None:
    wanted = csi.TopologyRequirement(requisite=[csi.Topology(segments={"zone": "b"})])
    with pytest.raises(OutOfReach):
        topology.check_requirement(wanted, {"zone": "a"}, "a new volume")


async def failed_stage(tmp_path: Path, error: Exception, **fields: object) -> tuple[GRPCError, list[Notice]]:
    """A NodeStageVolume over the socket that fails with ``error``: what the caller is told, and who else is."""

    async def fail(request: csi.NodeStageVolumeRequest) -> None:
        raise error

    notices: list[Notice] = []
    metrics = Metrics()
    server = CsiServer(f"unix://{tmp_path}/csi.sock", [Node(fail)], metrics, announce=notices.append)
    await server.start()
    try:
        async with Served(server, metrics).channel() as channel:
            with pytest.raises(GRPCError) as caught:
                await csi.NodeStub(channel).node_stage_volume(
                    csi.NodeStageVolumeRequest(volume_id="pvc-1", staging_target_path="/s", **fields)  # type: ignore[arg-type]  # as each test names them
                )
    finally:
        await server.drain(0)
    return caught.value, notices


async def test_a_failed_stage_is_told_once_in_the_words_of_its_error(tmp_path: Path) -> None:
    error = FormatRefused("/dev/nvme0n1 holds xfs, and ext4 is asked for", remedy="Use fsType xfs.")
    told, notices = await failed_stage(tmp_path, error)
    assert notices == [Notice(Reason.FORMAT_REFUSED, str(error), warning=True, volume_id="pvc-1")]
    assert told.message == notices[0].message


async def test_a_secret_of_the_request_is_in_no_notice(tmp_path: Path) -> None:
    _, notices = await failed_stage(
        tmp_path, FailedPrecondition("the key hunter2 does not open it"), secrets={"passphrase": "hunter2"}
    )
    assert [notice.message for notice in notices] == ["the key ***stripped*** does not open it"]


async def test_what_passes_by_itself_is_told_to_the_caller_alone(tmp_path: Path) -> None:
    told, notices = await failed_stage(tmp_path, Unavailable("the array is away"))
    assert told.message == "the array is away"
    assert notices == []


# The format gate

DEVICE = Device("/dev/nvme0n1", DeviceNumber(259, 3), GIB)
TARGET = NvmeTarget(f"{PREFIX}v0", ("192.0.2.1",))
RECORD = StageRecord("v0", "/staging/v0", TARGET, ConnectionConfig(), GIB, "token", "boot", fs_type="ext4")
FORMATTED = replace(RECORD, format_state=FormatState.FORMATTED)


def wish(*, read_only: bool = False) -> StageWish:
    return StageWish(
        volume_id="v0",
        path="/staging/v0",
        target=TARGET,
        config=ConnectionConfig(),
        size=GIB,
        attachment="token",
        mkfs_options=(),
        block=False,
        fs_type="ext4",
        flags=(),
        read_only=read_only,
        shared=False,
        group=None,
    )


@pytest.mark.parametrize(
    ("content", "record", "read_only"),
    [
        (Content("xfs", "u", False, ""), None, False),
        (Content("", "", False, "data at byte 4096"), None, False),
        (Content("ext4", "foreign", False, "mkfs.ext4 has not ended"), None, False),
        (None, None, True),
        (None, FORMATTED, False),
    ],
)
async def test_every_refusal_to_format_says_so_by_its_type(
    content: Content | None, record: StageRecord | None, read_only: bool
) -> None:
    filesystems = MemoryFilesystems()
    if content is not None:
        filesystems.contents[DEVICE.path] = content
    with pytest.raises(FormatRefused):
        await FormatGate(filesystems, lambda: "new").decide(DEVICE, wish(read_only=read_only), record)


# The keeper of sessions


class Keeping:
    """A keeper of one staged volume on a made-up tree."""

    def __init__(self, root: Path) -> None:
        self.tree = NvmeTree(root)
        self.clock = FakeClock()
        self.notices: list[Notice] = []
        self.number = 0

        def refuse() -> None:
            raise PermissionError(1, "Operation not permitted")

        self.keeper = SessionKeeper(
            DeviceResolver(self.tree.host, Workers()),
            Uevents(refuse),  # type: ignore[arg-type]  # never returns
            staged=self._staged,
            attempt=self._attempt,
            drop=self._drop,
            locks=OperationLocks(),
            metrics=Metrics(),
            clock=self.clock.clock,
            random=Random(1),
            announce=self.notices.append,
        )

    def connect(self) -> None:
        self.number = self.tree.add_session(TARGET.nqn)
        self.tree.add_namespace(self.number)

    async def look(self, *, after: float = 5.0) -> list[tuple[str, bool, str]]:
        """A look at the sessions; the notices that it brought."""
        self.clock.seconds += after
        self.notices.clear()
        await self.keeper.look()
        for task in asyncio.all_tasks():
            if task.get_name().startswith("reconnect"):
                await asyncio.wait((task,))
        assert all((notice.volume_id, notice.nqn) == ("v0", TARGET.nqn) for notice in self.notices)
        return [(notice.reason.value, notice.warning, notice.message) for notice in self.notices]

    async def _staged(self) -> Sequence[StageRecord]:
        return [RECORD]

    async def _attempt(self, target: NvmeTarget, config: ConnectionConfig) -> None:
        raise Unavailable("192.0.2.1:4420 refused the connection")

    async def _drop(self, target: NvmeTarget) -> None:
        raise AssertionError("nothing is to be disconnected")


AWAY = ("SessionLost", True, f"the session of {TARGET.nqn} is away: I/O waits, and the kernel reconnects it")
GIVEN_UP = (
    f"the kernel has given up the session of {TARGET.nqn}: "
    f"the driver connects it again every {RECORD.config.reconnect_delay} s while the volume is staged"
)
LOST = ("SessionLost", True, GIVEN_UP)


async def test_an_outage_is_told_once_and_its_end_with_its_length(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    keeping.connect()
    assert await keeping.look() == []
    keeping.tree.set_state(keeping.number, "connecting")
    assert await keeping.look() == [AWAY]
    assert await keeping.look() == []
    keeping.tree.remove_session(keeping.number)
    assert await keeping.look() == []
    keeping.connect()
    back = ("SessionRecovered", False, f"the session of {TARGET.nqn} is live again after 40 s")
    assert await keeping.look(after=30) == [back]
    assert await keeping.look() == []


async def test_a_session_that_the_kernel_has_given_up_is_told_with_what_is_done(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    assert await keeping.look() == [LOST]
    for _ in range(3):
        assert await keeping.look() == []


async def test_the_next_outage_is_told_in_the_same_words(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    keeping.connect()
    for _ in range(2):
        keeping.tree.set_state(keeping.number, "connecting")
        assert await keeping.look() == [AWAY]
        keeping.tree.set_state(keeping.number, "live")
        assert len(await keeping.look()) == 1


# The sweep


async def test_an_orphan_that_was_disconnected_is_told_with_its_reason(tmp_path: Path) -> None:
    host = SweepHost(tmp_path)
    host.session("v0", state="dead")
    host.session("v1")
    outcome = (await host.sweep())["v0"]
    told = f"the orphaned session of {PREFIX}v0 was disconnected: {outcome.verdict.reason}"
    assert host.notices == [Notice(Reason.ORPHAN_DISCONNECTED, told, warning=True, nqn=f"{PREFIX}v0")]
    host.notices.clear()
    await host.sweep()
    assert host.notices == []


@pytest.mark.parametrize("dry_run", [True, False])
async def test_an_orphan_that_is_still_there_is_not_told_as_gone(tmp_path: Path, dry_run: bool) -> None:
    host = SweepHost(tmp_path)
    host.session("v0", state="dead")

    async def fail(session: object) -> None:
        raise Unavailable("nvme disconnect failed")

    await host.sweep(host.cleaner(dry_run=dry_run, disconnect=fail))
    assert host.notices == []


# Host identities

CLONED, OWN = "nqn.2014-08.org.nvmexpress:uuid:1", "nqn.2014-08.org.nvmexpress:uuid:2"


def attached(volume_id: str, node: str, host_nqn: str) -> Volume:
    attachment = Attachment(HostNode(f"{node}#{host_nqn}", host_nqn), "token", AccessMode.SINGLE_NODE_WRITER)
    return Volume(volume_id, volume_id, GIB, TARGET, attachments=(attachment,))


class Identities:
    """The comparison over the given volumes."""

    def __init__(self, *volumes: Volume) -> None:
        self.volumes = volumes
        self.notices: list[Notice] = []
        self.error: DriverError | None = None
        self.hosts = HostNqns(self._list, Metrics(), self.notices.append)

    @property
    def told(self) -> list[tuple[str, str]]:
        """Nodes and the beginnings of what they are told; forgotten by that."""
        assert all((item.reason, item.warning) == (Reason.DUPLICATE_HOST_IDENTITY, True) for item in self.notices)
        told = [(item.node, item.message.partition(":")[0]) for item in self.notices]
        self.notices.clear()
        return told

    async def _list(self) -> Sequence[Volume]:
        if self.error is not None:
            raise self.error
        return self.volumes


BOTH = [
    ("node-a", "this node has the same host NQN as node-b"),
    ("node-b", "this node has the same host NQN as node-a"),
]


async def test_nodes_with_one_identity_are_told_both_at_every_check() -> None:
    identities = Identities(
        attached("v1", "node-a", CLONED), attached("v2", "node-b", CLONED), attached("v3", "node-c", OWN)
    )
    await identities.hosts.check()
    message = identities.notices[0].message
    assert CLONED in message
    assert "uuidgen > /etc/nvme/hostid" in message
    assert len(message.encode()) < 1024
    assert identities.told == BOTH
    await identities.hosts.check()
    assert identities.told == BOTH


async def test_nothing_is_told_while_all_is_well_or_nobody_knows() -> None:
    identities = Identities(attached("v1", "node-a", OWN), attached("v2", "node-a", OWN))
    await identities.hosts.check()
    assert identities.told == []
    identities = Identities(attached("v1", "node-a", CLONED), attached("v2", "node-b", CLONED))
    await identities.hosts.check()
    assert identities.told == BOTH
    identities.error = Unavailable("the array is away")
    await identities.hosts.check()
    assert identities.told == []


async def test_a_node_that_is_turned_away_is_told_and_so_is_the_one_that_it_resembles() -> None:
    identities = Identities(attached("v1", "node-a", CLONED))
    await identities.hosts.check()
    with pytest.raises(FailedPrecondition):
        await identities.hosts.admit(HostNode(f"node-b#{CLONED}", CLONED), Volume("v2", "v2", GIB, TARGET))
    assert identities.told == BOTH
