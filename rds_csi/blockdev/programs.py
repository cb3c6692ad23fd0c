"""Which programs have block devices open, and what is mounted in their mount namespaces, as /proc tells.

An exclusive open shows neither a plain open(2) nor who it is. Blocking; in a container without the host's pid
namespace only its own programs are seen.
"""

import os
import stat
from collections.abc import Iterator

from rds_csi.blockdev.disks import Names, node_name
from rds_csi.blockdev.mounts import parse_mounts
from rds_csi.blockdev.usage import read_text
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.oserrors import GONE

# Filesystems that another machine or a program serves: stat(2) of a file of theirs may not come back.
_SERVED = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "glusterfs", "lustre", "afs", "autofs"})


def look_at_programs(proc: str, names: Names) -> Iterator[tuple[str, str]]:
    """Disk and phrase for each use that is found. OSError when a program could not be looked at."""
    namespaces: dict[str, tuple[str, ...]] = {}
    # Each mount namespace is read once: of "self" and of pid 1 the mounts are known.
    for pid in sorted(filter(str.isdigit, _list(proc)), key=int):
        process = f"{proc}/{pid}"
        namespace = _link(f"{process}/ns/mnt") or pid
        if namespace not in namespaces:
            served = []
            for mount in parse_mounts(read_text(f"{process}/mountinfo")):
                name = node_name(mount.source)
                disk = names.by_number.get(mount.number) or names.by_name.get(name)
                if disk:
                    yield disk, f"{disk} is mounted at {mount.path} in the mount namespace of {_who(process)}"
                if mount.fs_type in _SERVED or mount.fs_type.startswith("fuse"):
                    served.append(mount.path.rstrip("/") + "/")
            namespaces[namespace] = tuple(served)
        for disk in _open_disks(process, names, namespaces[namespace]):
            yield disk, f"{disk} is open in {_who(process)}"


def _open_disks(process: str, names: Names, served: tuple[str, ...]) -> Iterator[str]:
    directory = f"{process}/fd"
    for descriptor in _list(directory):
        link = f"{directory}/{descriptor}"
        target = _link(link)
        # Sockets, pipes and the like are no paths.
        if not target.startswith("/"):
            continue
        disk = names.by_name.get(node_name(target)) or (
            None if target.startswith(served) else names.by_number.get(_block_number(link))
        )
        if disk:
            yield disk


def _block_number(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        # The program has ended or closed it.
        return ""
    return str(DeviceNumber.of(status.st_rdev)) if stat.S_ISBLK(status.st_mode) else ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        # Ended meanwhile; what is not for this process is told by the listing.
        return ""


def _list(directory: str) -> list[str]:
    """What is in a directory of /proc; nothing when the program has ended. OSError when it is not for this process:
    that is not "nothing"."""
    try:
        return os.listdir(directory)
    except PermissionError:
        raise
    except ProcessLookupError:
        return []
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def _who(process: str) -> str:
    return f"pid {os.path.basename(process)} ({read_text(f'{process}/comm').strip() or '?'})"
