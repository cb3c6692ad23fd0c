"""RouterOS versions: which arguments and commands the console tree of each one has.

Names are exact for the releases 7.9 … 7.24, as the command trees dumped from them show.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rds_csi.simulator.menu import ArgumentKind

_TEXT, _NUMBER, _SIZE = ArgumentKind.TEXT, ArgumentKind.NUMBER, ArgumentKind.SIZE
_BOOLEAN, _CHOICE, _FLAG = ArgumentKind.BOOLEAN, ArgumentKind.CHOICE, ArgumentKind.FLAG
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
# Later than every release.
_NEVER = (99, 0)

# The releases that tests choose from: no file disks; file disks; own NQNs; short slots.
SUPPORTED = ("7.15", "7.17", "7.21", "7.24")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A release: ``7.21`` or ``7.21.2``."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" + (f".{self.patch}" if self.patch else "")

    def at_least(self, major: int, minor: int) -> bool:
        """Whether this release is ``major.minor`` or later."""
        return (self.major, self.minor) >= (major, minor)


def parse_version(text: str) -> Version:
    """The release that ``text`` names; ValueError when it is not of the form ``7.21`` or ``7.21.2``."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a RouterOS version: {text!r}")
    return Version(int(match[1]), int(match[2]), int(match[3] or 0))


@dataclass(frozen=True, slots=True)
class Known:
    """A name of the tree: from ``since`` on, no longer in ``until``."""

    name: str
    kind: ArgumentKind = _TEXT
    since: tuple[int, int] = (7, 0)
    until: tuple[int, int] = _NEVER

    def in_version(self, version: Version) -> bool:
        return self.since <= (version.major, version.minor) < self.until


def kinds(known: Iterable[Known], version: Version) -> dict[str, ArgumentKind]:
    """The names that ``version`` has, with what they take."""
    return {entry.name: entry.kind for entry in known if entry.in_version(version)}


# /disk add: 64 arguments in 7.24, 45 in 7.15.
DISK_ARGUMENTS: tuple[Known, ...] = (
    Known("type", _CHOICE),
    Known("slot"),
    Known("parent"),
    Known("comment"),
    Known("disabled", _BOOLEAN),
    Known("copy-from"),
    Known("mount-filesystem", _BOOLEAN, since=(7, 17)),
    Known("mount-read-only", _BOOLEAN, since=(7, 17)),
    Known("mount-point-template", since=(7, 17)),
    Known("compress", _BOOLEAN, since=(7, 18)),
    Known("swap", _BOOLEAN, since=(7, 17)),
    Known("file-path", since=(7, 17)),
    Known("file-size", _SIZE, since=(7, 17)),
    Known("file-offset", _SIZE, since=(7, 17)),
    Known("partition-number", _NUMBER),
    Known("partition-offset", _SIZE),
    Known("partition-size", _SIZE),
    Known("tmpfs-max-size", _SIZE),
    Known("ramdisk-size", _SIZE),
    Known("raid-type"),
    Known("raid-device-count", _NUMBER),
    Known("raid-max-component-size"),
    Known("raid-chunk-size"),
    Known("raid-master"),
    Known("raid-role"),
    Known("raid-member-failed", _BOOLEAN),
    Known("crypted-backend"),
    Known("encryption-key"),
    Known("self-encryption-password"),
    Known("nvme-tcp-export", _BOOLEAN),
    Known("nvme-tcp-server-port", _NUMBER),
    Known("nvme-tcp-server-nqn", since=(7, 21)),
    Known("nvme-tcp-server-allow-host-name"),
    Known("nvme-tcp-server-password"),
    Known("nvme-tcp-address"),
    Known("nvme-tcp-name", until=(7, 21)),
    Known("nvme-tcp-nqn", since=(7, 21)),
    Known("nvme-tcp-host-name"),
    Known("nvme-tcp-password"),
    Known("nvme-tcp-port", _NUMBER),
    Known("iscsi-export", _BOOLEAN),
    Known("iscsi-server-port", _NUMBER, since=(7, 21)),
    Known("iscsi-server-iqn", since=(7, 21)),
    Known("iscsi-address"),
    Known("iscsi-iqn"),
    Known("iscsi-port", _NUMBER),
    Known("nfs-export", _BOOLEAN, until=(7, 14)),
    Known("nfs-sharing", _BOOLEAN, since=(7, 14)),
    Known("nfs-address"),
    Known("nfs-share"),
    Known("smb-export", _BOOLEAN, until=(7, 14)),
    Known("smb-sharing", _BOOLEAN, since=(7, 14)),
    Known("smb-server-user", since=(7, 21)),
    Known("smb-server-password", since=(7, 21)),
    Known("smb-server-encryption", since=(7, 21)),
    Known("smb-address"),
    Known("smb-share"),
    Known("smb-user"),
    Known("smb-password"),
    Known("smb-encryption"),
    Known("media-sharing", _BOOLEAN, since=(7, 15)),
    Known("media-interface", since=(7, 15)),
    Known("sshfs-address", since=(7, 17)),
    Known("sshfs-port", _NUMBER, since=(7, 17)),
    Known("sshfs-path", since=(7, 17)),
    Known("sshfs-user", since=(7, 17)),
    Known("sshfs-password", since=(7, 17)),
)

