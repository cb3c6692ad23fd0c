"""/disk: pools and drives that are there from the start, and file disks that come and go."""

from collections.abc import Mapping, Sequence
from functools import partial

from rds_csi.simulator.device_options import DeviceOptions, ExistingFile, Growth
from rds_csi.simulator.exports import Export, ExportListener, announce
from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Item, RouterosError, Value
from rds_csi.simulator.menus.base import BaseMenu, Ids, editing, size, typed
from rds_csi.simulator.menus.disk_index import Disks
from rds_csi.simulator.menus.disk_items import FLAGS, Disk, Views, drive
from rds_csi.simulator.menus.disk_names import Names
from rds_csi.simulator.pools import Entry, EntryKind
from rds_csi.simulator.storage import Storage
from rds_csi.simulator.tree import normalise
from rds_csi.simulator.versions import DISK_ARGUMENTS, DISK_COMMANDS, DISK_TYPES, Version, kinds
from rds_csi.tasks import finish

# The id of the first pool: those below are for drives, of which the device has at most 32.
_FIRST_POOL_ID = 0x21
# What cannot be changed once a disk is there.
_FIXED = ("type", "file-path", "copy-from")


class DiskMenu(BaseMenu):
    """File disks can be added; every other type is there from the start or not at all."""

    path = "/disk"
    flags = FLAGS
    sensitive = frozenset(
        {
            *("nvme-tcp-server-password", "nvme-tcp-password", "nvme-tcp-server-secret", "encryption-key"),
            *("self-encryption-password", "smb-password", "smb-server-password", "sshfs-password"),
        }
    )

    def __init__(self, options: DeviceOptions, version: Version, storage: Storage) -> None:
        self._kinds = kinds(DISK_ARGUMENTS, version)
        commands = editing(self._kinds)
        commands["set"] = {name: kind for name, kind in commands["set"].items() if name != "copy-from"}
        for name in kinds(DISK_COMMANDS, version):
            commands[name] = {"numbers": ArgumentKind.ITEMS}
        super().__init__(version, commands)
        newer = version.at_least(7, 17)
        self.columns = (
            ("slot", "mount-point", "model", "serial", "interface", "size", "free", "use", "fs")
            if newer
            else ("slot", "model", "serial", "interface", "size", "free", "fs")
        )
        self._options = options
        self._storage = storage
        unknown = {argument.name for argument in DISK_ARGUMENTS} - self._kinds.keys()
        self._views = Views(options, version, storage, frozenset(unknown))
        self._ids = Ids()
        self._disks = Disks()
        self._names = Names(options, version, self._disks)
        self.listeners: list[ExportListener] = []
        self._add_pools()

    def _add_pools(self) -> None:
        serial = 0
        for pool in self._options.pools:
            for role in range(pool.members):
                serial += 1
                self._disks.add(drive(self._ids.take(), serial, pool, role))
        self._ids = Ids(max(serial + 1, _FIRST_POOL_ID))
        for slot, filesystem in self._storage.pools.items():
            self._disks.add(Disk(self._ids.take(), slot, "raid", filesystem=filesystem))

    # Looking.

    @property
    def properties(self) -> frozenset[str]:
        shown = {name for disk in self._disks if disk.type != "file" for name in self._views.item(disk).values}
        return frozenset(self._kinds) | shown | {"empty", "formatting", "last-seen"} - {"copy-from"}

    def choices(self, command: str, argument: str) -> tuple[str, ...]:
        return tuple(kinds(DISK_TYPES, self._version)) if argument == "type" and command in {"add", "set"} else ()

    def required(self, command: str) -> tuple[str, ...]:
        return ("type",) if command == "add" else ()

    def items(self) -> Sequence[Item]:
        return [self._views.item(disk) for disk in self._disks]

    def item(self, item_id: str) -> Item | None:
        disk = self._disks.known(item_id)
        return None if disk is None else self._views.item(disk)

    def lookup(self, property: str, value: str) -> Sequence[Item] | None:
        if property == "slot":
            disk = self._disks.in_slot(value)
            return () if disk is None else (self._views.item(disk),)
        if property == "nvme-tcp-server-nqn":
            found = self._disks.with_nqn(value)
        elif property == "file-path":
            found = self._disks.on_file(value.removeprefix("/"))
        else:
            return None
        items = [self._views.item(disk) for disk in found]
        # What is not shown at the moment is not found either.
        return [item for item in items if item.values.get(property) == value]

    def name_of(self, item: Item) -> str:
        name = item.values.get("slot", "")
        return name if isinstance(name, str) else ""

    def exports(self) -> list[Export]:
        """Everything that is exported just now."""
        return [export for disk in self._disks if (export := self._views.export(disk)) is not None]

    # Changing.

    async def add(self, values: Mapping[str, str]) -> str:
        return await finish(self._add(values))

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        await finish(self._set(item_id, values))

    async def remove(self, item_id: str) -> None:
        await finish(self._remove(item_id))

    async def _add(self, values: Mapping[str, str]) -> str:
        async with self._storage.changing():
            disk, size_before = self._attach(values)
            undo = partial(self._unattach, disk, size_before)
            await announce(self.listeners, None, self._views.export(disk), undo=undo)
        return disk.id

    def _unattach(self, disk: Disk, size_before: int | None) -> None:
        """As if it had never been added; ``size_before`` is that of its file, None: there was none."""
        self._disks.remove(disk)
        entry = disk.entry
        if entry is None:
            return
        entry.users -= 1
        if size_before is None:
            self._storage.lose(entry)
        else:
            self._storage.shrink(entry, size_before)

    def attach(self, values: Mapping[str, str]) -> Disk:
        """``add`` at once, without telling who listens to exports: how the device is furnished at the start."""
        return self._attach(values)[0]

    def _attach(self, values: Mapping[str, str]) -> tuple[Disk, int | None]:
        """The new disk, and the size that its file had before; None: there was none."""
        values = self._with_copied(values)
        settings = self._typed(values)
        kind = self._type(values)
        if kind != "file":
            raise RouterosError(f"failure: adding a disk of type {kind} is not simulated")
        if not values.get("file-path"):
            raise RouterosError("missing value(s) of argument(s) file-path")
        path = normalise(values["file-path"])
        slot = self._names.new_slot(values.get("slot") or "file-" + path.replace("/", "-"))
        nqn = settings.get("nvme-tcp-server-nqn")
        self._names.require_new_nqn(str(nqn or ""), "")
        wanted = size("file-size", values["file-size"]) if "file-size" in values else None
        there = self._storage.find(path)
        size_before = None if there is None else there.size
        entry = self._file(path, wanted)
        disk = Disk(self._ids.take(), slot, kind, settings, file_path=path, entry=entry, file_size=entry.size)
        entry.users += 1
        self._disks.add(disk)
        return disk, size_before

    def _type(self, values: Mapping[str, str]) -> str:
        kind = values.get("type", "")
        if not kind:
            raise RouterosError("missing value(s) of argument(s) type")
        if kind not in self.choices("add", "type"):
            raise RouterosError("input does not match any value of type")
        return kind

    def _with_copied(self, values: Mapping[str, str]) -> Mapping[str, str]:
        """``copy-from`` copies properties of another item, never data."""
        source = values.get("copy-from")
        if not source:
            return values
        item = self.item(source) or next(iter(self.lookup("slot", source) or ()), None)
        if item is None:
            raise RouterosError("input does not match any value of copy-from")
        copied = {
            name: _as_text(value) for name, value in item.values.items() if name in self._kinds and name != "slot"
        }
        return {**copied, **{name: value for name, value in values.items() if name != "copy-from"}}

    def _file(self, path: str, wanted: int | None) -> Entry:
        """The file of a new disk: made in full size, or found."""
        entry = self._storage.find(path)
        if entry is None:
            if wanted is None:
                raise RouterosError("missing value(s) of argument(s) file-size")
            above = path.rpartition("/")[0]
            if self._options.missing_directory_made and above and self._storage.find(above) is None:
                self._storage.make_directory(above, parents=True)
            return self._storage.make_file(path, wanted)
        if entry.kind is not EntryKind.FILE:
            raise RouterosError(self._options.no_directory_text)
        if entry.locked:
            # Of a read-only snapshot, or on a pool that takes no changes: a disk over it could be written to.
            raise RouterosError(self._options.read_only_text)
        if entry.users and not self._options.same_file_twice:
            raise RouterosError(self._options.in_use_text)
        if wanted is not None:
            if self._options.existing_file is ExistingFile.REFUSE:
                raise RouterosError(self._options.duplicate_text)
            if self._options.existing_file is ExistingFile.ATTACH:
                self._storage.grow(entry, wanted)
        return entry

    async def _set(self, item_id: str, values: Mapping[str, str]) -> None:
        async with self._storage.changing():
            disk = self._known(item_id)
            settings = self._typed(values)
            for name in _FIXED:
                if name in values:
                    raise RouterosError(f"failure: can not change {name}")
            slot = values.get("slot", disk.slot)
            slot = disk.slot if slot == disk.slot else self._names.new_slot(slot)
            if nqn := str(settings.get("nvme-tcp-server-nqn") or ""):
                self._names.require_new_nqn(nqn, disk.id)
            before = self._views.export(disk)
            undo = partial(self._restore, disk, disk.slot, dict(disk.settings), disk.entry.size if disk.entry else None)
            if "file-size" in values:
                self._resize(disk, size("file-size", values["file-size"]))
            self._change(disk, slot, {**disk.settings, **settings})
            await announce(self.listeners, before, self._views.export(disk), undo=undo)

    def _change(self, disk: Disk, slot: str, settings: dict[str, Value]) -> None:
        self._disks.unindex(disk)
        disk.slot, disk.settings = slot, settings
        self._disks.index(disk)

    def _restore(self, disk: Disk, slot: str, settings: dict[str, Value], file_size: int | None) -> None:
        """As it was before a change."""
        self._change(disk, slot, settings)
        if disk.entry is not None and file_size is not None and disk.entry.size > file_size:
            self._storage.shrink(disk.entry, file_size)
            self._show_size(disk, file_size)

    def _resize(self, disk: Disk, wanted: int) -> None:
        entry = self._views.present(disk)
        if entry is None:
            raise RouterosError("failure: disk has no file")
        if wanted < entry.size:
            if self._options.shrink_refused:
                raise RouterosError(self._options.shrink_text)
            return
        if wanted == entry.size or self._options.growth is Growth.IGNORED:
            return
        if self._options.growth is Growth.REFUSED:
            raise RouterosError(self._options.growth_text)
        self._storage.grow(entry, wanted)
        self._show_size(disk, wanted)

    def _show_size(self, disk: Disk, wanted: int) -> None:
        for other in self._disks.on_file(disk.file_path):
            other.file_size, other.shown = wanted, None

    async def _remove(self, item_id: str) -> None:
        async with self._storage.changing():
            disk = self._known(item_id)
            export = self._views.export(disk)
            if disk.type != "file" or (export is not None and not self._options.remove_while_exported):
                raise RouterosError(self._options.exported_text)
            await announce(self.listeners, export, None)
            self._disks.remove(disk)
            if disk.entry is not None:
                disk.entry.users -= 1

    # What they share.

    def _known(self, item_id: str) -> Disk:
        disk = self._disks.known(item_id)
        if disk is None:
            raise RouterosError(NO_SUCH_ITEM)
        return disk

    def _typed(self, values: Mapping[str, str]) -> dict[str, Value]:
        """What becomes a setting of the disk, checked; the rest has a place of its own in it."""
        for name in values:
            if name not in self._kinds:
                raise RouterosError(f"unknown parameter {name}")
        own = {"slot", "file-path", "file-size", "type", "copy-from"}
        settings = {name: typed(name, value, self._kinds[name]) for name, value in values.items() if name not in own}
        if settings.get("compress") is True:
            raise RouterosError("compression only available for btrfs")
        port = settings.get("nvme-tcp-server-port", 1)
        if not isinstance(port, int) or not 1 <= port <= 0xFFFF:
            raise RouterosError("value of nvme-tcp-server-port out of range (1..65535)")
        return settings


def _as_text(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else str(value)
