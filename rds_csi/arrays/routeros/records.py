"""What RouterOS tells about itself, as frozen objects; ``replies`` makes them of what came over the wire."""

from dataclasses import dataclass

from rds_csi.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Disk:
    """One item of ``/disk``: a pool, a piece of hardware, or a ``type=file`` disk.

    ``size`` and ``free`` are bytes (0 and None: not told). Paths are normalised (``normal_path``), "" for none.
    ``exported`` is ``nvme-tcp-export``; ``port`` and ``nqn`` are told of disks that are not exported, too.
    """

    id: str
    slot: str = ""
    type: str = ""
    comment: str = ""
    size: int = 0
    file_path: str = ""
    exported: bool = False
    nqn: str = ""
    port: int = 0
    allow_hosts: tuple[str, ...] = ()
    fs: str = ""
    fs_label: str = ""
    state: str = ""
    mounted: bool = False
    mount_point: str = ""
    free: int | None = None
    disabled: bool = False
    parent: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """One item of ``/file``; ``name`` is normalised, ``size`` in bytes (0 for directories and where it is not told).

    ``id`` and ``type`` are "" for a file that is known only from a reply about its disk (REST).
    """

    id: str
    name: str
    type: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Subvolume:
    """One item of ``/disk/btrfs/subvolume``; ``name`` is its normalised path within ``filesystem`` (a label)."""

    id: str
    filesystem: str
    name: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One item of ``/system/script/job``."""

    id: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A RouterOS version: ``numbers`` compares, ``text`` is what the device says (``7.21.2 (stable)``).

    A beta or release candidate compares like the release it leads to.
    """

    numbers: tuple[int, int, int]
    text: str

    def __str__(self) -> str:
        return self.text

    def is_at_least(self, *numbers: int) -> bool:
        """Whether it is ``numbers`` (``7, 21``) or newer."""
        return self.numbers >= numbers


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is looked at once at first contact.

    ``packages`` are the enabled ones. ``policies`` of the driver's own user is empty when they cannot be read,
    which is no proof that one is missing.
    """

    version: Version
    board: str
    architecture: str
    packages: frozenset[str]
    user: str
    policies: frozenset[str]


class OldDevice(FailedPrecondition):
    """The device's RouterOS is too old for what was asked; the text names its version."""
