"""Volumes that the Go driver for this array made (design, section 9): recognised by their names, as they carry no mark.

Its slot is the volume id, its NQN the vendor's prefix with the slot, its file ``<slot>.img``: all three must agree, and
the comment must be empty. The first write puts a mark, which names the file.
"""

import posixpath
import re

from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.records import Disk

# The driver name under which such volumes are taken over.
GO_DRIVER = "rds.csi.srvlab.io"
_GO_PREFIX = "nqn.2000-02.com.mikrotik:"
_VOLUME_ID = re.compile(r"pvc-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def is_go_id(volume_id: str) -> bool:
    """Whether the Go driver gave such ids."""
    return _VOLUME_ID.fullmatch(volume_id) is not None


def go_nqn(volume_id: str) -> str:
    """The NQN under which the Go driver exported a volume."""
    return f"{_GO_PREFIX}{volume_id}"


def is_go_volume(disk: Disk) -> bool:
    """Whether ``disk`` is a volume of the Go driver, which nobody has marked yet; its slot is the volume id."""
    return (
        disk.type == "file"
        and not disk.comment
        and is_go_id(disk.slot)
        and disk.nqn == go_nqn(disk.slot)
        and posixpath.basename(disk.file_path) == f"{disk.slot}.img"
    )


def mark_for(disk: Disk, driver: str, cluster: str) -> Mark:
    """The mark that such a volume gets."""
    return Mark(Kind.VOLUME, driver, cluster, object_id=disk.slot, name=disk.slot, path=disk.file_path)
