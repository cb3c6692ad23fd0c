"""What the node service asks of this machine's filesystems: real (``host``) or made up (``memory``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.records import StageRecord
from rds_csi.model.volumes import Finding


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    ``number`` is of the filesystem (st_dev); ``root`` is the directory of that filesystem which is seen at
    ``path``. btrfs has a made-up number: there ``source`` (a device path) tells the device.
    ``options`` are the mount's own (``ro`` here is this mount's), ``super_options`` the filesystem's.
    """

    mount_id: int
    number: DeviceNumber
    root: str
    path: str
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount."""
        return "ro" in self.options or "ro" in self.super_options


@dataclass(frozen=True, slots=True)
class MountTable:
    """All mounts of this mount namespace at one moment, in mountinfo's order."""

    mounts: tuple[Mount, ...]

    def at(self, path: str) -> tuple[Mount, ...]:
        """The mounts stacked exactly at ``path``, the visible one last."""
        return tuple(mount for mount in self.mounts if mount.path == path)

    def is_mounted_elsewhere(self, mount: Mount) -> bool:
        """Whether another mount of the same filesystem, at another path, is there too: ``mount`` is not its last."""
        return any(other.number == mount.number and other.path != mount.path for other in self.mounts)

    def below(self, path: str) -> tuple[Mount, ...]:
        """The mounts strictly below ``path``."""
        return tuple(mount for mount in self.mounts if mount.path.startswith(path.rstrip("/") + "/"))


@dataclass(frozen=True, slots=True)
class Content:
    """What a probe found on a device.

    ``fs_type`` is "" when no known filesystem was recognised; ``blank`` is True only when nothing at all was
    found by two independent looks (no signature by libblkid, head and tail all zero). Neither: the device
    holds something that is not ours to format, and ``detail`` says what.
    """

    fs_type: str
    uuid: str
    blank: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Usage:
    """statvfs(3) in bytes and inodes; for a block device only ``total_bytes`` is set."""

    total_bytes: int
    available_bytes: int = 0
    used_bytes: int = 0
    total_inodes: int = 0
    available_inodes: int = 0
    used_inodes: int = 0
    read_only: bool = False


class Filesystems(Protocol):
    """This machine's filesystems. What can stick in the kernel runs in a killable child or a bounded worker,
    under a deadline (DeadlineExceeded); a path whose last look has not come back is not looked at again."""

    async def mount_table(self) -> MountTable:
        """Every mount that there is now."""
        ...

    async def mounts_of(self, device: Device) -> Sequence[Mount]:
        """Every mount of the filesystem on ``device``, bind mounts included, btrfs too."""
        ...

    async def identify(self, device: Device) -> Content:
        """The everyday probe: the superblock read in process, no program started. ``blank`` is never True."""
        ...

    async def prove_blank(self, device: Device) -> Content:
        """The two looks of design rule 11 (blkid's signature probe and a zero read of head and tail).
        Any doubt (an I/O error, a short read, a changed size) raises Unavailable instead of answering."""
        ...

    async def format(self, device: Device, fs_type: str, uuid: str, options: Sequence[str]) -> None:
        """Make a filesystem with that UUID. Runs to its end even when the caller is cancelled. The caller has
        the proof; a device that something holds open is refused with Aborted."""
        ...

    async def mount(self, device: Device, path: str, fs_type: str, flags: Sequence[str]) -> None:
        """Mount ``device`` at ``path``, which is made when missing."""
        ...

    async def bind(self, source: str, path: str, *, read_only: bool, flags: Sequence[str]) -> None:
        """Bind-mount the directory ``source`` at ``path``, which is made when missing; read-only and ``flags``
        in force before anybody can see it, or not mounted at all."""
        ...

    async def unmount(self, path: str) -> None:
        """Undo every mount stacked at ``path``; none is fine. Busy is FailedPrecondition. Never lazy."""
        ...

    async def place_block_node(self, device: Device, path: str, *, read_only: bool) -> None:
        """A block special file for ``device`` at ``path`` (mknod(2)); the same one already there is fine,
        anything else is FailedPrecondition."""
        ...

    async def block_node_at(self, path: str) -> DeviceNumber | None:
        """The device of the block special file at ``path``; None when there is none."""
        ...

    async def remove_target(self, path: str) -> None:
        """Remove the unmounted directory, file or block node at ``path``: unlink or rmdir, never recursive;
        absent is fine. FailedPrecondition for a directory that is not empty or still mounted."""
        ...

    async def grow(self, device: Device, path: str, fs_type: str) -> None:
        """Grow the mounted filesystem to the size of its device; one that has it already is fine."""
        ...

    async def set_group(self, path: str, group: int) -> None:
        """Give the filesystem's root at ``path`` to ``group`` with setgid (VOLUME_MOUNT_GROUP)."""
        ...

    async def usage(self, path: str) -> Usage:
        """statvfs of ``path``, or the size of the block device there. NotFound when nothing is there."""
        ...

    async def check(self) -> Sequence[Finding]:
        """Look whether mkfs, mount and the like are there; every problem with its remedy. Never raises."""
        ...


class StageRecords(Protocol):
    """Where stage records are kept: on disk below the state directory, or in memory for tests."""

    async def load(self, volume_id: str) -> StageRecord | None:
        """The record, or None. A damaged one counts as none, and is logged."""
        ...

    async def store(self, record: StageRecord, *, durable: bool = True) -> None:
        """Write atomically. ``durable``: on return it survives a power cut, which costs two waits for the disk;
        what only describes the stage itself need not, because the stage does not survive one either."""
        ...

    async def remove(self, volume_id: str, *, durable: bool = False) -> None:
        """Forget; an absent one is fine. Without ``durable`` a power cut may bring it back, which says what was:
        true of all but a half-made filesystem, which somebody may have used since."""
        ...

    async def all(self) -> Sequence[StageRecord]:
        """Every readable record."""
        ...
