"""/disk/btrfs: the filesystems of btrfs pools, and their subvolumes and snapshots."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Flag, Item, RouterosError, Value
from rds_csi.simulator.menus.base import BaseMenu, Ids, boolean, editing
from rds_csi.simulator.pools import Entry, EntryKind, Filesystem
from rds_csi.simulator.storage import Storage
from rds_csi.simulator.tree import normalise
from rds_csi.simulator.versions import Version
from rds_csi.tasks import finish

# btrfs gives the first subvolume that a user makes this id (btrfs-subvolume(8)); the top level has 5.
_FIRST_SUBVOLUME = 256
_TOP_LEVEL = 5
_NO_ID = "00000000-0000-0000-0000-000000000000"
_NAMESPACE = uuid.UUID("b0a2c8f4-5a52-4a5d-8a3e-0e6a5b8f7c21")
_TEXT, _BOOLEAN = ArgumentKind.TEXT, ArgumentKind.BOOLEAN


def btrfs_pools(storage: Storage) -> dict[str, Filesystem]:
    """The mounted btrfs filesystems by label."""
    return {
        pool.options.filesystem_label: pool
        for pool in storage.pools.values()
        if pool.options is not None and pool.options.filesystem == "btrfs" and pool.mounted
    }


class BtrfsFilesystemMenu(BaseMenu):
    """/disk/btrfs/filesystem."""

    path = "/disk/btrfs/filesystem"
    columns = ("label", "uuid", "total-devs")

    def __init__(self, version: Version, storage: Storage) -> None:
        super().__init__(version, {})
        self._storage = storage

    def items(self) -> Sequence[Item]:
        return [
            Item(f"*{number:X}", self._values(label, pool))
            for number, (label, pool) in enumerate(btrfs_pools(self._storage).items(), 1)
        ]

    def name_of(self, item: Item) -> str:
        return str(item.values["label"])

    @staticmethod
    def _values(label: str, pool: Filesystem) -> dict[str, Value]:
        return {
            "label": label,
            "default-subvolume": "<FS_ROOT>",
            "uuid": str(uuid.uuid5(_NAMESPACE, label)),
            "total-devs": 1,
            "dev-ids": ("1",),
            "devs": (pool.mount_point,),
        }


@dataclass(slots=True, eq=False)
class _Subvolume:
    id: str
    number: int
    filesystem: Filesystem
    name: str
    entry: Entry
    uuid: str
    created: str
    generation: int
    source: "_Subvolume | None" = None
    snapshots: int = 0

    @property
    def label(self) -> str:
        return "" if self.filesystem.options is None else self.filesystem.options.filesystem_label


class SubvolumeMenu(BaseMenu):
    """/disk/btrfs/subvolume: an ``add`` with a parent is a snapshot of it."""

    path = "/disk/btrfs/subvolume"
    columns = ("fs", "name", "path", "subvolume-id")
    flags = (
        Flag("*", "default", "DEFAULT", 0),
        Flag("S", "snapshot", "SNAPSHOT", 1),
        Flag("r", "read-only", "READ-ONLY", 2),
        Flag("D", "dead", "DEAD", 3),
        Flag("M", "mounted", "MOUNTED", 3),
    )

    def __init__(self, version: Version, storage: Storage) -> None:
        settable = {"fs": _TEXT, "name": _TEXT, "parent": _TEXT, "read-only": _BOOLEAN, "mount": _BOOLEAN}
        settable["mountpoint"] = _TEXT
        super().__init__(version, editing(settable) if version.at_least(7, 18) else {})
        self._storage = storage
        self._ids = Ids(len(storage.pools) + 1)
        self._numbers = _FIRST_SUBVOLUME
        self._generation = 10
        self._subvolumes: dict[str, _Subvolume] = {}

    @property
    def properties(self) -> frozenset[str]:
        return frozenset(_top("", "")) | {"dead", "mount", "mountpoint", "parent"}

    def required(self, command: str) -> tuple[str, ...]:
        return ("fs", "name") if command == "add" else ()

    def items(self) -> Sequence[Item]:
        tops = [
            Item(f"*{number:X}", _top(label, pool.mount_point))
            for number, (label, pool) in enumerate(btrfs_pools(self._storage).items(), 1)
        ]
        return tops + [self._item(subvolume) for subvolume in self._subvolumes.values() if self._alive(subvolume)]

    def lookup(self, property: str, value: str) -> Sequence[Item] | None:
        if property != "name" or value == "<FS_ROOT>":
            return None
        return [self._item(each) for each in self._subvolumes.values() if each.name == value and self._alive(each)]

    async def add(self, values: Mapping[str, str]) -> str:
        return await finish(self._add(values))

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        async with self._storage.changing():
            subvolume = self._known(item_id)
            if set(values) - {"read-only"}:
                raise RouterosError("failure: only read-only can be changed")
            self._storage.require_writable_pool(subvolume.filesystem)
            if "read-only" in values:
                subvolume.entry.read_only = boolean("read-only", values["read-only"])

    async def remove(self, item_id: str) -> None:
        await finish(self._remove(item_id))

    async def _add(self, values: Mapping[str, str]) -> str:
        async with self._storage.changing():
            for name in self.required("add"):
                if not values.get(name):
                    raise RouterosError(f"missing value(s) of argument(s) {name}")
            pool = btrfs_pools(self._storage).get(values["fs"])
            if pool is None:
                raise RouterosError("input does not match any value of fs")
            name = normalise(values["name"])
            source = self._source(pool, values["parent"]) if values.get("parent") else None
            read_only = boolean("read-only", values.get("read-only", "no"))
            path = f"{pool.mount_point}/{name}"
            if source is None:
                entry = self._storage.make_directory(path, EntryKind.SUBVOLUME)
                entry.read_only = read_only
            else:
                entry = await self._storage.snapshot(source.entry, path, read_only=read_only)
                source.snapshots += 1
            return self._keep(pool, name, entry, source).id

    def make(self, label: str, name: str) -> None:
        """A subvolume, at once: how the device is furnished at the start."""
        pool = btrfs_pools(self._storage)[label]
        self._keep(pool, name, self._storage.make_directory(f"{pool.mount_point}/{name}", EntryKind.SUBVOLUME), None)

    async def _remove(self, item_id: str) -> None:
        async with self._storage.changing():
            subvolume = self._known(item_id)
            self._storage.remove(subvolume.entry, subvolumes=True)
            del self._subvolumes[subvolume.id]
            if subvolume.source is not None:
                subvolume.source.snapshots -= 1

    def _keep(self, pool: Filesystem, name: str, entry: Entry, source: "_Subvolume | None") -> _Subvolume:
        self._generation += 1
        subvolume = _Subvolume(
            id=self._ids.take(),
            number=self._numbers,
            filesystem=pool,
            name=name,
            entry=entry,
            uuid=str(uuid.uuid5(_NAMESPACE, f"{pool.mount_point}/{self._numbers}")),
            created=entry.modified.strftime("%Y-%m-%d %H:%M:%S"),
            generation=self._generation,
            source=source,
        )
        self._numbers += 1
        self._subvolumes[subvolume.id] = subvolume
        return subvolume

    def _source(self, pool: Filesystem, parent: str) -> _Subvolume:
        """The subvolume of that name (or id) on the same filesystem."""
        for subvolume in self._subvolumes.values():
            named = parent.strip("/") in {subvolume.name, f"{subvolume.label}/{subvolume.name}", subvolume.id}
            if named and subvolume.filesystem is pool and self._alive(subvolume):
                return subvolume
        raise RouterosError("input does not match any value of parent")

    def _alive(self, subvolume: _Subvolume) -> bool:
        return self._storage.find(subvolume.entry.path) is subvolume.entry

    def _known(self, item_id: str) -> _Subvolume:
        subvolume = self._subvolumes.get(item_id.upper())
        if subvolume is None or not self._alive(subvolume):
            if any(item.id == item_id.upper() for item in self.items()):
                raise RouterosError("failure: cannot remove builtin")
            raise RouterosError(NO_SUCH_ITEM)
        return subvolume

    def _item(self, subvolume: _Subvolume) -> Item:
        values: dict[str, Value] = {
            "fs": subvolume.label,
            "name": subvolume.name,
            "fullname": f"{subvolume.label}/{subvolume.name}",
            "path": subvolume.name,
            "top-level": _TOP_LEVEL,
            "uuid": subvolume.uuid,
            "received-uuid": _NO_ID,
            "creation-time": subvolume.created,
            "subvolume-id": subvolume.number,
            "generation": subvolume.generation,
            "snapshots": subvolume.snapshots,
            "default": False,
            "snapshot": subvolume.source is not None,
            "read-only": subvolume.entry.read_only,
            "mounted": False,
        }
        return Item(subvolume.id, values)


def _top(label: str, mount_point: str) -> dict[str, Value]:
    return {
        "fs": label,
        "name": "<FS_ROOT>",
        "fullname": f"{label}/<FS_ROOT>",
        "path": mount_point,
        "top-level": 0,
        "uuid": str(uuid.uuid5(_NAMESPACE, label)),
        "received-uuid": _NO_ID,
        "creation-time": "2025-01-01 00:00:00",
        "subvolume-id": _TOP_LEVEL,
        "generation": 10,
        "snapshots": 0,
        "default": True,
        "snapshot": False,
        "read-only": False,
        "mounted": True,
    }
