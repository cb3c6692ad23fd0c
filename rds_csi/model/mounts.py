"""Filesystems: which of a request's words about them may reach mkfs(8) and chown(2)."""

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import nearest

FILESYSTEMS = ("ext4", "xfs", "btrfs")
DEFAULT_FILESYSTEM = "ext4"

# user_namespaces(7) allows group ids up to 2^32 - 2; the last one means "none".
_MAX_GROUP = (1 << 32) - 2


def check_fs_type(fs_type: str, field: str) -> str:
    """``fs_type`` itself, when it is "" or a filesystem that this driver makes."""
    if fs_type and fs_type not in FILESYSTEMS:
        known = list(FILESYSTEMS)
        raise InvalidArgument(
            f"{field} is {fs_type[:64]!r}{nearest(fs_type[:64], known)}: {', '.join(known)} are supported"
        )
    return fs_type


def parse_group(text: str) -> int | None:
    """The group id of a ``volume_mount_group``; None for ""."""
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _MAX_GROUP:
        return int(text)
    raise InvalidArgument(f"volume_mount_group is not a group id: {text[:64]!r}")


def check_mkfs_options(text: str, field: str) -> tuple[str, ...]:
    """The words of mkfs options; none may be a path, which mkfs(8) would take for another device."""
    words = tuple(text.split())
    for word in words:
        if word.startswith("/") or any(not char.isprintable() for char in word):
            raise InvalidArgument(f"{field} has a word that is not an option of mkfs: {word[:64]!r}")
    return words
