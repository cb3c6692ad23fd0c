"""The files of the device: bytes in real sparse files, space accounted for thickly."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from rds_csi.errors import DeadlineExceeded
from rds_csi.simulator.copying import clone_file, copy_range, remove_if_there
from rds_csi.simulator.device_options import DeviceOptions, Switches
from rds_csi.simulator.menu import RouterosError
from rds_csi.simulator.pools import Entry, EntryKind
from rds_csi.simulator.tree import Tree, normalise
from rds_csi.tasks import finish
from rds_csi.workers import Workers

# Bytes of text that /file takes as contents.
MAX_CONTENTS = 60 * 1024
# Seconds for one copy of real bytes: a stuck disk under the simulator must not hang it for ever.
_COPY_SECONDS = 600.0
# Seconds between two steps of a copy that runs at a rate.
_STEP_SECONDS = 0.25

Sleep = Callable[[float], Awaitable[None]]


class Storage(Tree):
    """What can be done with files and subvolumes.

    Methods raise RouterosError for what the device would refuse, and for what the filesystem below does.
    ``changing`` is around every command that changes something, so that none sees half of another; only a copy of a
    file runs beside others, and holds on to both ends.
    """

    def __init__(
        self, options: DeviceOptions, switches: Switches, *, now: Callable[[], datetime], sleep: Sleep, workers: Workers
    ) -> None:
        super().__init__(options, switches, now=now)
        self._sleep = sleep
        self._workers = workers
        self._lock = asyncio.Lock()
        self._boot = 0

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """One command at a time; RouterosError when the device has rebooted while it waited for its turn."""
        boot = self._boot
        async with self._lock:
            if boot != self._boot:
                raise RouterosError("interrupted")
            yield

    def reboot(self) -> None:
        """Nothing that waits for its turn just now is done any more."""
        self._boot += 1

    async def settled(self) -> None:
        """Wait until what has begun is done."""
        async with self._lock:
            return

    # Changing, at once.

    def make_directory(self, path: str, kind: EntryKind = EntryKind.DIRECTORY, *, parents: bool = False) -> Entry:
        """Make a directory; those above it are made too with ``parents``."""
        path = normalise(path)
        if self.find(path) is not None:
            raise RouterosError(self._options.duplicate_text)
        above = path.rpartition("/")[0]
        if parents and above and self.find(above) is None:
            self.make_directory(above, parents=True)
        entry = self._new(path, kind)
        with self._on_host():
            entry.real_path.mkdir()
        self._keep(entry)
        return entry

    def make_file(self, path: str, size: int = 0, *, contents: str | None = None) -> Entry:
        """Make a file of ``size`` zero bytes, or of the bytes of ``contents``; its space is taken at once."""
        path = normalise(path)
        if self.find(path) is not None:
            raise RouterosError(self._options.duplicate_text)
        data = b"" if contents is None else self._encoded(contents)
        entry = self._new(path, EntryKind.FILE)
        entry.size = max(size, len(data))
        self._require_space(entry.filesystem, entry.size)
        with self._on_host():
            _write_new(entry.real_path, data, entry.size)
        entry.contents = contents
        entry.allocations.append(entry.filesystem.allocate(entry.size))
        self._keep(entry)
        return entry

    def write(self, entry: Entry, contents: str) -> None:
        """Replace what a file holds by a text."""
        data = self._encoded(contents)
        self._require_writable(entry)
        self._require_unused(entry)
        self._require_space(entry.filesystem, max(len(data) - entry.size, 0))
        with self._on_host():
            entry.real_path.write_bytes(data)
        self._release(entry)
        entry.allocations.append(entry.filesystem.allocate(len(data)))
        entry.size, entry.contents = len(data), contents
        self._touch(entry)

    def read(self, entry: Entry, offset: int, length: int) -> bytes:
        """At most ``length`` bytes of a file."""
        with self._on_host(), entry.real_path.open("rb") as real:
            real.seek(offset)
            return real.read(length)

    def grow(self, entry: Entry, size: int) -> None:
        """Make a file larger; the new bytes are zeros. One that is as large already stays as it is."""
        more = size - entry.size
        if more <= 0:
            return
        self._require_writable(entry)
        self._require_space(entry.filesystem, more)
        with self._on_host():
            os.truncate(entry.real_path, size)
        entry.allocations.append(entry.filesystem.allocate(more))
        entry.size = size
        self._touch(entry)

    def shrink(self, entry: Entry, size: int) -> None:
        """Take the last growth back, which has begun at ``size``."""
        if entry.size <= size:
            return
        with self._on_host():
            os.truncate(entry.real_path, size)
        entry.filesystem.release(entry.allocations.pop())
        entry.size = size
        self._touch(entry)

    def rename(self, entry: Entry, path: str) -> None:
        """Give a file another name on the same filesystem."""
        path = normalise(path)
        if path == entry.path:
            return
        if self.find(path) is not None:
            raise RouterosError(self._options.duplicate_text)
        if entry.kind is not EntryKind.FILE:
            raise RouterosError("failure: only files can be renamed")
        self._require_writable(entry)
        self._require_unused(entry)
        old = entry.real_path
        target = self._new(path, EntryKind.FILE)
        if target.filesystem is not entry.filesystem:
            raise RouterosError("failure: can not move to another disk")
        with self._on_host():
            old.rename(target.real_path)
        self._forget(entry)
        entry.path, entry.parent = path, target.parent
        self._keep(entry)
        self._touch(entry)

    def remove(self, entry: Entry, *, subvolumes: bool = False) -> None:
        """Remove a file, or a directory with what is in it; a subvolume only with ``subvolumes``."""
        if entry.kind is EntryKind.MOUNT:
            raise RouterosError(self._options.in_use_text)
        everything = entry.below()
        inner = everything if not subvolumes else everything[1:]
        if any(each.kind is EntryKind.SUBVOLUME for each in inner):
            raise RouterosError("failure: directory holds a subvolume")
        if subvolumes and entry.parent is not None:
            self._require_writable(entry.parent)
        elif not subvolumes:
            self._require_writable(entry)
        if not self._options.file_in_use_removable:
            for each in everything:
                self._require_unused(each)
        self.lose(entry)

    def lose(self, entry: Entry) -> None:
        """Take something away, whatever uses it: also what a test does to show a missing file."""
        for each in reversed(entry.below()):
            with self._on_host():
                (remove_if_there if each.kind is EntryKind.FILE else Path.rmdir)(each.real_path)
            self._release(each)
            self._forget(each)

    # Changing, with time.

    async def snapshot(self, source: Entry, path: str, *, read_only: bool) -> Entry:
        """A subvolume with what ``source`` holds now; files share their space with those of the source."""
        if source.filesystem is not self._new_place(normalise(path)).filesystem:
            raise RouterosError("failure: can not move to another disk")
        copy = self.make_directory(path, EntryKind.SUBVOLUME)
        try:
            for entry in source.below()[1:]:
                # Nested subvolumes are empty directories in a snapshot, as btrfs shows them.
                if not any(above.kind is EntryKind.SUBVOLUME for above in _between(entry, source)):
                    await self._share(entry, copy.path + entry.path.removeprefix(source.path))
        except BaseException:
            self.lose(copy)
            raise
        copy.read_only = read_only
        self._touch(copy)
        return copy

    async def _share(self, entry: Entry, path: str) -> None:
        if entry.kind is not EntryKind.FILE:
            self.make_directory(path)
            return
        copy = self._new(path, EntryKind.FILE)
        source, target = entry.real_path, copy.real_path
        # Shared before the bytes are copied: a removal of the source meanwhile must not give the space away.
        copy.size, copy.contents = entry.size, entry.contents
        copy.allocations = list(entry.allocations)
        for allocation in copy.allocations:
            allocation.holders += 1
        self._keep(copy)
        await self._blocking(partial(clone_file, source, target))

    async def copy(self, source: Entry, path: str) -> Entry:
        """Copy a file, or a directory with everything in it, at the rate of the options."""
        path = normalise(path)
        if path.startswith(source.path + "/"):
            raise RouterosError("failure: can not copy a directory into itself")
        if source.kind is EntryKind.FILE:
            return await self._copy_file(source, path)
        top = self.make_directory(path)
        for entry in source.below()[1:]:
            inside = path + entry.path.removeprefix(source.path)
            if entry.kind is EntryKind.FILE:
                await self._copy_file(entry, inside)
            else:
                self.make_directory(inside)
        return top

    async def _copy_file(self, source: Entry, path: str) -> Entry:
        """The copy's whole space is taken at the start; its size grows with what has arrived."""
        size, origin = source.size, source.real_path
        copy = self.make_file(path)
        self._release(copy)
        try:
            self._require_space(copy.filesystem, size)
        except RouterosError:
            self.lose(copy)
            raise
        copy.allocations.append(copy.filesystem.allocate(size))
        # Counts as a use on both ends: neither can be removed in the middle.
        source.users += 1
        copy.users += 1
        try:
            await self._transfer(origin, copy, size)
        finally:
            source.users -= 1
            copy.users -= 1
        copy.contents = source.contents
        self._touch(copy)
        return copy

    async def _transfer(self, origin: Path, copy: Entry, size: int) -> None:
        rate = self._options.copy_rate
        step = size if not rate else max(int(rate * _STEP_SECONDS) // 4096 * 4096, 4096)
        position, target = 0, copy.real_path
        while position < size:
            start, position = position, min(position + step, size)
            await self._blocking(partial(copy_range, origin, target, start, position))
            copy.size = position
            self._touch(copy)
            if rate:
                await self._sleep((position - start) / rate)

    async def _blocking(self, call: Callable[[], None]) -> None:
        try:
            with self._on_host():
                await finish(self._workers.run(call, timeout=_COPY_SECONDS))
        except DeadlineExceeded:
            raise RouterosError("failure: timeout") from None

    @staticmethod
    def _encoded(contents: str) -> bytes:
        data = contents.encode()
        if len(data) > MAX_CONTENTS:
            raise RouterosError("failure: new contents too long")
        return data


def _write_new(path: Path, data: bytes, size: int) -> None:
    """A file of ``size`` bytes that begins with ``data``; after an OSError nothing of it is left."""
    with path.open("xb") as real:
        try:
            real.write(data)
            real.truncate(size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _between(entry: Entry, top: Entry) -> list[Entry]:
    """What lies above ``entry`` and below ``top``."""
    lineage = entry.lineage()[1:]
    return lineage[: lineage.index(top)]
