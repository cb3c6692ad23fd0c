"""A simulated RouterOS device with the driver's client on it, over SSH scripts or REST, without a network between."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import AddDisk, Anchors, Command, Deed, Expect, RemoveDisk, RemoveFile, SetDisk
from rds_csi.arrays.routeros.rest_client import RestClient
from rds_csi.arrays.routeros.rest_errors import Reply, read_reply
from rds_csi.arrays.routeros.ssh_client import SshClient
from rds_csi.model.sizes import GIB
from rds_csi.retry import Clock, Pace, poll
from rds_csi.simulator.console import Console
from rds_csi.simulator.consoles import Consoles
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions
from rds_csi.simulator.http import Request
from rds_csi.simulator.rest_commands import RestCommands

BASE = "raid10/rds-csi"
PATH = f"{BASE}/pvc-1.0123456789ab.img"
NQN = "nqn.2026-11.io.example:a.pvc-1"
BEGINS = "rds-csi/1/d/c/v:pvc-1/"
MARK = f"{BEGINS}x:00000000"
ATTACHED = f"{BEGINS}a:n:h:t:m:rw/x:00000000"
# Seconds, on a loaded machine.
JOB_SECONDS = 60.0
ANCHORS = Anchors(slots=("pvc-1",), nqns=(NQN,), paths=(PATH,))
DISK: Mapping[str, str] = {
    "type": "file",
    "slot": "pvc-1",
    "file-path": PATH,
    "file-size": str(GIB),
    "mount-filesystem": "no",
    "smb-sharing": "no",
    "media-sharing": "no",
    "nvme-tcp-export": "yes",
    "nvme-tcp-server-port": "4420",
    "nvme-tcp-server-nqn": NQN,
    "comment": MARK,
}
CREATE = Command(ANCHORS, (Deed(Expect(0, no_file=True), (AddDisk(DISK),)),))
DELETE = Command(
    ANCHORS,
    (
        Deed(Expect(1, comment=MARK), (RemoveDisk(), RemoveFile(PATH))),
        Deed(Expect(0), (RemoveFile(PATH),)),
    ),
)


def grow(size: int) -> Command:
    return Command(ANCHORS, (Deed(Expect(1), (SetDisk({"file-size": str(size)}),)),))


class ExecConsole:
    """What an exec of a user prints, without a network between."""

    def __init__(self, device: Device, user: str) -> None:
        self._device = device
        self._user = user
        self.count = 0

    async def run(self, script: str, *, timeout: float = 1.0, output_limit: int = 1, whole: bool = False) -> str:
        self.count += 1
        user = self._device.user(self._user)
        assert user is not None
        pieces = [piece async for piece in Console(self._device, user).run(script)]
        return "".join(pieces).replace("\r\n", "\n")

    async def close(self) -> None:
        """Nothing is kept open."""


class DirectSession:
    """The REST commands of the device, without a network between."""

    def __init__(self, device: Device, user: str) -> None:
        self._device = device
        self._user = user
        self._commands = RestCommands(device, Consoles(device))
        self.count = 0

    async def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        self.count += 1
        # As on a network, others get their turn meanwhile.
        await asyncio.sleep(0)
        user = self._device.user(self._user)
        assert user is not None
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(method, path, {"content-type": "application/json"}, data)
        reply = await self._commands.answer(user, request)
        return read_reply(reply.status, reply.body, label="rds", user=self._user)

    async def close(self) -> None:
        """Nothing is kept open."""


class Bench:
    """A device, the client on it, and how much it has asked."""

    def __init__(self, device: Device, transport: str, user: str) -> None:
        self.device = device
        self.transport = transport
        self.wire: ExecConsole | DirectSession
        self.client: Client
        if transport == "ssh":
            self.wire = ExecConsole(device, user)
            self.client = SshClient(self.wire, user=user)
        else:
            self.wire = DirectSession(device, user)
            self.client = RestClient(self.wire, user=user)

    async def asked(self, work: Awaitable[object]) -> int:
        """How many execs or requests ``work`` took."""
        before = self.wire.count
        await work
        return self.wire.count - before

    def rows(self, menu: str) -> list[dict[str, Any]]:
        return [dict(item.values) for item in self.device.menus[menu].items()]


class Benches:
    """Makes benches, each with a device of its own, for one transport (``ssh`` or ``rest``)."""

    def __init__(self, transport: str, directory: Path) -> None:
        self._transport = transport
        self._directory = directory
        self._devices: list[Device] = []

    def __call__(self, *, user: str = "admin", **options: Any) -> Bench:
        directory = self._directory / str(len(self._devices))
        directory.mkdir()
        device = Device(DeviceOptions(directory, **options))
        self._devices.append(device)
        return Bench(device, self._transport, user)

    async def close(self) -> None:
        for device in self._devices:
            await device.close()


@asynccontextmanager
async def benches(transport: str, directory: Path) -> AsyncIterator[Benches]:
    """Benches whose devices end with the test."""
    made = Benches(transport, directory)
    try:
        yield made
    finally:
        await made.close()


async def until_ended(client: Client, job: str) -> None:
    """Look until the job is over: it copies a real file, in a thread that wants its turn."""

    async def ended() -> bool | None:
        return True if job not in await client.running_jobs() else None

    assert await poll(ended, timeout=JOB_SECONDS, clock=Clock(), pace=Pace(0.001, 0.01)), "the job does not end"
