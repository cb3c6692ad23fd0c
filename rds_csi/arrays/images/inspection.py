"""What is wrong with an image, or with the whole directory."""

import os
import stat
from collections.abc import Sequence

from rds_csi.arrays.images.folder import VOLUMES, Folder
from rds_csi.arrays.images.records import VolumeRecord
from rds_csi.arrays.images.space import Allocator, can_reflink, free_bytes
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import Finding, HealthProblem, HealthStatus

# Strays are named one by one up to here.
_STRAYS_TOLD = 5


def inspect_image(folder: Folder, path: str, record: VolumeRecord) -> Sequence[HealthProblem]:
    """What is wrong with the image at ``path``. Blocking; OSError when it cannot be looked at."""
    if not folder.is_in_place():
        message = f"{folder.path} is not the directory that was opened: something was mounted or unmounted there"
        return [HealthProblem(HealthStatus.INACCESSIBLE, "DirectoryReplaced", message)]
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return [HealthProblem(HealthStatus.DATA_LOSS, "ImageMissing", f"the image {path} is gone")]
    if not stat.S_ISREG(status.st_mode):
        return [HealthProblem(HealthStatus.INACCESSIBLE, "ImageNotAFile", f"{path} is not a regular file")]
    if status.st_size < record.size:
        message = f"the image {path} has {status.st_size} bytes; its record says {record.size}"
        return [HealthProblem(HealthStatus.DATA_LOSS, "ImageTruncated", message)]
    if status.st_blocks * 512 < record.size and free_bytes(folder.path) < MIB:
        message = f"the filesystem of {folder.path} is full: writes to parts of the volume that have no blocks fail"
        return [HealthProblem(HealthStatus.DEGRADED, "FilesystemFull", message)]
    return []


def inspect_folder(folder: Folder, allocator: Allocator, damaged: Sequence[str]) -> Sequence[Finding]:
    """The state of the whole directory. Blocking; OSError when it cannot be looked at."""
    if not folder.is_in_place():
        return [
            Finding(
                "array directory",
                False,
                f"{folder.path} is not the directory that was opened",
                "Mount it again, then restart the driver.",
            )
        ]
    available = allocator.available()
    findings = [
        Finding(
            "array directory",
            available >= MIB,
            f"{available // MIB} MiB are free in {folder.path}",
            "" if available >= MIB else "Free some space, or move the array to a larger filesystem.",
        ),
        _reflink(folder),
    ]
    findings += [Finding("record", False, text) for text in damaged]
    strays = list(folder.strays())
    if strays:
        named = ", ".join(strays[:_STRAYS_TOLD]) + (", …" if len(strays) > _STRAYS_TOLD else "")
        findings.append(
            Finding("files", False, f"{len(strays)} files have no record: {named}", "Move away what is not needed.")
        )
    return findings


def _reflink(folder: Folder) -> Finding:
    if can_reflink(folder.below(VOLUMES)):
        return Finding("snapshots", True, f"{folder.path} has reflink: snapshots and clones take no time or space")
    return Finding(
        "snapshots",
        True,
        f"{folder.path} has no reflink: snapshots and clones are copied, and fail while the volume is written to",
        "Put the array on xfs or btrfs.",
    )
