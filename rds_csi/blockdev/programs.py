"""Which programs have block devices open, and what is mounted in their mount namespaces, as /proc tells.

An exclusive open shows neither a plain open(2) nor who it is. Blocking; in a container without the host's pid
namespace only its own programs are seen.
"""

import os
import stat
from collections.abc import Iterator, Mapping

from rds_csi.blockdev.disks import Names, node_name
from rds_csi.blockdev.mounts import parse_mounts
from rds_csi.blockdev.usage import open_text
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.oserrors import GONE

# Filesystems that another machine or a program serves: stat(2) of a file of theirs may not come back.
_SERVED = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "glusterfs", "lustre", "afs", "autofs"})


def look_at_programs(proc: str, names: Names) -> Iterator[tuple[str, str]]:
    """Disk and phrase for each use that is found. OSError when a program could not be looked at."""
    # By namespace: every mount point, and whether somebody else serves what is mounted there.
    namespaces: dict[str, Mapping[str, bool]] = {}
    # Each mount namespace is read once: of "self" and of pid 1 the mounts are known.
    for pid in sorted(filter(str.isdigit, _list(proc)), key=int):
        process = f"{proc}/{pid}"
        namespace = _namespace(process) or pid
        if namespace not in namespaces:
            served: dict[str, bool] = {}
            for mount in parse_mounts(_read(f"{process}/mountinfo")):
                name = node_name(mount.source)
                disk = names.by_number.get(mount.number) or names.by_name.get(name)
                if disk:
                    yield disk, f"{disk} is mounted at {mount.path} in the mount namespace of {_who(process)}"
                # A later mount lies over an earlier one of the same place.
                served[mount.path] = mount.fs_type in _SERVED or mount.fs_type.startswith("fuse")
            namespaces[namespace] = served
        for disk in _open_disks(process, names, namespaces[namespace]):
            yield disk, f"{disk} is open in {_who(process)}"


def _open_disks(process: str, names: Names, served: Mapping[str, bool]) -> Iterator[str]:
    directory = f"{process}/fd"
    for descriptor in _list(directory):
        link = f"{directory}/{descriptor}"
        target = _link(link)
        # Sockets, pipes and the like are no paths.
        if not target.startswith("/"):
            continue
        disk = names.by_name.get(node_name(target)) or (
            None if _is_served(target, served) else names.by_number.get(_block_number(link))
        )
        if disk:
            yield disk


def _is_served(path: str, served: Mapping[str, bool]) -> bool:
    """Of the mounts above ``path``, the deepest one has it: /dev is here even where "/" is on NFS."""
    place = path
    while place not in served and place.strip("/"):
        place = os.path.dirname(place)
    return served.get(place, False)


def _block_number(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        # The program has ended or closed it: that the link may be followed is known from its reading.
        return ""
    return str(DeviceNumber.of(status.st_rdev)) if stat.S_ISBLK(status.st_mode) else ""


def _namespace(process: str) -> str:
    try:
        return os.readlink(f"{process}/ns/mnt")
    except OSError:
        # Then its mounts are read as those of a namespace of its own.
        return ""


# What is not for this process is an OSError in all of these: that is not "nothing".


def _link(path: str) -> str:
    """What a link of /proc names; "" when the program has ended. OSError."""
    try:
        return os.readlink(path)
    except OSError as error:
        if _has_ended(error):
            return ""
        raise


def _list(directory: str) -> list[str]:
    """What is in a directory of /proc; nothing when the program has ended. OSError."""
    try:
        return os.listdir(directory)
    except OSError as error:
        if _has_ended(error):
            return []
        raise


def _read(path: str) -> str:
    """A file of /proc; "" when the program has ended. OSError."""
    try:
        with open_text(path) as stream:
            return stream.read()
    except OSError as error:
        if _has_ended(error):
            return ""
        raise


def _has_ended(error: OSError) -> bool:
    return isinstance(error, ProcessLookupError) or (error.errno in GONE and not isinstance(error, PermissionError))


def _who(process: str) -> str:
    return f"pid {os.path.basename(process)} ({_read(f'{process}/comm').strip() or '?'})"
