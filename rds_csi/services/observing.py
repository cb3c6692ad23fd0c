"""What a node tells about volumes and storage: statistics and health. Reads only, holds no lock."""

import re
from collections.abc import Callable, Mapping, Sequence

from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import NotFound, Unavailable
from rds_csi.filesystem.protocol import Filesystems, MountTable, StageRecords, Usage
from rds_csi.model.devices import Device
from rds_csi.model.paths import check_path
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import Target
from rds_csi.model.volumes import Finding, HealthProblem, HealthStatus
from rds_csi.services import lost
from rds_csi.services.checks import require_path_of_volume, require_volume_id
from rds_csi.services.convert import health_message
from rds_csi.services.locating import Located, Locator

# What is being done about a target's session that is away, in one sentence with since when; "" when all is well.
Trouble = Callable[[Target], str]


def no_trouble(target: Target) -> str:  # noqa: ARG001 - nobody keeps sessions
    """For a node whose sessions nobody keeps."""
    return ""


class Observing:
    """Looks at volumes and tools; a look that hangs is bounded where it is made."""

    def __init__(
        self,
        connector: Connector,
        filesystems: Filesystems,
        records: StageRecords,
        locator: Locator,
        trouble: Trouble,
    ) -> None:
        self._connector = connector
        self._filesystems = filesystems
        self._records = records
        self._locator = locator
        self._trouble = trouble

    async def stats(self, request: csi.NodeGetVolumeStatsRequest) -> csi.NodeGetVolumeStatsResponse:
        """NodeGetVolumeStats: bytes and inodes of a filesystem, the size of a block volume."""
        volume_id = require_volume_id(request.volume_id)
        path = require_path_of_volume(request.volume_path, "volume_path", volume_id)
        if request.staging_target_path:
            check_path(request.staging_target_path, "staging_target_path")
        located = await self._locator.at_path(volume_id, path)
        if not located.mounts_at(path):
            return csi.NodeGetVolumeStatsResponse(usage=[_usage("BYTES", total=located.device.size)])
        return csi.NodeGetVolumeStatsResponse(usage=_filesystem_usage(await self._filesystems.usage(path)))

    async def volume_health(self, request: csi.NodeGetVolumeHealthRequest) -> csi.NodeGetVolumeHealthResponse:
        """NodeGetVolumeHealth, of a volume that is or should be staged here; NotFound for any other."""
        volume_id = require_volume_id(request.volume_id)
        paths = [
            check_path(path, field)
            for path, field in (
                (request.volume_publish_path, "volume_publish_path"),
                (request.staging_target_path, "staging_target_path"),
            )
            if path
        ]
        record = await self._records.load(volume_id)
        problems = await (self._problems(record) if record is not None else self._problems_at(volume_id, paths))
        return csi.NodeGetVolumeHealthResponse(volume_health=health_message(volume_id, problems))

    async def storage_health(self) -> csi.NodeGetStorageHealthResponse:
        """NodeGetStorageHealth: what this node lacks to use the storage at all; empty when it is well."""
        findings = [*await self._connector.check(), *await self._filesystems.check()]
        return csi.NodeGetStorageHealthResponse(backend_health=_backend_health(findings))

    async def staged_problems(self, volume_id: str) -> Sequence[HealthProblem]:
        """What is wrong with a volume that is staged here; nothing when it is well, or not staged here."""
        record = await self._records.load(volume_id)
        return [] if record is None else await self._problems(record)

    async def _problems(self, record: StageRecord) -> list[HealthProblem]:
        """From what the kernel shows about sessions and mounts: a mount itself may hang whoever looks at it."""
        located = await self._locator.of_target(record.target, record)
        table = await self._filesystems.mount_table()
        problems = [await self._device_gone(record)] if located is None else await self._session_problems(located)
        if dead := await self._dead(record, located, table):
            problems.append(_device_lost(record.volume_id, dead, located.device if located is not None else None))
        elif located is not None and not record.block:
            problems += _mount_problems(record.staging_path, located, table)
        return problems

    async def _device_gone(self, record: StageRecord) -> HealthProblem:
        said = self._trouble(record.target) or await self._connector.health(record.target)
        detail = f": {said}" if said else ""
        return HealthProblem(HealthStatus.INACCESSIBLE, "DeviceGone", f"the volume has no device on this node{detail}")

    async def _dead(self, record: StageRecord, located: Located | None, table: MountTable) -> dict[str, str]:
        """The staging mount and the pods' block nodes that are of another device than the volume has now, by path,
        with that other device for people."""
        mounts = self._locator.dead_at(table, record, record.staging_path, located)
        dead = {mount.path: lost.name_of(mount) for mount in mounts}
        for path in record.block_targets:
            number = await self._filesystems.block_node_at(path)
            if number is not None and (located is None or number != located.device.number):
                dead[path] = f"the device {number}"
        return dead

    async def _problems_at(self, volume_id: str, paths: Sequence[str]) -> list[HealthProblem]:
        for path in paths:
            try:
                return await self._session_problems(await self._locator.at_path(volume_id, path))
            except (NotFound, Unavailable):
                # Not at this path; perhaps at the next.
                continue
        raise NotFound(f"volume {volume_id} is not on this node")

    async def _session_problems(self, located: Located) -> list[HealthProblem]:
        seen = await self._connector.health(located.target)
        # What is being done about it, since when: it names the states that were just seen, too.
        said = self._trouble(located.target) or seen
        return [HealthProblem(HealthStatus.DEGRADED, "SessionUnhealthy", said)] if said else []


