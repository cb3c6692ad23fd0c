"""Filesystems and stage records of this process only, with the semantics of the real ones: no root, no devices."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from rds_csi.errors import Aborted, DriverError, FailedPrecondition, FormatRefused, NotFound, Unavailable
from rds_csi.filesystem.flags import MOUNT_FLAGS, check_flags, superblock_options
from rds_csi.filesystem.mkfs import check_format
from rds_csi.filesystem.protocol import Content, Mount, MountTable, Usage
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.records import StageRecord
from rds_csi.model.volumes import Finding

# How many operations are remembered: enough for any test, and a long fuzz run stays flat.
_REMEMBERED_OPERATIONS = 10_000
_INODES = 65_536

BLANK = Content(fs_type="", uuid="", blank=True, detail="")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that was made: its name in ``Filesystems`` and the device's or target's path."""

    name: str
    subject: str


@dataclass(frozen=True, slots=True)
class _Node:
    number: DeviceNumber
    read_only: bool


class MemoryFilesystems:
    """``Filesystems`` in memory.

    For tests: set ``contents`` (by device path; what is absent is blank) before, read ``operations`` after; put
    paths into ``busy`` (unmount is refused) and device paths into ``held`` (O_EXCL would fail); ``before[name]`` is
    awaited at the start of an operation and may wait or raise; ``fail`` is the short form for one failure.
    """

    def __init__(self) -> None:
        self.contents: dict[str, Content] = {}
        self.operations: deque[Operation] = deque(maxlen=_REMEMBERED_OPERATIONS)
        self.busy: set[str] = set()
        self.held: set[str] = set()
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.directories: set[str] = set()
        self.groups: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self._mounts: list[Mount] = []
        self._nodes: dict[str, _Node] = {}
        self._node_sizes: dict[DeviceNumber, int] = {}
        self._failures: dict[str, list[DriverError]] = {}
        self._next_mount_id = 1

    def fail(self, name: str, error: DriverError, *, times: int = 1) -> None:
        """Let the next ``times`` calls of the operation ``name`` raise ``error`` instead of doing anything."""
        self._failures.setdefault(name, []).extend([error] * times)

    def names(self) -> tuple[str, ...]:
        """The names of the operations done so far, in order."""
        return tuple(operation.name for operation in self.operations)

    async def mount_table(self) -> MountTable:
        await self._begin("mount_table", "")
        return MountTable(tuple(self._mounts))

    async def mounts_of(self, device: Device) -> Sequence[Mount]:
        await self._begin("mounts_of", device.path)
        return self._mounts_of(device.number)

    async def identify(self, device: Device) -> Content:
        await self._begin("identify", device.path)
        return replace(self._content(device), blank=False)

    async def prove_blank(self, device: Device) -> Content:
        await self._begin("prove_blank", device.path)
        return self._content(device)

    async def format(self, device: Device, fs_type: str, uuid: str, options: Sequence[str]) -> None:
        await self._begin("format", device.path)
        check_format(fs_type, device.size, options)
        if device.path in self.held or self._mounts_of(device.number):
            raise Aborted(f"{device.path} is held by another program or a mount")
        found = self._content(device)
        if found.fs_type and found.uuid != uuid:
            raise FormatRefused(f"{device.path} holds {found.fs_type} {found.uuid}: it is not formatted")
        self.contents[device.path] = Content(fs_type=fs_type, uuid=uuid, blank=False, detail="")
        self.sizes[device.path] = device.size

    async def mount(self, device: Device, path: str, fs_type: str, flags: Sequence[str]) -> None:
        await self._begin("mount", device.path)
        options = superblock_options(flags, fs_type)
        self._check_free(path)
        if self._content(device).fs_type != fs_type:
            raise FailedPrecondition(f"{device.path} cannot be mounted: it holds no {fs_type}")
        if device.path in self.held:
            raise Aborted(f"{device.path} is held by another program or a mount")
        self.sizes.setdefault(device.path, device.size)
        read_only = ("ro" if "ro" in options else "rw",)
        super_options = read_only + tuple(option for option in options if option not in MOUNT_FLAGS)
        self._attach(
            Mount(0, device.number, "/", path, _mount_options(read_only, options), fs_type, device.path, super_options)
        )

    async def bind(self, source: str, path: str, *, read_only: bool, flags: Sequence[str]) -> None:
        await self._begin("bind", path)
        wanted = check_flags(flags)
        self._check_free(path)
        origin = self._mount_holding(source)
        if origin is None:
            raise NotFound(f"{source} is not there, so it cannot be bound to {path}")
        below = source[len(origin.path) :].lstrip("/")
        root = f"{origin.root.rstrip('/')}/{below}" if below else origin.root
        options = origin.options if not read_only else ("ro",)
        self._attach(replace(origin, root=root, path=path, options=_mount_options(options, wanted)))

    async def unmount(self, path: str) -> None:
        await self._begin("unmount", path)
        table = MountTable(tuple(self._mounts))
        if not table.at(path):
            return
        if path in self.busy or table.below(path):
            raise FailedPrecondition(f"{path} is busy, so it cannot be unmounted")
        self._mounts = [mount for mount in self._mounts if mount.path != path]

    async def place_block_node(self, device: Device, path: str, *, read_only: bool) -> None:
        await self._begin("place_block_node", path)
        there = self._nodes.get(path)
        if path in self.directories or (there is not None and there.number != device.number):
            raise FailedPrecondition(f"{path} is there already and is not {device.path}")
        others = [node for name, node in self._nodes.items() if node.number == device.number and name != path]
        if any(node.read_only != read_only for node in others):
            raise FailedPrecondition(f"{device.path} is published here already with the other access")
        self._nodes[path] = _Node(device.number, read_only)
        self._node_sizes[device.number] = device.size

    async def block_node_at(self, path: str) -> DeviceNumber | None:
        await self._begin("block_node_at", path)
        node = self._nodes.get(path)
        return node.number if node is not None else None

    async def remove_target(self, path: str) -> None:
        await self._begin("remove_target", path)
        if MountTable(tuple(self._mounts)).at(path):
            raise FailedPrecondition(f"{path} is still mounted, so it is not removed")
        if any(name.startswith(path + "/") for name in (*self.directories, *self._nodes)):
            raise FailedPrecondition(f"{path} is not empty, so it is not removed")
        self.directories.discard(path)
        self._nodes.pop(path, None)

    async def grow(self, device: Device, path: str, fs_type: str) -> None:
        await self._begin("grow", device.path)
        if not any(mount.number == device.number for mount in MountTable(tuple(self._mounts)).at(path)):
            raise FailedPrecondition(f"{device.path} is not mounted at {path}, so {fs_type} is not grown")
        self.sizes[device.path] = max(device.size, self.sizes.get(device.path, 0))

    async def set_group(self, path: str, group: int) -> None:
        await self._begin("set_group", path)
        mount = self._mount_holding(path)
        if mount is not None and not mount.read_only:
            self.groups[mount.source] = group

    async def usage(self, path: str) -> Usage:
        await self._begin("usage", path)
        if (node := self._nodes.get(path)) is not None:
            return Usage(total_bytes=self._node_sizes[node.number])
        mount = self._mount_holding(path)
        if mount is None:
            raise NotFound(f"nothing is at {path}")
        size = self.sizes.get(mount.source, 0)
        return Usage(
            total_bytes=size,
            available_bytes=size,
            total_inodes=_INODES,
            available_inodes=_INODES,
            read_only=mount.read_only,
        )

    async def check(self) -> Sequence[Finding]:
        return (Finding("filesystems", True, "kept in memory, so no tool is needed"),)

    async def _begin(self, name: str, subject: str) -> None:
        hook = self.before.get(name)
        if hook is not None:
            await hook()
        if self._failures.get(name):
            raise self._failures[name].pop(0)
        self.operations.append(Operation(name, subject))

    def _content(self, device: Device) -> Content:
        if device.size <= 0:
            raise Unavailable(f"{device.path} has no size")
        return self.contents.get(device.path, BLANK)

    def _mounts_of(self, number: DeviceNumber) -> tuple[Mount, ...]:
        return tuple(mount for mount in self._mounts if mount.number == number)

    def _mount_holding(self, path: str) -> Mount | None:
        """The mount that is seen at ``path``; None for a path on no mount of ours."""
        holding = [mount for mount in self._mounts if path == mount.path or path.startswith(mount.path + "/")]
        return max(reversed(holding), key=lambda mount: len(mount.path), default=None)

    def _check_free(self, path: str) -> None:
        if path in self._nodes:
            raise FailedPrecondition(f"{path} is there already and is not a directory")
        if MountTable(tuple(self._mounts)).at(path):
            raise FailedPrecondition(f"something is mounted at {path} already")

    def _attach(self, mount: Mount) -> None:
        self.directories.add(mount.path)
        self._mounts.append(replace(mount, mount_id=self._next_mount_id))
        self._next_mount_id += 1


def _mount_options(base: tuple[str, ...], flags: tuple[str, ...]) -> tuple[str, ...]:
    """The mount's own options: ``base`` with the VFS flags of the request, as mountinfo shows them."""
    extra = tuple(flag for flag in flags if flag in MOUNT_FLAGS and flag not in ("ro", "rw"))
    read_only = "ro" in base or "ro" in flags
    return ("ro" if read_only else "rw", *(option for option in base if option not in ("ro", "rw")), *extra)


class MemoryStageRecords:
    """Stage records that end with the process."""

    def __init__(self) -> None:
        self._records: dict[str, StageRecord] = {}

    async def load(self, volume_id: str) -> StageRecord | None:
        return self._records.get(volume_id)

    async def store(self, record: StageRecord, *, durable: bool = True) -> None:  # noqa: ARG002 - nothing here lasts
        self._records[record.volume_id] = record

    async def remove(self, volume_id: str, *, durable: bool = False) -> None:  # noqa: ARG002 - nothing here lasts
        self._records.pop(volume_id, None)

    async def all(self) -> Sequence[StageRecord]:
        return tuple(self._records.values())