DISK_TYPES: tuple[Known, ...] = (
    *(Known(name) for name in ("raid", "nvme-tcp", "iscsi", "nfs", "smb", "partition", "tmpfs", "ramdisk", "crypted")),
    Known("sshfs", since=(7, 17)),
    Known("file", since=(7, 17)),
    Known("hardware"),
)

# The commands of /disk besides those that every menu with items has.
DISK_COMMANDS: tuple[Known, ...] = (
    *(Known(name) for name in ("copy", "monitor-traffic", "nvme-discover", "raid-scrub", "reset", "reset-counters")),
    Known("scan"),
    Known("unset"),
    Known("eject-drive", until=(7, 19)),
    Known("eject", since=(7, 19)),
    Known("format-drive", until=(7, 19)),
    Known("format", since=(7, 19)),
    Known("test", since=(7, 16)),
    Known("blink", since=(7, 18)),
    Known("trim", since=(7, 22)),
    Known("smart-info", since=(7, 23)),
    Known("check", since=(7, 23)),
    Known("repair", since=(7, 23)),
    Known("raid-scrub-cancel", since=(7, 24)),
)

FILE_COMMANDS: tuple[Known, ...] = (
    Known("read", since=(7, 13)),
    Known("copy", since=(7, 23)),
    Known("head", since=(7, 23)),
    Known("tail", since=(7, 23)),
)

FILE_PRINT_ARGUMENTS: tuple[Known, ...] = (
    Known("path", since=(7, 18)),
    Known("recursive", _FLAG, since=(7, 18)),
    Known("relative", _FLAG, since=(7, 18)),
    Known("show-hidden", _FLAG, since=(7, 19)),
)

PRINT_ARGUMENTS: tuple[Known, ...] = (
    *(Known(name, _FLAG) for name in ("append", "as-value", "brief", "comments", "count-only", "detail", "follow")),
    *(Known(name, _FLAG) for name in ("follow-only", "oid", "show-ids", "show-sensitive", "stats", "stats-detail")),
    *(Known(name, _FLAG) for name in ("terse", "value-list", "without-paging")),
    Known("file"),
    Known("from", ArgumentKind.ITEMS),
    Known("group-by"),
    Known("interval"),
    Known("proplist", ArgumentKind.LIST),
    Known("on-event", since=(7, 22)),
    Known("timestamp", _FLAG, since=(7, 22)),
    Known("order-by", since=(7, 24)),
    Known("where", ArgumentKind.CONDITION),
)

SERVICE_ARGUMENTS: tuple[Known, ...] = (
    Known("address", ArgumentKind.LIST, until=(7, 24)),
    Known("available-from", ArgumentKind.LIST, since=(7, 24)),
    Known("certificate"),
    Known("disabled", _BOOLEAN),
    Known("max-sessions", _NUMBER, since=(7, 16)),
    Known("port", _NUMBER),
    Known("tls-version", _CHOICE),
    Known("vrf"),
)
