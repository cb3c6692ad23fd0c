"""Both clients over real SSH and real HTTPS to the simulator: what every fault in the middle of a command comes to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Expect, MakeDirectory, Outcome
from rds_csi.arrays.routeros.errors import LostReply, NotPermitted, Unsent
from rds_csi.arrays.routeros.options import RestOptions, SshOptions
from rds_csi.arrays.routeros.rest_client import RestClient
from rds_csi.arrays.routeros.rest_session import RestSession
from rds_csi.arrays.routeros.ssh_client import SshClient
from rds_csi.arrays.routeros.ssh_console import SshConsole
from rds_csi.model.sizes import GIB
from rds_csi.retry import Pace
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.server import Simulator, SimulatorOptions
from tests.support.routeros_bench import BASE, CREATE, DELETE, MARK, PATH, grow

QUICK = Pace(0.001, 0.001)
# A request that changes something, as faults are matched: the script, or the method and path.
CHANGES = {"ssh": {"add": "/disk add", "set": "/disk set", "remove": "/disk remove"}}
CHANGES["rest"] = {"add": "PUT /rest/disk", "set": "PATCH /rest/disk", "remove": "DELETE /rest/disk"}


@dataclass(frozen=True)
class Wire:
    """A simulator, and the client on it."""

    transport: str
    simulator: Simulator
    client: Client

    def strike(self, kind: FaultKind, change: str) -> None:
        self.simulator.faults.add(Fault(kind, match=CHANGES[self.transport][change]))

    async def converge(self, command: Command) -> Outcome:
        """Repeat the command until nothing fails."""
        for _ in range(200):
            try:
                outcome = await self.client.execute(command)
            except (Unsent, LostReply):
                continue
            if not outcome.error:
                return outcome
        raise AssertionError("it does not converge")

    def disks(self) -> list[object]:
        items = self.simulator.device.menus["/disk"].items()
        return [item.values.get("comment") for item in items if item.values.get("slot") == "pvc-1"]

    def files(self) -> list[object]:
        names = [item.values["name"] for item in self.simulator.device.menus["/file"].items()]
        return [name for name in names if str(name).startswith(f"{BASE}/")]


@asynccontextmanager
async def _client(transport: str, simulator: Simulator, directory: Path) -> AsyncIterator[Client]:
    files = simulator.write_credentials(directory)
    client: Client
    if transport == "ssh":
        ssh = SshOptions("127.0.0.1", "csi", str(files.client_key), str(files.known_hosts), port=simulator.ssh_port)
        client = SshClient(SshConsole(ssh, pace=QUICK), user="csi")
    else:
        rest = RestOptions(
            "127.0.0.1", "csi", password_file=str(files.password), tls_ca=str(files.tls_ca), port=simulator.https_port
        )
        client = RestClient(RestSession(rest, pace=QUICK), user="csi")
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(params=["ssh", "rest"])
async def wire(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wire]:
    async with (
        Simulator(SimulatorOptions(directory=tmp_path / "device")) as simulator,
        _client(request.param, simulator, tmp_path / "credentials") as client,
    ):
        base = Command(Anchors(slots=("none",)), (Deed(Expect(0), (MakeDirectory(BASE),)),))
        assert (await client.execute(base)).error == ""
        yield Wire(request.param, simulator, client)


async def test_the_life_of_a_disk(wire: Wire) -> None:
    facts = await wire.client.facts()
    assert facts.version.is_at_least(7, 21)
    assert {"read", "write"} <= facts.policies
    assert (await wire.client.execute(CREATE)).disks[0].comment == MARK
    assert (await wire.client.execute(grow(2 * GIB))).disks[0].size == 2 * GIB
    assert [file.name for file in await wire.client.list_files(BASE)] == [PATH]
    assert "pvc-1" in {disk.slot for disk in await wire.client.list_disks()}
    assert (await wire.client.execute(DELETE)).disks == ()
    assert (wire.disks(), wire.files()) == ([], [])


STEPS = {"add": CREATE, "set": grow(2 * GIB), "remove": DELETE}
# What is there once each of them is done: marks and files.
AFTERWARDS: dict[str, tuple[list[str], list[str]]] = {
    "add": ([MARK], [PATH]),
    "set": ([MARK], [PATH]),
    "remove": ([], []),
}


async def _prepare(wire: Wire, change: str) -> Command:
    """What a change needs to be there, and the change."""
    if change != "add":
        await wire.converge(CREATE)
    return STEPS[change]


@pytest.mark.parametrize("change", STEPS)
@pytest.mark.parametrize("kind", [FaultKind.LOSE_REPLY, FaultKind.CUT_REPLY, FaultKind.CORRUPT_JSON])
async def test_a_change_whose_reply_is_lost_is_found_by_looking(wire: Wire, kind: FaultKind, change: str) -> None:
    command = await _prepare(wire, change)
    wire.strike(kind, change)
    if wire.transport == "rest" and change == "remove" and kind is FaultKind.CORRUPT_JSON:
        # A DELETE is answered without a body that could be corrupt.
        assert (await wire.client.execute(command)).error == ""
    else:
        with pytest.raises(LostReply):
            await wire.client.execute(command)
    again = await wire.converge(command)
    # A create finds the disk, growing to the same size and deleting what is absent are done once more.
    assert again.done == {"add": -1, "set": 0, "remove": 1}[change]
    assert (wire.disks(), wire.files()) == AFTERWARDS[change]
    if change == "set":
        assert again.disks[0].size == 2 * GIB


@pytest.mark.parametrize("change", STEPS)
@pytest.mark.parametrize("kind", [FaultKind.DROP_BEFORE, FaultKind.REBOOT])
async def test_a_change_that_never_arrived_is_done_when_repeated(wire: Wire, kind: FaultKind, change: str) -> None:
    command = await _prepare(wire, change)
    before = wire.disks(), wire.files()
    wire.strike(kind, change)
    with pytest.raises((LostReply, Unsent)):
        await wire.client.execute(command)
    assert (wire.disks(), wire.files()) == before
    assert (await wire.converge(command)).done == 0
    assert (wire.disks(), wire.files()) == AFTERWARDS[change]


@pytest.mark.parametrize("kind", [FaultKind.NO_SPACE, FaultKind.READ_ONLY_POOL, FaultKind.WRONG_POLICY])
async def test_a_refused_change_leaves_nothing_and_says_why(wire: Wire, kind: FaultKind) -> None:
    wire.strike(kind, "add")
    try:
        outcome = await wire.client.execute(CREATE)
    except NotPermitted:
        assert kind is FaultKind.WRONG_POLICY
    else:
        assert outcome.error
        assert (outcome.done, outcome.disks, outcome.files) == (0, (), ())
    assert (wire.disks(), wire.files()) == ([], [])
    assert (await wire.converge(CREATE)).done == 0
