"""Generated from protos/ by `nox -s proto`; never edited.

Which fields of which message carry the option ``csi_secret``: their values are never logged.
"""

SECRET_FIELDS: dict[str, frozenset[str]] = {
    "CreateVolumeRequest": frozenset({"secrets"}),
    "DeleteVolumeRequest": frozenset({"secrets"}),
    "ControllerPublishVolumeRequest": frozenset({"secrets"}),
    "ControllerUnpublishVolumeRequest": frozenset({"secrets"}),
    "ValidateVolumeCapabilitiesRequest": frozenset({"secrets"}),
    "ControllerListVolumeHealthRequest": frozenset({"secrets"}),
    "ControllerGetVolumeHealthRequest": frozenset({"secrets"}),
    "ControllerModifyVolumeRequest": frozenset({"secrets"}),
    "CreateSnapshotRequest": frozenset({"secrets"}),
    "DeleteSnapshotRequest": frozenset({"secrets"}),
    "ListSnapshotsRequest": frozenset({"secrets"}),
    "GetSnapshotRequest": frozenset({"secrets"}),
    "ControllerExpandVolumeRequest": frozenset({"secrets"}),
    "NodeStageVolumeRequest": frozenset({"secrets"}),
    "NodePublishVolumeRequest": frozenset({"secrets"}),
    "NodeGetStorageHealthRequest": frozenset({"secrets"}),
    "NodeExpandVolumeRequest": frozenset({"secrets"}),
    "CreateVolumeGroupSnapshotRequest": frozenset({"secrets"}),
    "DeleteVolumeGroupSnapshotRequest": frozenset({"secrets"}),
    "GetVolumeGroupSnapshotRequest": frozenset({"secrets"}),
    "GetMetadataAllocatedRequest": frozenset({"secrets"}),
    "GetMetadataDeltaRequest": frozenset({"secrets"}),
}
