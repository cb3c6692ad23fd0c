"""What a simulated device is made with: version, pools, users, and how it behaves where nobody has proof."""

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from rds_csi.model.sizes import GIB, MIB

_TIB = 1024 * GIB
# A pool is a directory, too: no name that leads elsewhere.
_SLOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_DRIVE = re.compile(r"nvme[0-9]+")
ALL_POLICIES = (
    *("local", "telnet", "ssh", "ftp", "reboot", "read", "write", "policy", "test", "winbox", "password", "web"),
    *("sniff", "sensitive", "api", "romon", "rest-api"),
)


class ExistingFile(Enum):
    """What ``/disk add type=file`` does where the file is already there and ``file-size`` is given."""

    ATTACH = "attach"
    """Attaches it and keeps its contents; a larger file-size grows it, a smaller one leaves it as it is."""
    ATTACH_AS_IS = "attach-as-is"
    """Attaches it, keeps its contents and its size, whatever file-size says."""
    REFUSE = "refuse"


class Growth(Enum):
    """What ``/disk set file-size`` with a larger size does."""

    GROWS = "grows"
    REFUSED = "refused"
    IGNORED = "ignored"
    """No error, and the size stays."""


class LongSlot(Enum):
    """What becomes of a slot beyond the limit of the version."""

    REFUSED = "refused"
    CUT = "cut"
    """Silently cut to the limit."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """A pool: a raid disk with a filesystem. ``size`` is that of the raid in bytes.

    ``overhead`` are the bytes that the filesystem keeps for itself; None: 0.711 % of the size, as measured on
    an XFS pool of 16 TB.
    """

    slot: str = "raid10"
    size: int = 4 * _TIB
    filesystem: str = "xfs"
    label: str = ""
    raid_type: str = "0"
    members: int = 4
    overhead: int | None = None

    def __post_init__(self) -> None:
        if not _SLOT.fullmatch(self.slot):
            raise ValueError(f"{self.slot!r} is no name for a pool: letters, digits, '.', '_' and '-', 32 at most")
        if _DRIVE.fullmatch(self.slot):
            raise ValueError(f"a pool cannot be called {self.slot}: the drives below the pools are")
        if self.filesystem not in {"xfs", "btrfs", "ext4"}:
            raise ValueError(f"a pool has xfs, btrfs or ext4, not {self.filesystem!r}")
        if not 0 <= self.reserved < self.size:
            raise ValueError(f"a pool of {self.size} bytes cannot keep {self.reserved} bytes for itself")

    @property
    def reserved(self) -> int:
        """The bytes that files can never have."""
        if self.overhead is not None:
            return self.overhead
        return self.size * 711 // 100_000 // 4096 * 4096

    @property
    def filesystem_label(self) -> str:
        return self.label or f"{self.slot}-fs"


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """A group of users and what its members may do."""

    name: str
    policies: frozenset[str]


@dataclass(frozen=True, slots=True)
class UserOptions:
    """A user; ``keys`` are public keys in OpenSSH's one-line form."""

    name: str
    group: str = "full"
    password: str = field(default="", repr=False)
    keys: tuple[str, ...] = ()


BUILTIN_GROUPS = (
    GroupOptions("read", frozenset(ALL_POLICIES) - {"ftp", "write", "policy"}),
    GroupOptions("write", frozenset(ALL_POLICIES) - {"ftp", "policy"}),
    GroupOptions("full", frozenset(ALL_POLICIES)),
)


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """A device. Files of its pools are real, sparse files below ``directory``, which is empty at the start.

    Everything from ``existing_file`` on is a labelled guess: no capture of a device proves the default, and the
    driver must work with every choice (texts included: it has to look, not to match them).
    """

    directory: Path
    version: str = "7.21"
    identity: str = "rds"
    board: str = "RDS2216"
    architecture: str = "arm64"
    packages: tuple[str, ...] = ("routeros", "rose-storage")
    pools: tuple[PoolOptions, ...] = (PoolOptions(),)
    system_size: int = 128 * MIB
    """Bytes of the flash that holds files outside pools."""
    groups: tuple[GroupOptions, ...] = ()
    """Besides read, write and full."""
    users: tuple[UserOptions, ...] = (UserOptions("admin"),)
    seed_tenants: bool = True
    """Whether disks, files and subvolumes of others are there from the start."""
    tenants_suffix: str = ""
    """What the NQNs of those disks end with."""

    existing_file: ExistingFile = ExistingFile.ATTACH
    growth: Growth = Growth.GROWS
    shrink_refused: bool = True
    """Whether a smaller file-size is refused; else nothing happens. It never cuts data off."""
    long_slot: LongSlot = LongSlot.REFUSED
    slot_limit: int | None = None
    """Characters; None: 32 before 7.17 and from 7.24 on, no limit between (a slot of 40 was seen on 7.2x)."""
    duplicate_nqn_refused: bool = True
    same_file_twice: bool = False
    """Whether two file disks may lie on one file."""
    missing_directory_made: bool = False
    """Whether ``/disk add`` makes the directory of file-path."""
    parent_directories_made: bool = False
    """Whether ``/file add type=directory`` makes the directories above."""
    remove_while_exported: bool = True
    """Whether ``/disk remove`` takes an exported disk away; else it is refused."""
    file_in_use_removable: bool = False
    """Whether ``/file remove`` (or removal of the subvolume) takes the file of a disk away."""
    export_settings_hidden: bool = True
    """Whether port, NQN and allowed hosts are not shown while nvme-tcp-export=no (captures of pools show none)."""
    nested_files_listed: bool = True
    """Whether ``/file print`` without ``path`` lists what is in directories."""
    copy_rate: int = 0
    """Bytes a second of /file copy; 0: as fast as this machine can."""
    no_space_text: str = "failure: not enough space"
    duplicate_text: str = "failure: already have such entry"
    long_slot_text: str = "failure: slot name is too long"
    shrink_text: str = "failure: can not shrink file"
    growth_text: str = "failure: can not change size"
    in_use_text: str = "failure: file is in use"
    exported_text: str = "failure: disk is in use"
    no_directory_text: str = "failure: no such directory"
    read_only_text: str = "failure: read-only file system"

    def __post_init__(self) -> None:
        check_pools(self.pools)


def check_pools(pools: tuple[PoolOptions, ...]) -> None:
    """ValueError when two pools have one name."""
    for slot, count in Counter(pool.slot for pool in pools).items():
        if count > 1:
            raise ValueError(f"{count} pools are called {slot}")


@dataclass(slots=True)
class Switches:
    """Faults that a device can have at the moment; they mean the pools of ``only``, or all when it is empty."""

    no_space: bool = False
    """Files cannot be made or grown, whatever ``free`` says."""
    read_only_pool: bool = False
    degraded_raid: str = ""
    """The ``state`` of the raid while it is not clean, e.g. ``clean, degraded``; "" for well."""
    pool_unmounted: bool = False
    only: frozenset[str] = frozenset()

    def concern(self, slot: str) -> bool:
        """Whether the switches mean the pool ``slot``."""
        return not self.only or slot in self.only
