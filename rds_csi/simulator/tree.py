"""The tree of the device's files: names as RouterOS has them, where each one is, and what forbids a change."""

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from rds_csi.simulator.device_options import DeviceOptions, Switches
from rds_csi.simulator.menu import NO_SUCH_ITEM, RouterosError
from rds_csi.simulator.pools import Entry, EntryKind, Filesystem

_BAD_PATH = "failure: bad file name"
_NAME = re.compile(r"[^/\x00]+")
# Bytes of one part of a path, on the device's filesystems and on the one below the simulator.
_NAME_BYTES = 255
_FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})


def normalise(path: str) -> str:
    """``/raid10/x.img`` and ``raid10/x.img`` are one file; RouterosError for what is no path."""
    parts = path.strip("/").split("/")
    if any(part in {".", ".."} or not _NAME.fullmatch(part) or _is_too_long(part) for part in parts):
        raise RouterosError(_BAD_PATH)
    return "/".join(parts)


def _is_too_long(part: str) -> bool:
    try:
        return len(part.encode()) > _NAME_BYTES
    except UnicodeEncodeError:
        # Half of a surrogate pair: no filesystem takes it.
        return True


class Tree:
    """Every filesystem of the device, and the entries on them by path and by number."""

    def __init__(self, options: DeviceOptions, switches: Switches, *, now: Callable[[], datetime]) -> None:
        self._options = options
        self._now = now
        self._numbers = count(1)
        self._entries: dict[str, Entry] = {}
        self._ids: dict[int, Entry] = {}
        self._root = self._top("", options.directory / "system", options.system_size, switches, None)
        self.pools: dict[str, Filesystem] = {}
        for pool in options.pools:
            top = self._top(pool.slot, options.directory / "pools" / pool.slot, pool.size - pool.reserved, switches, 0)
            top.filesystem.options = pool
            self.pools[pool.slot] = top.filesystem

    def _top(self, mount_point: str, root: Path, capacity: int, switches: Switches, inodes: int | None) -> Entry:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise ValueError(f"the directory of a simulated device must be empty: {root}")
        filesystem = Filesystem(mount_point=mount_point, root=root, capacity=capacity, switches=switches)
        entry = Entry(next(self._numbers), mount_point, EntryKind.MOUNT, filesystem, self._now())
        if inodes is not None:
            self._entries[mount_point] = entry
            self._ids[entry.number] = entry
        return entry

    # Looking.

    def find(self, path: str) -> Entry | None:
        """The entry of a normalised path, when its filesystem is mounted."""
        entry = self._entries.get(path)
        return entry if entry is not None and entry.filesystem.mounted else None

    def numbered(self, number: int) -> Entry | None:
        """The entry that has this number."""
        entry = self._ids.get(number)
        return entry if entry is not None and entry.filesystem.mounted else None

    def entries(self) -> Iterator[Entry]:
        """Everything on mounted filesystems, in the order in which it was made."""
        return (entry for entry in self._entries.values() if entry.filesystem.mounted)

    def mounted_state(self) -> tuple[bool, ...]:
        """Changes when a pool comes or goes: what was derived from ``find`` is stale then."""
        return tuple(pool.mounted for pool in self.pools.values())

    # What changes are made of.

    def _new_place(self, path: str) -> Entry:
        """The directory that a new ``path`` will be in; it can be written to."""
        above = path.rpartition("/")[0]
        parent = self.find(above) if above else self._root
        if parent is None or parent.kind is EntryKind.FILE:
            raise RouterosError(self._options.no_directory_text)
        if not above and path in self.pools:
            # The mount point of a pool that is away.
            raise RouterosError(self._options.no_directory_text)
        self._require_writable(parent)
        return parent

    def _new(self, path: str, kind: EntryKind) -> Entry:
        parent = self._new_place(path)
        return Entry(next(self._numbers), path, kind, parent.filesystem, self._now(), parent)

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.path] = entry
        self._ids[entry.number] = entry
        entry.filesystem.inodes += 1
        if entry.parent is not None:
            entry.parent.children[entry.name] = entry

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.path]
        del self._ids[entry.number]
        entry.filesystem.inodes -= 1
        if entry.parent is not None:
            del entry.parent.children[entry.name]

    def _release(self, entry: Entry) -> None:
        for allocation in entry.allocations:
            entry.filesystem.release(allocation)
        entry.allocations.clear()

    def _touch(self, entry: Entry) -> None:
        entry.modified = self._now()
        entry.shown = None

    @contextlib.contextmanager
    def _on_host(self) -> Iterator[None]:
        """What the filesystem below the simulator refuses inside, the device refuses: RouterosError."""
        try:
            yield
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> RouterosError:
        if error.errno in _FULL:
            return RouterosError(self._options.no_space_text)
        if error.errno == errno.EROFS:
            return RouterosError(self._options.read_only_text)
        if error.errno == errno.ENAMETOOLONG:
            return RouterosError(_BAD_PATH)
        return RouterosError(f"failure: {(error.strerror or 'input/output error').lower()}")

    def require_writable_pool(self, filesystem: Filesystem) -> None:
        """RouterosError when the pool takes no changes."""
        if filesystem.read_only:
            raise RouterosError(self._options.read_only_text)

    def _require_space(self, filesystem: Filesystem, size: int) -> None:
        if not filesystem.admits(size):
            raise RouterosError(self._options.no_space_text)

    def _require_writable(self, entry: Entry) -> None:
        if entry.locked:
            raise RouterosError(self._options.read_only_text)

    def _require_unused(self, entry: Entry) -> None:
        if entry.users:
            raise RouterosError(self._options.in_use_text)


def existing(entry: Entry | None) -> Entry:
    """The entry, or RouterOS's word for none."""
    if entry is None:
        raise RouterosError(NO_SUCH_ITEM)
    return entry
