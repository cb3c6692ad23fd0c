"""Who uses which of many block devices: mounts, holders, swaps and loop devices, looked up once for all of them."""

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from rds_csi.blockdev.disks import Disk, Names, disk_of, node_name, read_names, read_names_at_once
from rds_csi.blockdev.mounts import Mounted, decode, parse_mounts
from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.blockdev.programs import look_at_programs
from rds_csi.blockdev.usage import list_names, open_text, read_text
from rds_csi.errors import DriverError
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import GONE
from rds_csi.workers import Workers

# Seconds for a look at the tables of all devices (1 s for 5,000), or at every program of the machine.
_LOOK_SECONDS = 30.0
# Seconds an exclusive open may take, waiting for its turn included. It touches a device only when its partitions
# were never read; closing it may wait for pages to be written.
_CLAIM_SECONDS = 10.0
# Opens at once, in threads apart from all others: those that stick on dead devices must not use up the node's.
_CLAIMS_AT_ONCE = 4

_LOOP = re.compile(r"loop\d+")
_NVME_DISK = re.compile(r"nvme\d+n\d+")
# include/uapi/linux/major.h, BLOCK_EXT_MAJOR: of NVMe namespaces among others.
_EXTENDED_MAJOR = "259:"


ReadNames = Callable[[str, Iterable[Disk]], Names]