def _device_lost(volume_id: str, dead: Mapping[str, str], device: Device | None) -> HealthProblem:
    told = "; ".join(lost.describe(volume_id, path, old, device) for path, old in dead.items())
    return HealthProblem(HealthStatus.INACCESSIBLE, "DeviceLost", f"{told}. {lost.REMEDY}")


def _mount_problems(path: str, located: Located, table: MountTable) -> list[HealthProblem]:
    staged = located.mounts_at(path)
    if not staged:
        others = table.at(path)
        what = f"{others[-1].source}, which is not this volume," if others else "nothing"
        return [HealthProblem(HealthStatus.INACCESSIBLE, "NotMounted", f"{what} is mounted at {path}")]
    if "ro" in staged[-1].super_options and "ro" not in staged[-1].options:
        said = "the kernel has turned the filesystem read-only"
        return [HealthProblem(HealthStatus.DEGRADED, "FilesystemReadOnly", said)]
    return []


def _filesystem_usage(usage: Usage) -> list[csi.VolumeUsage]:
    space = _usage("BYTES", total=usage.total_bytes, available=usage.available_bytes, used=usage.used_bytes)
    if not usage.total_inodes:
        # btrfs makes inodes as they are needed, and tells none.
        return [space]
    inodes = _usage("INODES", total=usage.total_inodes, available=usage.available_inodes, used=usage.used_inodes)
    return [space, inodes]


def _usage(unit: str, *, total: int, available: int = 0, used: int = 0) -> csi.VolumeUsage:
    return csi.VolumeUsage(total=total, available=available, used=used, unit=csi.VolumeUsageUnit.from_string(unit))


def _backend_health(findings: Sequence[Finding]) -> list[csi.NodeGetStorageHealthResponseStorageBackendHealth]:
    """One entry for each reason: CSI wants (status, reason) to be unique."""
    messages: dict[str, list[str]] = {}
    for finding in findings:
        if not finding.ok:
            messages.setdefault(_reason(finding.subject), []).append(f"{finding.message}. {finding.remedy}".strip())
    status = csi.StorageHealthErrorType.from_string("STORAGE_DEGRADED")
    return [
        csi.NodeGetStorageHealthResponseStorageBackendHealth(status=status, reason=reason, message=" ".join(texts))
        for reason, texts in messages.items()
    ]


def _reason(subject: str) -> str:
    """``nvme-cli`` becomes ``NvmeCli``: CSI's reasons are CamelCase."""
    return "".join(word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", subject)) or "Unknown"
