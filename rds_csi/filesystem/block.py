"""Block nodes: how a raw block volume is published, by mknod(2).

Not by a bind mount of the node below /dev: repeated by the kubelet, that stacked 2048 mounts and took nodes
down (lessons I8). A node is not read-only by its path, so a read-only publication sets the device itself read-only
(BLKROSET) and marks its node with mode 0400. Writable and read-only nodes of one device beside each other are
refused; they are found in the target's directory, which the kubelet has one of a volume.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from rds_csi.errors import FailedPrecondition
from rds_csi.filesystem import blockdev
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.oserrors import as_driver_error

_WRITABLE_MODE = 0o600
_READ_ONLY_MODE = 0o400
_DIRECTORY_MODE = 0o750


def node_at(path: str) -> DeviceNumber | None:
    """Blocking. The device of the block special file at ``path``; None when there is none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise as_driver_error(f"{path} cannot be looked at", error) from error
    return DeviceNumber.of(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def place(device: Device, path: str, *, read_only: bool) -> None:
    """Blocking. A block special file for ``device`` is at ``path``, and the device is as writable as asked.

    FailedPrecondition for anything else at ``path``, for a sibling with the other access, for a filesystem mounted
    with ``nodev``, and for a writable node of a device that the array exports read-only.
    """
    mode = _READ_ONLY_MODE if read_only else _WRITABLE_MODE
    try:
        os.makedirs(os.path.dirname(path), mode=_DIRECTORY_MODE, exist_ok=True)
        _check_place(device, path, mode)
        _check_siblings(device, path, read_only=read_only)
        _set_access(device, read_only=read_only)
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | mode, os.makedev(device.number.major, device.number.minor))
    except OSError as error:
        raise as_driver_error(f"a block node for {device.path} cannot be made at {path}", error) from error


def release(path: str) -> None:
    """Blocking. Before the node at ``path`` is removed: the last read-only node lets the device be written again.

    The kernel keeps the flag on a device that changes its content (a loop device, say), so that the next volume
    there could not be written. A device that is gone needs nothing. A number may have gone to another volume since:
    while that one has a node, here or in a directory beside, its flag is left alone.
    """
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if not stat.S_ISBLK(status.st_mode) or stat.S_IMODE(status.st_mode) != _READ_ONLY_MODE:
            return
        if _siblings(path, status.st_rdev) or any(_nodes_beside(os.path.dirname(path), status.st_rdev)):
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # The path may have got another node meanwhile.
            if os.path.samestat(os.fstat(descriptor), status):
                blockdev.set_read_only(descriptor, False)
        finally:
            os.close(descriptor)


def _check_place(device: Device, path: str, mode: int) -> None:
    if os.statvfs(os.path.dirname(path)).f_flag & os.ST_NODEV:
        raise FailedPrecondition(
            f"{os.path.dirname(path)} is on a filesystem mounted with nodev: a block node there cannot be opened",
            remedy="Mount the kubelet's directory without nodev.",
        )
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISBLK(status.st_mode) or DeviceNumber.of(status.st_rdev) != device.number:
        raise FailedPrecondition(f"{path} is there already and is not {device.path} ({device.number})")
    if stat.S_IMODE(status.st_mode) != mode:
        raise FailedPrecondition(f"{path} is there already, published with the other access")


def _check_siblings(device: Device, path: str, *, read_only: bool) -> None:
    for name, mode in _siblings(path, os.makedev(device.number.major, device.number.minor)).items():
        if (mode == _READ_ONLY_MODE) != read_only:
            raise FailedPrecondition(
                f"{device.path} is published at {name} already, {'writable' if read_only else 'read-only'}",
                remedy="A raw block volume is writable or read-only for all of a node's pods alike.",
            )


def _siblings(path: str, rdev: int) -> dict[str, int]:
    """The other block nodes of the same device in the directory: path → mode bits."""
    nodes = _nodes(os.path.dirname(path), rdev)
    nodes.pop(path, None)
    return nodes


def _nodes_beside(directory: str, rdev: int) -> Iterator[dict[str, int]]:
    """The block nodes of the device in each of the directories beside: the kubelet has one of a volume."""
    with os.scandir(os.path.dirname(directory)) as entries:
        for entry in entries:
            if entry.path != directory and entry.is_dir(follow_symlinks=False):
                # Another volume's last pod has gone.
                with contextlib.suppress(FileNotFoundError):
                    yield _nodes(entry.path, rdev)


def _nodes(directory: str, rdev: int) -> dict[str, int]:
    """The block nodes of the device in a directory: path → mode bits."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                # Told without a look at it: a mount whose device is gone would fail, or hang.
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISBLK(status.st_mode) and status.st_rdev == rdev:
                found[entry.path] = stat.S_IMODE(status.st_mode)
    return found


def _set_access(device: Device, *, read_only: bool) -> None:
    with blockdev.opened(device, os.O_RDONLY) as descriptor:
        if blockdev.is_read_only(descriptor) == read_only:
            return
        blockdev.set_read_only(descriptor, read_only)
        if blockdev.is_read_only(descriptor) != read_only:
            raise FailedPrecondition(
                f"{device.path} is exported read-only by its array", remedy="Publish the volume read-only."
            )