def _nothing() -> Mapping[str, Sequence[str]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Uses:
    """What is known of the disks that were asked about.

    ``by_disk`` has phrases ("nvme0n1 is mounted at /mnt"). ``unseen`` tells, by disk, what could not be looked at,
    and ``blind`` what could be for none of them. ``mount_points`` are all places where something is mounted;
    ``lost`` are the mounts of devices that may have been NVMe ones, and that have left the kernel.
    """

    by_disk: Mapping[str, Sequence[str]] = field(default_factory=_nothing)
    unseen: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    blind: str = ""
    mount_points: frozenset[str] = frozenset()
    lost: tuple[Mounted, ...] = ()


class DeviceUsers:
    """The kernel's tables of who uses block devices, read off the event loop. No method raises: what could not be
    looked at is told, and is never "free"."""

    def __init__(
        self,
        host: HostPaths,
        workers: Workers,
        nodes: BlockNodes | None = None,
        *,
        claim_seconds: float = _CLAIM_SECONDS,
    ) -> None:
        """``nodes`` are the real ones unless a test brings its own; ``claim_seconds`` is for one exclusive open."""
        self._host = host
        self._workers = workers
        self._nodes = nodes or BlockNodes()
        self._claim_seconds = claim_seconds
        self._openers = Workers(_CLAIMS_AT_ONCE)

    async def look(self, disks: Sequence[Disk]) -> Uses:
        """Mounts of this and of the host's (pid 1) mount namespace, holders, swaps and loop devices; partitions count
        for their disk. Linear in the disks and mounts."""
        look = partial(_look, self._host, disks, read_names_at_once)
        return await self._guarded(look, "the tables of mounts and devices")

    async def look_closer(self, disks: Sequence[Disk]) -> Uses:
        """The same with a look into the directory of each disk, and what ``look`` does not see: mounts of all other
        mount namespaces, programs that have a device open, loop devices over a node of another name, and claims of
        the kernel."""
        tables = await self._guarded(partial(_look, self._host, disks, read_names), "the tables of mounts and devices")
        programs = await self._guarded(partial(_look_at_programs, self._host, disks), "the programs of this machine")
        loops = await self._guarded(partial(self._look_at_loops, disks), "the files behind loop devices")
        blind = tables.blind or programs.blind or loops.blind
        if blind:
            return Uses(blind=blind)
        found: dict[str, list[str]] = defaultdict(list)
        for uses in (tables, programs, loops):
            for name, phrases in uses.by_disk.items():
                found[name] += phrases
        unseen: dict[str, str] = {}
        free = [disk for disk in disks if disk.name not in found]
        await asyncio.gather(*(self._claim(disk, found, unseen) for disk in free))
        return Uses(found, unseen)

    async def _guarded(self, look: Callable[[], Uses], what: str) -> Uses:
        try:
            return await self._workers.run(look, timeout=_LOOK_SECONDS, key=what)
        except OSError as error:
            return Uses(blind=f"{what} cannot be read: {error}")
        except DriverError as error:
            return Uses(blind=error.message)

    async def _claim(self, disk: Disk, found: dict[str, list[str]], unseen: dict[str, str]) -> None:
        """Ask by an exclusive open, in whose answer partitions and all mount namespaces count."""
        path = f"{self._host.dev}/{disk.name}"
        look = partial(self._is_claimed, path, disk)
        try:
            claimed = await self._openers.run(look, timeout=self._claim_seconds, key=f"open of {path}")
        except OSError as error:
            unseen[disk.name] = f"{path} cannot be opened: {error.strerror}"
        except DriverError as error:
            unseen[disk.name] = error.message
        else:
            if claimed:
                found[disk.name].append(f"{disk.name} is claimed by another part of the kernel")

    def _is_claimed(self, path: str, disk: Disk) -> bool:
        there = self._nodes.number_of(path)
        if there is not None and there != disk.number:
            raise OSError(None, f"its node is of device {there}, not {disk.number}")
        # A container with a /dev of its own has no nodes of devices that came later. Made-up trees have no namespaces.
        if there is None and os.path.exists(f"{self._host.proc}/self/ns/mnt"):
            raise OSError(None, "there is no such block device")
        return self._nodes.is_claimed(path)

    def _look_at_loops(self, disks: Sequence[Disk]) -> Uses:
        """kubelet has loop devices over the block nodes at publish paths."""
        names = read_names(self._host.sys, disks)
        found = []
        for loop, path in _loops(self._host):
            disk = names.by_number.get(str(self._nodes.number_of(self._host.below(path))))
            if disk:
                found.append((disk, f"{disk} is behind {loop}, as {path}"))
        return Uses(_gathered(found))


def _look_at_programs(host: HostPaths, disks: Sequence[Disk]) -> Uses:
    return Uses(_gathered(look_at_programs(host.proc, read_names(host.sys, disks))))


def _look(host: HostPaths, disks: Sequence[Disk], read: ReadNames) -> Uses:
    mounts = _mounts(host)
    names = read(host.sys, disks)
    uses = [*_mounted(mounts, names), *_held(host, names), *_swapped(host, names), *_looped(host, names)]
    return Uses(
        _gathered(uses),
        mount_points=frozenset(mount.path for mount in mounts),
        lost=tuple(mount for mount in mounts if _is_lost(host, mount, names)),
    )


def _gathered(uses: Iterable[tuple[str, str]]) -> Mapping[str, Sequence[str]]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for disk, phrase in uses:
        found[disk][phrase] = None
    return MappingProxyType({disk: tuple(phrases) for disk, phrases in found.items()})


def _mounts(host: HostPaths) -> tuple[Mounted, ...]:
    """Of this process and of pid 1, which in a container with the host's pid namespace is the host's. OSError when
    neither can be read."""
    texts, missing = [], []
    for process in ("self", "1"):
        try:
            with open_text(f"{host.proc}/{process}/mountinfo") as stream:
                texts.append(stream.read())
        except OSError as error:
            if error.errno not in GONE:
                raise
            missing.append(error)
    if not texts:
        raise missing[0]
    return tuple(dict.fromkeys(mount for text in dict.fromkeys(texts) for mount in parse_mounts(text)))


def _mounted(mounts: Iterable[Mounted], names: Names) -> Iterator[tuple[str, str]]:
    for mount in mounts:
        # By name too: the mounts of btrfs have a made-up number.
        disk = names.by_number.get(mount.number) or names.by_name.get(node_name(mount.source))
        if disk:
            yield disk, f"{disk} is mounted at {mount.path}"


def _held(host: HostPaths, names: Names) -> Iterator[tuple[str, str]]:
    for disk, parts in names.parts.items():
        for place in (disk, *(f"{disk}/{part}" for part in parts)):
            for holder in sorted(list_names(f"{host.sys}/block/{place}/holders")):
                yield disk, f"{os.path.basename(place)} is held by {holder}"


def _swapped(host: HostPaths, names: Names) -> Iterator[tuple[str, str]]:
    # A kernel without swap has no such file.
    for line in read_text(f"{host.proc}/swaps").split("\n")[1:]:
        # Blanks and tabs of the path itself are escaped.
        name = node_name(decode(re.split(r"[ \t]", line, maxsplit=1)[0]))
        if name in names.by_name:
            yield names.by_name[name], f"{name} is used as swap"


def _looped(host: HostPaths, names: Names) -> Iterator[tuple[str, str]]:
    for loop, path in _loops(host):
        name = node_name(path)
        if name in names.by_name:
            yield names.by_name[name], f"{name} is behind {loop}"


def _loops(host: HostPaths) -> Iterator[tuple[str, str]]:
    for name in sorted(filter(_LOOP.fullmatch, list_names(f"{host.sys}/block"))):
        path = read_text(f"{host.sys}/block/{name}/loop/backing_file").removesuffix("\n")
        if path:
            yield name, path


def _is_lost(host: HostPaths, mount: Mounted, names: Names) -> bool:
    name = disk_of(node_name(mount.source))
    if mount.number in names.by_number or name in names.by_name:
        return False
    may_be_nvme = mount.number.startswith(_EXTENDED_MAJOR) or _NVME_DISK.fullmatch(name)
    places = (f"{host.sys}/dev/block/{mount.number}", f"{host.sys}/block/{name or '-'}")
    return bool(may_be_nvme) and not any(map(os.path.lexists, places))
