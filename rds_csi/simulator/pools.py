"""Filesystems of the device and what is on them: directories, files, subvolumes, and who paid for their space."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path

from rds_csi.model.sizes import round_up
from rds_csi.simulator.device_options import PoolOptions, Switches
from rds_csi.simulator.menu import Item

# What a filesystem gives space in.
_BLOCK = 4096


class EntryKind(Enum):
    """What an entry is; the values are for people."""

    FILE = "file"
    DIRECTORY = "directory"
    SUBVOLUME = "subvolume"
    MOUNT = "disk"
    """The top of a mounted pool, as ``/file`` lists it."""


@dataclass(slots=True, eq=False)
class Allocation:
    """Space that one or, after a snapshot, several files share; it is given back with the last of them."""

    size: int
    holders: int = 1


@dataclass(slots=True)
class Filesystem:
    """A pool's filesystem, or the flash of the system.

    ``root`` is the real directory; ``mount_point`` is where its names begin on the device, "" for the flash.
    """

    mount_point: str
    root: Path
    capacity: int
    switches: Switches
    options: PoolOptions | None = None
    used: int = 0
    inodes: int = 0

    @property
    def mounted(self) -> bool:
        return self.options is None or not (self.switches.pool_unmounted and self.switches.concern(self.options.slot))

    @property
    def read_only(self) -> bool:
        return self.options is not None and self.switches.read_only_pool and self.switches.concern(self.options.slot)

    @property
    def free(self) -> int:
        return self.capacity - self.used

    def admits(self, size: int) -> bool:
        """Whether ``size`` more bytes can be given."""
        if self.options is not None and self.switches.no_space and self.switches.concern(self.options.slot):
            return size == 0
        return round_up(size, _BLOCK) <= self.free

    def allocate(self, size: int) -> Allocation:
        """Take ``size`` bytes, in whole blocks; ``admits`` was asked before."""
        size = round_up(size, _BLOCK)
        self.used += size
        return Allocation(size)

    def release(self, allocation: Allocation) -> None:
        """One holder fewer; the last one gives the space back."""
        allocation.holders -= 1
        if not allocation.holders:
            self.used -= allocation.size


@dataclass(slots=True, eq=False)
class Entry:
    """A file, directory or subvolume. ``path`` is as ``/file`` shows it: no leading slash."""

    number: int
    path: str
    kind: EntryKind
    filesystem: Filesystem
    modified: datetime
    parent: "Entry | None" = None
    children: dict[str, "Entry"] = field(default_factory=dict)
    size: int = 0
    contents: str | None = None
    """The text of a small file that was made with ``contents``."""
    allocations: list[Allocation] = field(default_factory=list)
    users: int = 0
    """Disks that lie on the file."""
    read_only: bool = False
    """Of a subvolume: nothing in it can be changed."""
    shown: Item | None = None
    """What the menu has made of it, until it changes."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def real_path(self) -> Path:
        """Where the bytes are on the machine of the simulator."""
        inside = self.path.removeprefix(self.filesystem.mount_point).strip("/")
        return self.filesystem.root / inside

    @property
    def locked(self) -> bool:
        """Whether the entry is in (or is) a read-only subvolume or on a read-only filesystem."""
        return self.filesystem.read_only or any(above.read_only for above in self.lineage())

    def lineage(self) -> list["Entry"]:
        """The entry and everything above it, upwards."""
        found = [self]
        while (above := found[-1].parent) is not None:
            found.append(above)
        return found

    def below(self) -> list["Entry"]:
        """The entry and everything in it, each directory before what is in it."""
        found = [self]
        for entry in found:
            found.extend(entry.children.values())
        return found
