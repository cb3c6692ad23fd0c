"""A look behind the simulated device: the file of a volume, what the array shows, and what there is in all."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rds_csi.simulator.device import Device
from rds_csi.simulator.menu import Item
from rds_csi.simulator.pools import EntryKind

_SHOWN = {"slot": "slot", "file-path": "file", "nvme-tcp-server-nqn": "NQN", "comment": "comment"}
# What a pool shows of its space: ``Belongings.free`` tells it better, and directories that stay take inodes.
_SPACE = frozenset({"free", "use", "free-inodes"})


def file_behind(device: Device, nqn: str) -> Path:
    """The real file of the disk that is exported as ``nqn``; LookupError when there is none."""
    entry = device.storage.find(str(_exported(device, nqn).values["file-path"]).lstrip("/"))
    if entry is None:
        raise LookupError(f"the disk of {nqn} has no file")
    return entry.real_path


def shown_disk(device: Device, nqn: str) -> dict[str, str]:
    """Slot, file, NQN and comment of that disk, as ``/disk/print`` has them."""
    values = _exported(device, nqn).values
    return {name: str(values.get(key, "")) for key, name in _SHOWN.items()}


def _exported(device: Device, nqn: str) -> Item:
    found = device.disks.lookup("nvme-tcp-server-nqn", nqn)
    if not found:
        raise LookupError(f"the array exports no disk as {nqn}")
    return found[0]


@dataclass(frozen=True, slots=True)
class Belongings:
    """Everything on the device: disks and their properties by slot, files and subvolumes with their sizes, the bytes
    that are free in the pool, and one hash over all bytes of the other tenants."""

    disks: dict[str, str]
    files: dict[str, int]
    free: int
    tenants: str

    @classmethod
    async def of(cls, device: Device, pool: str) -> "Belongings":
        """As it is now."""
        return cls(
            disks={device.disks.name_of(item) or item.id: _text(item) for item in device.disks.items()},
            files={
                entry.path: entry.size
                for entry in device.storage.entries()
                if entry.kind in (EntryKind.FILE, EntryKind.SUBVOLUME)
            },
            free=device.storage.pools[pool].free,
            tenants=await asyncio.to_thread(device.tenants.digest),
        )

    def differences(self, before: "Belongings") -> list[str]:
        """What is not as it was, in sentences."""
        told = [
            *_compared("disk", self.disks, before.disks),
            *_compared("file", self.files, before.files),
        ]
        if self.free != before.free:
            told.append(f"{before.free - self.free} bytes of the pool are not free any more")
        if self.tenants != before.tenants:
            told.append("bytes of other tenants were changed")
        return told


def _text(item: Item) -> str:
    return json.dumps({name: value for name, value in item.values.items() if name not in _SPACE})


def _compared(what: str, now: Mapping[str, object], before: Mapping[str, object]) -> list[str]:
    both = sorted(now.keys() & before.keys())
    found = {
        "left behind": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": [name for name in both if now[name] != before[name]],
    }
    return [f"{how}, which is a fault of the driver: {what} {name}" for how, names in found.items() for name in names]
