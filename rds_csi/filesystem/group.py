"""Giving a volume to a group (VOLUME_MOUNT_GROUP), as the kubelet does with fsGroupChangePolicy OnRootMismatch.

Every entry gets the group, its group may read and write it, and directories pass the group on (setgid). Walked by
descriptors, never by paths: another pod of the same volume may swap a directory for a symlink to the host's files
while this runs.
"""

import contextlib
import os
import stat
from dataclasses import dataclass

from rds_csi.errors import FailedPrecondition
from rds_csi.model.oserrors import as_driver_error

_FILE_BITS = 0o660
_DIRECTORY_BITS = stat.S_ISGID | 0o770
# A descriptor is kept open for each level; honest trees have a few dozen levels.
_MAX_DEPTH = 256


@dataclass(frozen=True, slots=True)
class _Level:
    """An open directory and the names in it that are still to be visited."""

    descriptor: int
    names: list[str]


def give_to_group(path: str, group: int) -> None:
    """Blocking, as long as the tree is large. The root comes last, so that a repeated call after a kill begins
    anew, and one after success ends at once. A read-only filesystem is left as it is."""
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(root)
            if _is_given(status, group) or os.fstatvfs(root).f_flag & os.ST_RDONLY:
                return
            _give_below(root, status.st_dev, group)
            _give(root, status, group)
        finally:
            os.close(root)
    except OSError as error:
        raise as_driver_error(f"{path} cannot be given to group {group}", error) from error


def _give_below(root: int, device: int, group: int) -> None:
    levels = [_Level(os.dup(root), os.listdir(root))]
    try:
        while levels:
            level = levels[-1]
            if not level.names:
                # A directory's own turn comes after its content's.
                status = os.fstat(level.descriptor)
                if len(levels) > 1 and not _is_given(status, group):
                    _give(level.descriptor, status, group)
                os.close(levels.pop().descriptor)
                continue
            # What vanishes meanwhile belongs to a running pod.
            with contextlib.suppress(FileNotFoundError):
                deeper = _visit(level.descriptor, level.names.pop(), device, group)
                if deeper is not None:
                    levels.append(deeper)
            if len(levels) > _MAX_DEPTH:
                raise FailedPrecondition(f"the volume has directories nested more than {_MAX_DEPTH} levels deep")
    finally:
        for level in levels:
            os.close(level.descriptor)


def _visit(parent: int, name: str, device: int, group: int) -> _Level | None:
    """Give one entry away, unless it is a directory: that one is opened to be walked."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if status.st_dev != device:
        # Another filesystem is mounted here.
        return None
    if stat.S_ISLNK(status.st_mode):
        os.chown(name, -1, group, dir_fd=parent, follow_symlinks=False)
        return None
    if stat.S_ISDIR(status.st_mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if os.fstat(descriptor).st_dev == device:
                return _Level(descriptor, os.listdir(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None
    if not _is_given(status, group) and not (stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        # O_PATH opens nothing: a FIFO does not wait, a file's data is not touched.
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            _give(descriptor, os.fstat(descriptor), group)
        finally:
            os.close(descriptor)
    return None


def _wanted_bits(mode: int) -> int:
    return _DIRECTORY_BITS if stat.S_ISDIR(mode) else _FILE_BITS


def _is_given(status: os.stat_result, group: int) -> bool:
    wanted = _wanted_bits(status.st_mode)
    return status.st_gid == group and status.st_mode & wanted == wanted


def _give(descriptor: int, status: os.stat_result, group: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        return
    # fchown(2) refuses an O_PATH descriptor; its link in /proc leads to the same inode.
    link = f"/proc/self/fd/{descriptor}"
    os.chown(link, -1, group)
    # chown(2) has taken setuid and setgid away; a program that had them keeps them.
    os.chmod(link, stat.S_IMODE(status.st_mode) | _wanted_bits(status.st_mode))
