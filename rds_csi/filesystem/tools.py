"""Which programs this room starts, and whether they are there."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rds_csi.filesystem import mountapi
from rds_csi.model.volumes import Finding

# Where administration programs are when $PATH of a service leaves them out.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, its Debian package, and the filesystem that is unavailable without it ("": all are)."""

    name: str
    package: str
    fs_type: str = ""


TOOLS: tuple[Tool, ...] = (
    Tool("mount", "mount"),
    Tool("umount", "mount"),
    Tool("blkid", "util-linux"),
    Tool("wipefs", "util-linux"),
    Tool("mkfs.ext4", "e2fsprogs"),
    Tool("e2fsck", "e2fsprogs"),
    Tool("resize2fs", "e2fsprogs"),
    Tool("mkfs.xfs", "xfsprogs", "xfs"),
    Tool("xfs_growfs", "xfsprogs", "xfs"),
    Tool("mkfs.btrfs", "btrfs-progs", "btrfs"),
    Tool("btrfs", "btrfs-progs", "btrfs"),
)


def find_program(name: str) -> str | None:
    """The path of a program, looked for as the process runner does."""
    return shutil.which(name, path=":".join([os.environ.get("PATH", os.defpath), *_SBIN]))


def check_tools(find: Callable[[str], str | None] = find_program) -> Sequence[Finding]:
    """One finding a program. A missing one for xfs or btrfs is well, with a remedy for who wants that filesystem."""
    return tuple(_check(tool, find(tool.name)) for tool in TOOLS)


def check_kernel() -> Finding:
    """Whether the kernel knows the mount API that bind mounts are made with."""
    if mountapi.is_available():
        return Finding("mount_setattr(2)", True, "the kernel has it")
    return Finding("mount_setattr(2)", False, "the kernel does not have it", "Linux 5.12 or newer is needed.")


def _check(tool: Tool, path: str | None) -> Finding:
    if path is not None:
        return Finding(tool.name, True, path)
    remedy = f"apt-get install {tool.package}"
    if tool.fs_type:
        return Finding(tool.name, True, f"not installed: {tool.fs_type} cannot be made or grown on this node", remedy)
    return Finding(tool.name, False, "not installed", remedy)
