"""The disks in their order, found at once by id, slot, NQN and file however many there are."""

from collections.abc import Iterable, Iterator

from rds_csi.simulator.menus.disk_items import Disk


class Disks:
    """All disks; whoever changes a slot or an NQN takes the disk out of the indexes first."""

    def __init__(self) -> None:
        self._by_id: dict[str, Disk] = {}
        self._by_slot: dict[str, Disk] = {}
        self._by_nqn: dict[str, dict[str, Disk]] = {}
        self._by_path: dict[str, dict[str, Disk]] = {}

    def __iter__(self) -> Iterator[Disk]:
        return iter(self._by_id.values())

    def known(self, item_id: str) -> Disk | None:
        return self._by_id.get(item_id.upper())

    def in_slot(self, slot: str) -> Disk | None:
        return self._by_slot.get(slot)

    def with_nqn(self, nqn: str) -> Iterable[Disk]:
        return tuple(self._by_nqn.get(nqn, {}).values())

    def on_file(self, path: str) -> Iterable[Disk]:
        """The disks on a normalised path."""
        return tuple(self._by_path.get(path, {}).values())

    def add(self, disk: Disk) -> None:
        """At the end of the list."""
        self._by_id[disk.id] = disk
        self.index(disk)

    def remove(self, disk: Disk) -> None:
        del self._by_id[disk.id]
        self.unindex(disk)

    def index(self, disk: Disk) -> None:
        disk.shown = None
        self._by_slot[disk.slot] = disk
        if disk.type == "file":
            self._by_nqn.setdefault(disk.nqn, {})[disk.id] = disk
            self._by_path.setdefault(disk.file_path, {})[disk.id] = disk

    def unindex(self, disk: Disk) -> None:
        del self._by_slot[disk.slot]
        if disk.type == "file":
            for index, key in ((self._by_nqn, disk.nqn), (self._by_path, disk.file_path)):
                index[key].pop(disk.id)
                if not index[key]:
                    del index[key]
