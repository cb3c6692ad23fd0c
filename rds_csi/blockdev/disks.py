"""Whole disks with their partitions: by which names and numbers they go."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rds_csi.blockdev.usage import list_names, read_text
from rds_csi.model.devices import DeviceNumber

# block/partitions/core.c: the partitions of a disk whose name ends with a digit.
_PARTITION = re.compile(r"(?P<disk>\D.*\d)p\d+")
# d_path() marks a file that was unlinked, and a device's node goes with it.
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk: its name in sysfs and its number."""

    name: str
    number: DeviceNumber


@dataclass(frozen=True, slots=True)
class Names:
    """``parts`` has, by disk, the names of its partitions. Of all disks and partitions, ``by_name`` and ``by_number``
    ("259:3") lead to the disk's name."""

    parts: Mapping[str, tuple[str, ...]]
    by_name: Mapping[str, str]
    by_number: Mapping[str, str]


def read_names(sys: str, disks: Iterable[Disk]) -> Names:
    """Blocking."""
    parts: dict[str, tuple[str, ...]] = {}
    by_name: dict[str, str] = {}
    by_number: dict[str, str] = {}
    for disk in disks:
        by_number[str(disk.number)] = by_name[disk.name] = disk.name
        directory = f"{sys}/block/{disk.name}"
        # A disk's directory has forty entries and more: those with names of its partitions are partitions.
        prefix = f"{disk.name}p"
        found = [name for name in list_names(directory) if name.startswith(prefix) and disk_of(name) == disk.name]
        parts[disk.name] = tuple(sorted(found))
        for part in found:
            by_name[part] = disk.name
            number = read_text(f"{directory}/{part}/dev").strip()
            if number:
                by_number[number] = disk.name
    return Names(parts, by_name, by_number)


def disk_of(name: str) -> str:
    """The disk of a partition's name; any other name is a disk's own."""
    match = _PARTITION.fullmatch(name)
    return match["disk"] if match else name


def node_name(path: str) -> str:
    """The name of a device's node; "" for what is no path (the source of a tmpfs, of NFS…)."""
    return os.path.basename(path.removesuffix(_DELETED)) if path.startswith("/") else ""
