"""Whole disks with their partitions: by which names and numbers they go."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
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
    """Blocking: looks into the directory of each disk, which has forty entries and more."""
    parts: dict[str, list[str]] = {}
    for disk in disks:
        prefix = f"{disk.name}p"
        entries = (name for name in list_names(f"{sys}/block/{disk.name}") if name.startswith(prefix))
        parts[disk.name] = [name for name in entries if disk_of(name) == disk.name]
    return _names(f"{sys}/block", disks, parts)


def read_names_at_once(sys: str, disks: Iterable[Disk]) -> Names:
    """Blocking: the same for hundreds of disks, by one listing of all block devices."""
    disks = tuple(disks)
    listed = list_names(f"{sys}/class/block")
    if not listed:
        return read_names(sys, disks)
    parts: dict[str, list[str]] = {disk.name: [] for disk in disks}
    for name in listed:
        disk = disk_of(name)
        if disk != name and disk in parts:
            parts[disk].append(name)
    return _names(f"{sys}/block", disks, parts)


def _names(directory: str, disks: Iterable[Disk], parts: Mapping[str, Sequence[str]]) -> Names:
    by_name: dict[str, str] = {}
    by_number: dict[str, str] = {}
    for disk in disks:
        by_number[str(disk.number)] = by_name[disk.name] = disk.name
        for part in parts[disk.name]:
            by_name[part] = disk.name
            number = read_text(f"{directory}/{disk.name}/{part}/dev").strip()
            if number:
                by_number[number] = disk.name
    return Names({name: tuple(sorted(found)) for name, found in parts.items()}, by_name, by_number)


def disk_of(name: str) -> str:
    """The disk of a partition's name; any other name is a disk's own."""
    match = _PARTITION.fullmatch(name)
    return match["disk"] if match else name


def node_name(path: str) -> str:
    """The name of a device's node; "" for what is no path (the source of a tmpfs, of NFS…)."""
    return os.path.basename(path.removesuffix(_DELETED)) if path.startswith("/") else ""
