"""A simulated RouterOS device in this process, arrays on it over either transport, and what lies on it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.mark import DamagedMark, Kind, Mark, decode
from rds_csi.arrays.routeros.options import RouterosOptions, SshOptions, parse
from rds_csi.arrays.routeros.rest_client import RestClient
from rds_csi.arrays.routeros.rest_session import RestSession, RestTimes
from rds_csi.arrays.routeros.ssh_client import SshClient
from rds_csi.arrays.routeros.ssh_connection import SshTimes
from rds_csi.arrays.routeros.ssh_console import SshConsole
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB, MIB
from rds_csi.process import ProcessRunner
from rds_csi.retry import Clock, Pace, RetryPolicy
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.menu import Item
from rds_csi.simulator.server import Simulator, SimulatorOptions
from rds_csi.workers import Workers

TRANSPORTS = ("ssh", "https")
# Pools of the device: one for plain files, one for subvolumes.
XFS, BTRFS = "raid10", "flash"
PREFIX = "nqn.2026-01.io.rds-csi:prod:"
DRIVER = "rds.csi.rds-csi.io"
SIZE = 8 * MIB
POOL_SIZE = 4 * GIB

# No pause after a failed connection, and hardly any before the next attempt.
_PACE = Pace(0.0, 0.0)
_RETRY = RetryPolicy(attempts=3, first_delay=0.01)
# Seconds that the driver's pauses take here at most.
_PAUSE = 0.02
# Whoever stays silent is given up after this; the driver's own times are what these are for tests.
_SSH_TIMES = SshTimes(dial=5.0, opening=0.5, place=5.0, check=0.5)
_REST_TIMES = RestTimes(connect=5.0, reply=1.0, total=2.0, place=5.0, close=3.0)


async def _short_sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, _PAUSE))


_CLOCK = Clock(now=time.monotonic, sleep=_short_sleep)


@dataclass(frozen=True)
class Thing:
    """A disk of ours: where it lies, how large it is, and what its mark says."""

    slot: str
    size: int
    path: str
    exported: bool
    mark: Mark | None


@dataclass(frozen=True)
class Census:
    """What is on the device besides what others had there from the start: disks by slot, sizes of files by path,
    subvolumes by name, and the bytes that each pool has left."""

    disks: Mapping[str, Thing]
    files: Mapping[str, int]
    subvolumes: frozenset[str]
    free: Mapping[str, int]

    def of(self, kind: Kind) -> dict[str, Thing]:
        """The disks with a whole mark of that kind, by the id in it; an id that is there twice fails the test."""
        found: dict[str, Thing] = {}
        for thing in self.disks.values():
            if thing.mark is not None and thing.mark.kind is kind:
                assert thing.mark.object_id not in found, f"{thing.mark.object_id} is there twice: {self.disks}"
                found[thing.mark.object_id] = thing
        return found


class World:
    """One simulator with two pools. ``belongings`` are what others keep there, for comparison."""

    def __init__(self, simulator: Simulator, directory: Path) -> None:
        self.simulator = simulator
        self.files = simulator.write_credentials(directory)
        self.start = self._free()
        self._foreign = frozenset(item.id for item in self._items("/disk"))
        self._foreign_files = frozenset(str(item.values["name"]) for item in self._items("/file"))
        self._foreign_subvolumes = frozenset(str(item.values["name"]) for item in self._items("/disk/btrfs/subvolume"))

    def url(self, transport: str, **query: str) -> str:
        """The array's URL; keys of ``query`` ("_" for "-") are added to the needed ones or replace them, "" removes."""
        port = self.simulator.ssh_port if transport == "ssh" else self.simulator.https_port
        files = self.files
        keys = {"pool": XFS}
        if transport == "ssh":
            keys |= {"key-file": str(files.client_key), "known-hosts": str(files.known_hosts)}
        else:
            keys |= {"password-file": str(files.password), "tls-ca": str(files.tls_ca)}
        keys |= {name.replace("_", "-"): value for name, value in query.items()}
        told = {name: value for name, value in keys.items() if value}
        user = "" if "users-file" in told else "csi@"
        return f"routeros+{transport}://{user}127.0.0.1:{port}/?{urlencode(told, safe='/:,')}"

    def options(self) -> ArrayOptions:
        """What the composition root would hand over."""
        return ArrayOptions(ProcessRunner(), Workers(4), HostPaths(), nqn_prefix=PREFIX, driver_name=DRIVER)

    @asynccontextmanager
    async def array(
        self, transport: str, *, clock: Clock = _CLOCK, pool: str = XFS, snapshots: str = "none", **query: str
    ) -> AsyncIterator[RouterosArray]:
        """An array as a process that has just started has it, but for shorter pauses and deadlines."""
        url = self.url(transport, pool=pool, snapshots=snapshots, **query)
        parsed = parse(url, self.options())
        array = RouterosArray(parsed, self._client(parsed, Workers(4)), clock=clock, policy=_RETRY)
        await array.start()
        try:
            yield array
        finally:
            await array.close()

    def _client(self, options: RouterosOptions, workers: Workers) -> Client:
        transport = options.transport
        if isinstance(transport, SshOptions):
            console = SshConsole(transport, clock=_CLOCK, pace=_PACE, times=_SSH_TIMES, workers=workers)
            return SshClient(console, user=transport.user)
        session = RestSession(transport, clock=_CLOCK, pace=_PACE, times=_REST_TIMES, workers=workers)
        return RestClient(session, user=transport.user)

    # What lies there.

    def is_bare(self) -> bool:
        """Whether there is nothing but what is of others, and the pools have what they had."""
        census = self.census()
        return not (census.disks or census.files or census.subvolumes) and census.free == self.start

    def census(self) -> Census:
        """Everything that is not of others."""
        disks = {}
        for item in self._items("/disk"):
            if item.id not in self._foreign:
                values = item.values
                slot = str(values["slot"])
                disks[slot] = Thing(
                    slot,
                    int(str(values.get("size") or 0)),
                    str(values["file-path"]).strip("/"),
                    values.get("nvme-tcp-export") is True,
                    _mark(str(values.get("comment") or "")),
                )
        files = {
            str(item.values["name"]): int(str(item.values["size"]))
            for item in self._items("/file")
            if item.values["name"] not in self._foreign_files
            and item.values["type"] not in ("directory", "disk")
            and "size" in item.values
        }
        subvolumes = frozenset(str(item.values["name"]) for item in self._items("/disk/btrfs/subvolume"))
        return Census(disks, files, subvolumes - self._foreign_subvolumes, self._free())

    def foreign(self) -> str:
        """Everything of others as one text: disks with all their properties, files, and a digest of the bytes."""
        disks = {
            item.id: {name: value for name, value in item.values.items() if name not in ("free", "free-inodes", "use")}
            for item in self._items("/disk")
            if item.id in self._foreign
        }
        files = sorted(self._foreign_files & {str(item.values["name"]) for item in self._items("/file")})
        subvolumes = sorted(
            self._foreign_subvolumes & {str(item.values["name"]) for item in self._items("/disk/btrfs/subvolume")}
        )
        digest = self.simulator.device.tenants.digest()
        return json.dumps([disks, files, subvolumes, digest], default=str, indent=1)

    def write(self, slot: str, data: bytes) -> None:
        """Write at the beginning of a disk's file, as a node would."""
        with self._real(slot).open("r+b") as stream:
            stream.write(data)

    def read(self, slot: str, length: int) -> bytes:
        """The beginning of a disk's file."""
        with self._real(slot).open("rb") as stream:
            return stream.read(length)

    def _real(self, slot: str) -> Path:
        entry = self.simulator.device.storage.find(self.census().disks[slot].path)
        assert entry is not None, f"the file of {slot} is gone"
        return entry.real_path

    # What somebody does by hand.

    def values(self, slot: str) -> dict[str, object]:
        """The properties of a disk, as the device shows them."""
        (found,) = [item for item in self._items("/disk") if item.values.get("slot") == slot]
        return dict(found.values)

    def lose_file(self, path: str) -> None:
        """Take a file away, whoever uses it."""
        entry = self.simulator.device.storage.find(path)
        assert entry is not None, path
        self.simulator.device.storage.lose(entry)

    def disk_id(self, slot: str) -> str:
        (found,) = [item.id for item in self._items("/disk") if item.values.get("slot") == slot]
        return found

    async def edit(self, disk: str, /, **values: str) -> None:
        """Set properties of a disk ("_" for "-")."""
        told = {name.replace("_", "-"): value for name, value in values.items()}
        await self.simulator.device.disks.set(self.disk_id(disk), told)

    async def add_foreign(self, slot: str, path: str, /, **values: str) -> str:
        """A disk of somebody else, with its file, and nothing of ours in it; its id."""
        told = {name.replace("_", "-"): value for name, value in values.items()}
        disk = {"type": "file", "slot": slot, "file-path": path, "file-size": str(SIZE), **told}
        return await self.simulator.device.disks.add(disk)

    def _items(self, menu: str) -> list[Item]:
        found = self.simulator.device.menus.get(menu)
        return list(found.items()) if found else []

    def _free(self) -> dict[str, int]:
        return {slot: pool.free for slot, pool in self.simulator.device.storage.pools.items()}


def _mark(comment: str) -> Mark | None:
    try:
        return decode(comment)
    except DamagedMark:
        return None


@asynccontextmanager
async def world(directory: Path, *, version: str = "7.24", **options: object) -> AsyncIterator[World]:
    """A world with an XFS and a btrfs pool of POOL_SIZE each."""
    pools = (
        PoolOptions(XFS, size=POOL_SIZE, filesystem="xfs", overhead=0),
        PoolOptions(BTRFS, size=POOL_SIZE, filesystem="btrfs", overhead=0),
    )
    told = {"directory": directory / "device", "version": version, "pools": pools, **options}
    async with Simulator(SimulatorOptions(**told)) as simulator:  # type: ignore[arg-type]  # a test's own options
        yield World(simulator, directory / "credentials")
