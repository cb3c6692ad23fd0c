"""Between the messages of CSI and the value objects of ``model``."""

from collections.abc import Mapping, Sequence

import betterproto

from rds_csi.csi import v1 as csi
from rds_csi.errors import InvalidArgument
from rds_csi.model.sizes import SizeRange
from rds_csi.model.volumes import ContentSource, HealthProblem, Snapshot, SnapshotGroup, SourceKind, Volume
from rds_csi.services import topology
from rds_csi.services.checks import require_id


def size_range(message: csi.CapacityRange) -> SizeRange:
    """The range in a request, without bounds when it is missing; InvalidArgument when it contradicts itself."""
    return SizeRange(message.required_bytes, message.limit_bytes)


def require_size_range(message: csi.CapacityRange) -> SizeRange:
    """The range in a request that cannot do without one."""
    if not (message.required_bytes or message.limit_bytes):
        raise InvalidArgument("capacity_range is missing")
    return size_range(message)


def content_source(message: csi.VolumeContentSource) -> ContentSource | None:
    """The source in a CreateVolume request; None when it asks for a blank volume."""
    if not betterproto.serialized_on_wire(message):
        return None
    kind, _ = betterproto.which_one_of(message, "type")
    if kind == "snapshot":
        return ContentSource(
            SourceKind.SNAPSHOT, require_id(message.snapshot.snapshot_id, "source snapshot_id", "snapshot")
        )
    if kind == "volume":
        return ContentSource(SourceKind.VOLUME, require_id(message.volume.volume_id, "source volume_id", "volume"))
    raise InvalidArgument("volume_content_source names neither a snapshot nor a volume")


def volume_message(volume: Volume, segments: topology.Segments, context: Mapping[str, str] | None = None) -> csi.Volume:
    """A volume as CSI tells it. ``context`` is what CreateVolume answers; listings leave it out, because a
    volume must always report the same one and an array does not keep all of it."""
    message = csi.Volume(
        volume_id=volume.volume_id,
        capacity_bytes=volume.size,
        volume_context=dict(context or {}),
        accessible_topology=topology.messages(segments),
    )
    if volume.source is not None:
        message.content_source = _source_message(volume.source)
    return message


def _source_message(source: ContentSource) -> csi.VolumeContentSource:
    if source.kind is SourceKind.SNAPSHOT:
        return csi.VolumeContentSource(snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id=source.source_id))
    return csi.VolumeContentSource(volume=csi.VolumeContentSourceVolumeSource(volume_id=source.source_id))


def snapshot_message(snapshot: Snapshot, segments: topology.Segments) -> csi.Snapshot:
    """A snapshot as CSI tells it."""
    return csi.Snapshot(
        snapshot_id=snapshot.snapshot_id,
        source_volume_id=snapshot.source_volume_id,
        size_bytes=snapshot.size,
        creation_time=snapshot.created,
        ready_to_use=snapshot.ready,
        group_snapshot_id=snapshot.group_id,
        accessible_topology=topology.messages(segments),
    )


def group_message(group: SnapshotGroup, segments: topology.Segments) -> csi.VolumeGroupSnapshot:
    """A group snapshot as CSI tells it."""
    return csi.VolumeGroupSnapshot(
        group_snapshot_id=group.group_id,
        snapshots=[snapshot_message(snapshot, segments) for snapshot in group.snapshots],
        creation_time=group.created,
        ready_to_use=group.ready,
    )


def health_message(volume_id: str, problems: Sequence[HealthProblem]) -> csi.VolumeHealth:
    """A volume's health as CSI tells it: one entry for each status and reason."""
    distinct = {(problem.status, problem.reason): problem for problem in problems}
    return csi.VolumeHealth(
        volume_id=volume_id,
        health_statuses=[
            csi.VolumeHealthVolumeHealthEntry(
                status=csi.VolumeHealthErrorType.from_string(problem.status.value),
                reason=problem.reason,
                message=problem.message,
            )
            for problem in distinct.values()
        ],
    )
