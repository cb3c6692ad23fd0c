"""RouterOS arrays over a device made of memory, for tests."""

from datetime import UTC, datetime

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.options import Fencing, RestOptions, RouterosOptions, SnapshotMeans
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.retry import RetryPolicy
from tests.support.clock import FakeClock
from tests.support.routeros_memory import POOL, MemoryClient, MemoryDevice

PREFIX = "nqn.2026-01.io.rds-csi:prod:"
DRIVER = "rds.csi.rds-csi.io"
VOLUME = "pvc-0f0e0d0c-0b0a-4908-8706-050403020100"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def array_on(
    device: MemoryDevice,
    *,
    fencing: Fencing = Fencing.NONE,
    snapshots: SnapshotMeans = SnapshotMeans.NONE,
    driver: str = DRIVER,
    cluster: str = "prod",
    host: str = "192.0.2.1",
    clock: FakeClock | None = None,
) -> RouterosArray:
    """An array like a process that has just started makes it."""
    options = RouterosOptions(
        transport=RestOptions(host, user="csi"),
        pool=POOL,
        driver_name=driver,
        nqn_prefix=PREFIX,
        nvme_addresses=("192.0.2.1",),
        cluster=cluster,
        fencing=fencing,
        snapshots=snapshots,
    )
    policy = RetryPolicy(attempts=3, first_delay=0.0)
    return RouterosArray(
        options, MemoryClient(device), clock=(clock or FakeClock()).clock, today=lambda: NOW, policy=policy
    )


def device_for(snapshots: SnapshotMeans) -> MemoryDevice:
    """A device with a pool of the filesystem that these snapshots need."""
    return MemoryDevice(fs="btrfs" if snapshots is SnapshotMeans.BTRFS_SUBVOLUME else "xfs")


def spec(volume_id: str = VOLUME, size: int = GIB, **more: object) -> VolumeSpec:
    """A new volume."""
    return VolumeSpec(volume_id, volume_id, size, **more)  # type: ignore[arg-type]  # a test's own fields


def from_snapshot(snapshot_id: str) -> ContentSource:
    return ContentSource(SourceKind.SNAPSHOT, snapshot_id)


def from_volume(volume_id: str) -> ContentSource:
    return ContentSource(SourceKind.VOLUME, volume_id)


def attachment(node: str = "node-1", *, nqn: str = "", readonly: bool = False) -> Attachment:
    """An attachment for writing, unless told otherwise."""
    host = nqn or f"nqn.2014-08.org.nvmexpress:uuid:{node}"
    mode = AccessMode.MULTI_NODE_MULTI_WRITER
    return Attachment(Node(node, host), f"token-{node}", mode, readonly)
