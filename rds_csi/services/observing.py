"""What a node tells about volumes and storage: statistics and health. Reads only, holds no lock."""

import re
from collections.abc import Sequence

from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import NotFound, Unavailable
from rds_csi.filesystem.protocol import Filesystems, StageRecords, Usage
from rds_csi.model.paths import check_path
from rds_csi.model.records import StageRecord
from rds_csi.model.volumes import Finding, HealthProblem, HealthStatus
from rds_csi.services.checks import require_path_of_volume, require_volume_id
from rds_csi.services.convert import health_message
from rds_csi.services.locating import Located, Locator


class Observing:
    """Looks at volumes and tools; a look that hangs is bounded where it is made."""

    def __init__(self, connector: Connector, filesystems: Filesystems, records: StageRecords, locator: Locator) -> None:
        self._connector = connector
        self._filesystems = filesystems
        self._records = records
        self._locator = locator

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

    async def _problems(self, record: StageRecord) -> list[HealthProblem]:
        located = await self._locator.of_target(record.target, record)
        if located is None:
            return [HealthProblem(HealthStatus.INACCESSIBLE, "DeviceGone", "the volume has no device on this node")]
        problems = await self._session_problems(located)
        staged = located.mounts_at(record.staging_path)
        if not record.block and not staged:
            problems.append(
                HealthProblem(HealthStatus.INACCESSIBLE, "NotMounted", f"nothing is mounted at {record.staging_path}")
            )
        if staged and "ro" in staged[-1].super_options and "ro" not in staged[-1].options:
            problems.append(
                HealthProblem(
                    HealthStatus.DEGRADED, "FilesystemReadOnly", "the kernel has turned the filesystem read-only"
                )
            )
        return problems

    async def _problems_at(self, volume_id: str, paths: Sequence[str]) -> list[HealthProblem]:
        for path in paths:
            try:
                return await self._session_problems(await self._locator.at_path(volume_id, path))
            except (NotFound, Unavailable):
                # Not at this path; perhaps at the next.
                continue
        raise NotFound(f"volume {volume_id} is not on this node")

    async def _session_problems(self, located: Located) -> list[HealthProblem]:
        said = await self._connector.health(located.target)
        return [HealthProblem(HealthStatus.DEGRADED, "SessionUnhealthy", said)] if said else []


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
