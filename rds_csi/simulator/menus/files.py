"""/file: what lies on the flash and on mounted pools, directories included."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rds_csi.simulator.device_options import DeviceOptions
from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Item, RouterosError, Value
from rds_csi.simulator.menus.base import BaseMenu, editing, number
from rds_csi.simulator.pools import Entry, EntryKind
from rds_csi.simulator.storage import Storage
from rds_csi.simulator.tree import existing
from rds_csi.simulator.versions import FILE_COMMANDS, FILE_PRINT_ARGUMENTS, Version, kinds
from rds_csi.tasks import finish

_TEXT, _ITEMS, _NUMBER = ArgumentKind.TEXT, ArgumentKind.ITEMS, ArgumentKind.NUMBER
# Bytes that one /file read gives at most.
_MAX_CHUNK = 32768


def shown_time(moment: datetime, version: Version) -> str:
    """``2025-11-11 14:32:41``; up to 7.16 ``nov/11/2025 14:32:41``."""
    if version.at_least(7, 17):
        return moment.strftime("%Y-%m-%d %H:%M:%S")
    return moment.strftime("%b/%d/%Y %H:%M:%S").lower()


class FileMenu(BaseMenu):
    """Ids have two stars (``**2B``), as REST shows them; names have no leading slash."""

    path = "/file"

    def __init__(self, options: DeviceOptions, version: Version, storage: Storage) -> None:
        commands = editing({"name": _TEXT, "contents": _TEXT})
        commands["add"] = {"name": _TEXT, "contents": _TEXT, "type": ArgumentKind.CHOICE}
        for name in kinds(FILE_COMMANDS, version):
            commands[name] = {"numbers": _ITEMS}
        if "copy" in commands:
            commands["copy"] = {"numbers": _ITEMS, "name": _TEXT}
        if "read" in commands:
            commands["read"] = {"file": _TEXT, "chunk-size": _NUMBER, "offset": _NUMBER}
        super().__init__(version, commands)
        self._commands["print"] = {**self._commands["print"], **kinds(FILE_PRINT_ARGUMENTS, version)}
        self._time = "last-modified" if version.at_least(7, 17) else "creation-time"
        self.columns = ("name", "type", "size", self._time)
        self._options = options
        self._storage = storage

    # Looking.

    @property
    def properties(self) -> frozenset[str]:
        return frozenset({"name", "type", "size", "contents", self._time})

    def choices(self, command: str, argument: str) -> tuple[str, ...]:
        return ("file", "directory") if (command, argument) == ("add", "type") else ()

    def required(self, command: str) -> tuple[str, ...]:
        return {"add": ("name",), "copy": ("name",), "read": ("file",)}.get(command, ())

    def items(self) -> Sequence[Item]:
        return [self._item(entry) for entry in self._storage.entries()]

    def select(self, arguments: Mapping[str, str]) -> Sequence[Item]:
        """With ``path``: what is in that directory, and with ``recursive`` what is below it.

        Without ``path`` everything is listed, or, where nested files are not, the top of every filesystem.
        """
        path = arguments.get("path", "").strip("/")
        if path:
            top = existing(self._storage.find(path))
            inside = top.below()[1:] if "recursive" in arguments else list(top.children.values())
            return [self._item(entry) for entry in inside]
        if self._options.nested_files_listed or "recursive" in arguments:
            return self.items()
        return [self._item(entry) for entry in self._storage.entries() if "/" not in entry.path]

    def item(self, item_id: str) -> Item | None:
        entry = self._entry(item_id)
        return None if entry is None else self._item(entry)

    def lookup(self, property: str, value: str) -> Sequence[Item] | None:
        if property != "name":
            return None
        entry = self._storage.find(value)
        return () if entry is None else (self._item(entry),)

    # Changing.

    async def add(self, values: Mapping[str, str]) -> str:
        return await finish(self._add(values))

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        async with self._storage.changing():
            entry = existing(self._entry(item_id))
            if "contents" in values:
                self._require_file(entry)
                self._storage.write(entry, values["contents"])
            if "name" in values:
                self._storage.rename(entry, values["name"])

    async def remove(self, item_id: str) -> None:
        async with self._storage.changing():
            self._storage.remove(existing(self._entry(item_id)))

    async def run(self, command: str, item_ids: Sequence[str], values: Mapping[str, str]) -> object:
        """copy runs as long as the size takes; read gives ``data`` and ``size`` of one chunk."""
        if command == "copy":
            if not values.get("name"):
                raise RouterosError("missing value(s) of argument(s) name")
            for item_id in item_ids:
                await self._storage.copy(existing(self._entry(item_id)), values["name"])
            return None
        if command == "read":
            return self._read(values)
        return await super().run(command, item_ids, values)

    async def _add(self, values: Mapping[str, str]) -> str:
        async with self._storage.changing():
            kind = values.get("type", "file")
            if kind not in self.choices("add", "type"):
                raise RouterosError("input does not match any value of type")
            if not values.get("name"):
                raise RouterosError("missing value(s) of argument(s) name")
            if kind == "directory":
                entry = self._storage.make_directory(values["name"], parents=self._options.parent_directories_made)
            else:
                entry = self._storage.make_file(values["name"], contents=values.get("contents", ""))
            return _id(entry)

    def _read(self, values: Mapping[str, str]) -> dict[str, Value]:
        entry = self._storage.find(values.get("file", "").strip("/"))
        if entry is None:
            raise RouterosError(NO_SUCH_ITEM)
        self._require_file(entry)
        offset = number("offset", values.get("offset", "0"))
        length = number("chunk-size", values.get("chunk-size", str(_MAX_CHUNK)))
        if length > _MAX_CHUNK or offset > entry.size:
            raise RouterosError("failure: chunk out of file bounds")
        data = self._storage.read(entry, offset, length)
        return {"data": data.decode("utf-8", errors="replace"), "size": len(data)}

    @staticmethod
    def _require_file(entry: Entry) -> None:
        if entry.kind is not EntryKind.FILE:
            raise RouterosError("failure: not a file")

    def _entry(self, item_id: str) -> Entry | None:
        digits = item_id.lstrip("*")
        try:
            return self._storage.numbered(int(digits, 16))
        except ValueError:
            return None

    def _item(self, entry: Entry) -> Item:
        if entry.shown is None:
            values: dict[str, Value] = {"name": entry.path, "type": _type(entry)}
            if entry.kind is EntryKind.FILE:
                values["size"] = entry.size
            values[self._time] = shown_time(entry.modified, self._version)
            if entry.contents is not None:
                values["contents"] = entry.contents
            entry.shown = Item(_id(entry), values)
        return entry.shown


def _id(entry: Entry) -> str:
    return f"**{entry.number:X}"


def _type(entry: Entry) -> str:
    if entry.kind is EntryKind.FILE:
        suffix = entry.name.rpartition(".")[2] if "." in entry.name else ""
        return f".{suffix} file" if suffix else "file"
    return "disk" if entry.kind is EntryKind.MOUNT else "directory"
