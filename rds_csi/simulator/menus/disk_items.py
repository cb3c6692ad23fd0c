"""The disks of the device: drives, pools and file disks, and how ``/disk`` shows each of them."""

import hashlib
import uuid
from dataclasses import dataclass, field

from rds_csi.simulator.device_options import DeviceOptions, PoolOptions
from rds_csi.simulator.exports import Export
from rds_csi.simulator.menu import Flag, Item, Value
from rds_csi.simulator.pools import Entry, Filesystem
from rds_csi.simulator.storage import Storage
from rds_csi.simulator.versions import Version

DEFAULT_PORT = 4420
# The NQN of a disk that was given none: known for iSCSI names, inferred for NVMe.
DEFAULT_NQN = "nqn.2000-02.com.mikrotik:"
# Names for the random-looking ids of a pool, so that they are the same in every run.
_NAMESPACE = uuid.UUID("6f1d3f0e-9d0a-4c8e-8f35-1f6b0d0c8a10")

FLAGS = (
    Flag("X", "disabled", "DISABLED", 0),
    Flag("E", "empty", "EMPTY", 0),
    Flag("B", "block-device", "BLOCK-DEVICE", 0),
    Flag("M", "mounted", "MOUNTED", 1),
    Flag("F", "formatting", "FORMATTING", 1),
    Flag("r", "raid-member", "RAID-MEMBER", 3),
    Flag("t", "nvme-tcp-export", "NVME-TCP-EXPORT", 7, shown=True),
    Flag("i", "iscsi-export", "ISCSI-EXPORT", 8, shown=True),
    Flag("s", "smb-sharing", "SMB-SHARING", 9, shown=True),
    Flag("n", "nfs-sharing", "NFS-SHARING", 10, shown=True),
    Flag("m", "media-sharing", "MEDIA-SHARING", 10, shown=True),
)

# What every disk has until it is told otherwise.
_SHARED: tuple[tuple[str, Value], ...] = (
    ("mount-filesystem", True),
    ("mount-read-only", False),
    ("compress", False),
    ("sector-size", 512),
)
_SHARING: tuple[tuple[str, Value], ...] = (
    ("iscsi-export", False),
    ("nfs-sharing", False),
    ("smb-sharing", False),
    ("media-sharing", False),
    ("media-interface", "none"),
    ("swap", False),
)
_LEVELS = {"0": "RAID0 striped", "6": "RAID6 2-parity-disks"}
# Inodes that XFS keeps for itself, and bytes of a pool for each that it can have (measured on one of 16 TB).
_OWN_INODES = 3
_BYTES_AN_INODE = 10240


@dataclass(slots=True, eq=False)
class Disk:
    """One item of ``/disk``; ``settings`` holds, typed, what was set by a user."""

    id: str
    slot: str
    type: str
    settings: dict[str, Value] = field(default_factory=dict)
    fixed: dict[str, Value] = field(default_factory=dict)
    """What a drive is: model, serial number, size, part in a raid."""
    filesystem: Filesystem | None = None
    """Of a pool."""
    file_path: str = ""
    entry: Entry | None = None
    """Of a file disk: its file."""
    file_size: int = 0
    slot_default: str = ""
    shown: Item | None = None
    """What the menu has made of a file disk, while ``shown_while`` is so."""
    shown_while: tuple[bool, ...] = ()

    def flag(self, name: str) -> bool:
        return self.settings.get(name, False) is True

    def text(self, name: str, default: str = "") -> str:
        value = self.settings.get(name, default)
        return value if isinstance(value, str) else default

    @property
    def nqn(self) -> str:
        """The NQN under which the disk is, or would be, exported by a release that lets users choose it."""
        return self.text("nvme-tcp-server-nqn") or DEFAULT_NQN + self.slot

    @property
    def port(self) -> int:
        value = self.settings.get("nvme-tcp-server-port", DEFAULT_PORT)
        return value if isinstance(value, int) else DEFAULT_PORT


def drive(item_id: str, number: int, pool: PoolOptions, role: int) -> Disk:
    """The ``number``th drive of the device, the member ``role`` of a pool's raid."""
    fixed: dict[str, Value] = {
        "fs": "-",
        "model": "NVMe SSD",
        "serial": f"S{number:011d}",
        "interface": "NVMe",
        "size": pool.size // pool.members,
        "raid-master": pool.slot,
        "raid-role": str(role),
        "raid-member-failed": False,
        "raid-member-state": f"{role}:in_sync",
    }
    return Disk(item_id, f"nvme{number}", "hardware", fixed=fixed, slot_default=f"nvme{number}")


