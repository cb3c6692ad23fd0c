"""Bind mounts by the mount API of Linux 5.12: a mount that is complete before anybody can see it.

mount(2) makes a read-only bind in two steps, a writable bind and a remount, and so does mount(8) before util-linux
2.39: killed in between, or looked at by a quick container, the volume is writable at a read-only target. Here
the mount is cloned detached (open_tree), given its attributes (mount_setattr), and only then attached
(move_mount); whatever fails before leaves nothing. No I/O to the volume happens in any of the three.
Sources: open_tree(2), mount_setattr(2), move_mount(2), include/uapi/linux/mount.h.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterable

from rds_csi.errors import FailedPrecondition
from rds_csi.model.oserrors import as_driver_error

# One number on every architecture that Python and Kubernetes run on (asm-generic/unistd.h; alpha differs).
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 0x1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_UMOUNT_NOFOLLOW = 0x8

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 0x1, 0x2, 0x4, 0x8
_ATIME_MASK, _NOATIME, _STRICTATIME, _RELATIME = 0x70, 0x10, 0x20, 0x0
_NODIRATIME, _NOSYMFOLLOW = 0x80, 0x200000

# flag → (bits to set, bits to clear). What is not here belongs to the superblock and is in force since staging.
_ATTRIBUTES = {
    "ro": (_RDONLY, 0),
    "nosuid": (_NOSUID, 0),
    "suid": (0, _NOSUID),
    "nodev": (_NODEV, 0),
    "dev": (0, _NODEV),
    "noexec": (_NOEXEC, 0),
    "exec": (0, _NOEXEC),
    "atime": (_RELATIME, _ATIME_MASK),
    "noatime": (_NOATIME, _ATIME_MASK),
    "strictatime": (_STRICTATIME, _ATIME_MASK),
    "relatime": (_RELATIME, _ATIME_MASK),
    "nodiratime": (_NODIRATIME, 0),
    "diratime": (0, _NODIRATIME),
    "nosymfollow": (_NOSYMFOLLOW, 0),
    "symfollow": (0, _NOSYMFOLLOW),
}


class _MountAttr(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def attributes(flags: Iterable[str]) -> tuple[int, int]:
    """The bits (to set, to clear) that ``flags`` mean for a mount; of two that contradict, the later counts."""
    to_set, to_clear = 0, 0
    for flag in flags:
        on, off = _ATTRIBUTES.get(flag, (0, 0))
        to_set = (to_set & ~off) | on
        # What is in both is set: the kernel clears first (do_mount_setattr in fs/namespace.c).
        to_clear |= off
    return to_set, to_clear


def bind(source: str, path: str, flags: Iterable[str]) -> None:
    """Blocking. Make the directory ``source`` appear at the directory ``path`` with ``flags`` in force."""
    to_set, to_clear = attributes(flags)
    try:
        tree = _call(
            _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_SYMLINK_NOFOLLOW
        )
        try:
            if to_set or to_clear:
                request = _MountAttr(attr_set=to_set, attr_clr=to_clear)
                _call(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(request), ctypes.sizeof(request))
            _call(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise FailedPrecondition(
                "this kernel has no mount_setattr(2)", remedy="Linux 5.12 or newer is needed on the node."
            ) from error
        raise as_driver_error(f"{source} cannot be bound to {path}", error) from error


def unbind(path: str) -> None:
    """Blocking. Undo the mount on top at ``path`` (umount2(2)). OSError as the kernel gives it.

    For a mount whose filesystem stays mounted elsewhere: nothing is written back then, so nothing can stick, and
    no program has to be started for it.
    """
    if _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def is_available() -> bool:
    """Whether the kernel, and the container's seccomp filter, know the mount API."""
    with contextlib.suppress(OSError):
        _call(_SYS_MOUNT_SETATTR, -1, b"", _AT_EMPTY_PATH, None, 0)
        return True
    return ctypes.get_errno() != errno.ENOSYS


def _call(number: int, *arguments: object) -> int:
    converted = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *converted))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