class Views:
    """Makes items of disks, for one version."""

    def __init__(self, options: DeviceOptions, version: Version, storage: Storage, unknown: frozenset[str]) -> None:
        self._options = options
        self._version = version
        self._storage = storage
        self._unknown = unknown

    def present(self, disk: Disk) -> Entry | None:
        """The file of a disk, when it is there and its pool is mounted."""
        return disk.entry if disk.entry is not None and self._storage.find(disk.file_path) is disk.entry else None

    def item(self, disk: Disk) -> Item:
        """The disk as users see it; the item is kept for as long as nothing changes."""
        if disk.filesystem is not None:
            return Item(disk.id, self._clean(disk, self._pool(disk, disk.filesystem)))
        state = self._storage.mounted_state()
        if disk.shown is None or disk.shown_while != state:
            values = self._file(disk) if disk.type == "file" else self._drive(disk)
            disk.shown, disk.shown_while = Item(disk.id, self._clean(disk, values)), state
        return disk.shown

    def export(self, disk: Disk) -> Export | None:
        """How the disk is exported just now; None: it is not."""
        entry = self.present(disk)
        if entry is None or disk.flag("disabled") or not disk.flag("nvme-tcp-export"):
            return None
        return Export(
            disk_id=disk.id,
            slot=disk.slot,
            nqn=disk.nqn if self._version.at_least(7, 21) else disk.slot,
            port=disk.port,
            allowed_hosts=tuple(
                host for host in disk.text("nvme-tcp-server-allow-host-name").replace(";", ",").split(",") if host
            ),
            path=entry.real_path,
            size=entry.size,
        )

    def _clean(self, disk: Disk, values: dict[str, Value]) -> dict[str, Value]:
        """With the user's own settings in their places, without what this version does not know."""
        for name, value in disk.settings.items():
            if name in values:
                values[name] = value
        comment = disk.text("comment")
        start: dict[str, Value] = {"comment": comment} if comment else {}
        return start | {name: value for name, value in values.items() if name not in self._unknown}

    def _start(self, disk: Disk) -> dict[str, Value]:
        return {"type": disk.type, "slot": disk.slot, "slot-default": disk.slot_default, "parent": disk.text("parent")}

    def _exporting(self, disk: Disk) -> dict[str, Value]:
        values: dict[str, Value] = {"nvme-tcp-export": disk.flag("nvme-tcp-export")}
        if disk.flag("nvme-tcp-export") or not self._options.export_settings_hidden:
            values["nvme-tcp-server-port"] = disk.port
            values["nvme-tcp-server-nqn"] = disk.nqn
            values["nvme-tcp-server-allow-host-name"] = disk.text("nvme-tcp-server-allow-host-name")
            if password := disk.text("nvme-tcp-server-password"):
                values["nvme-tcp-server-password"] = password
        return values | dict(_SHARING)

    def _file(self, disk: Disk) -> dict[str, Value]:
        entry = self.present(disk)
        alive = entry is not None and not disk.flag("disabled")
        values = {**self._start(disk), "fs": "-", "model": f"/{disk.file_path}"}
        offset = disk.settings.get("file-offset", 0)
        offset = offset if isinstance(offset, int) else 0
        if entry is not None and alive:
            values["size"] = max(entry.size - offset, 0)
        values.update(_SHARED)
        values["raid-master"] = "none"
        values.update(self._exporting(disk))
        values.update({"file-path": f"/{disk.file_path}", "file-size": disk.file_size, "file-offset": offset})
        values.update({"disabled": False, "block-device": alive, "mounted": False})
        return values

    def _drive(self, disk: Disk) -> dict[str, Value]:
        values = {**self._start(disk), **disk.fixed, **dict(_SHARED), **self._exporting(disk)}
        return values | {"disabled": False, "block-device": True, "mounted": False, "raid-member": True}

    def _pool(self, disk: Disk, filesystem: Filesystem) -> dict[str, Value]:
        options = filesystem.options
        if options is None:
            return self._start(disk)
        switches = filesystem.switches
        values: dict[str, Value] = {
            **self._start(disk),
            "fs-label": options.filesystem_label,
            "fs-uuid": str(uuid.uuid5(_NAMESPACE, options.slot)),
            "fs": options.filesystem,
            "model": _LEVELS.get(options.raid_type, f"RAID{options.raid_type}"),
            "size": options.size,
        }
        if filesystem.mounted:
            values.update(_usage(filesystem, options.size))
            values["mount-point"] = filesystem.mount_point
        values.update(_SHARED)
        values |= {
            "mount-read-only": filesystem.read_only,
            "raid-type": options.raid_type,
            "raid-device-count": options.members,
            "raid-max-component-size": "none",
            "raid-chunk-size": "256K",
            "raid-master": "none",
            "state": switches.degraded_raid if switches.degraded_raid and switches.concern(options.slot) else "clean",
            "raid-uuid": _raid_uuid(options.slot),
        }
        values.update(self._exporting(disk))
        return values | {"disabled": False, "block-device": True, "mounted": filesystem.mounted}


def _usage(filesystem: Filesystem, size: int) -> dict[str, Value]:
    total = size // _BYTES_AN_INODE
    return {
        "free": filesystem.free,
        "total-inodes": total,
        "free-inodes": total - _OWN_INODES - filesystem.inodes,
        # Rounded up, as df does.
        "use": f"{-(-(size - filesystem.free) * 100 // size)}%",
    }


def _raid_uuid(slot: str) -> str:
    """Four groups of eight digits."""
    digits = hashlib.sha256(slot.encode()).hexdigest()
    return "-".join(digits[start : start + 8] for start in range(0, 32, 8))
