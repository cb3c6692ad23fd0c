import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import asyncssh
import httpx
import pytest

from rds_csi.simulator.faults import Fault, FaultKind, Faults, Stage, corrupt, parse_fault
from rds_csi.simulator.server import Simulator, SimulatorOptions
from tests.support.simulators import ManualClock, rest, run, ssh, until

ADD = "/disk add type=file slot=a file-path=raid10/a.img file-size=1048576; :put done"
NEW = {"type": "file", "slot": "a", "file-path": "raid10/a.img", "file-size": 1048576}
BROKEN = (asyncssh.Error, httpx.TransportError, ConnectionError)

# A transport: makes the disk and gives what was answered; raises when the connection breaks.
Make = Callable[[], Coroutine[object, object, str]]


class Bench:
    """A simulator whose clock stands still, and a client over one transport."""

    def __init__(self, simulator: Simulator, clock: ManualClock, make: Make, transport: str) -> None:
        self.simulator = simulator
        self.faults = simulator.faults
        self.clock = clock
        self.make = make
        self.transport = transport

    def is_made(self) -> bool:
        return any(item.values["slot"] == "a" for item in self.simulator.device.menus["/disk"].items())

    async def until_made(self) -> None:
        await until(self.is_made)


@pytest.fixture(params=["ssh", "https"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    clock = ManualClock()
    options = SimulatorOptions(directory=tmp_path, seed_tenants=False)
    async with Simulator(options, sleep=clock.sleep, now=clock.now) as simulator:

        async def over_ssh() -> str:
            async with ssh(simulator) as connection:
                result = await connection.run(ADD, encoding="utf-8")
                if result.exit_status is None:
                    raise ConnectionError(f"no exit status, but {result.stdout!r}")
                return str(result.stdout)

        async def over_rest() -> str:
            async with rest(simulator) as client:
                return (await client.put("/disk", json=NEW)).text

        transport = str(request.param)
        yield Bench(simulator, clock, over_ssh if transport == "ssh" else over_rest, transport)


async def test_without_a_fault_it_is_done_and_answered(bench: Bench) -> None:
    assert await bench.make()
    assert bench.is_made()


async def test_slow_answers_late(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.SLOW, "a.img", seconds=7))
    making = asyncio.create_task(bench.make())
    await bench.clock.somebody_sleeps(7)
    assert not bench.is_made()
    bench.clock.advance(7)
    assert await making
    assert bench.is_made()


async def test_slow_is_done_even_when_the_client_has_given_up(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.SLOW, "a.img", seconds=7))
    making = asyncio.create_task(bench.make())
    await bench.clock.somebody_sleeps(7)
    making.cancel()
    await asyncio.wait({making})
    bench.clock.advance(7)
    await bench.until_made()


async def test_hang_is_done_and_never_answered(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.HANG, "a.img"))
    making = asyncio.create_task(bench.make())
    await bench.until_made()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not making.done()
    making.cancel()
    await asyncio.wait({making})


async def test_hang_ends_with_a_broken_connection_when_told_so(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.HANG, "a.img", seconds=9))
    making = asyncio.create_task(bench.make())
    await bench.clock.somebody_sleeps(9)
    assert bench.is_made()
    bench.clock.advance(9)
    with pytest.raises(BROKEN):
        await making


@pytest.mark.parametrize("kind", [FaultKind.LOSE_REPLY, FaultKind.CUT_REPLY])
async def test_a_lost_or_cut_reply_is_of_something_done(bench: Bench, kind: FaultKind) -> None:
    bench.faults.add(Fault(kind, "a.img"))
    with pytest.raises(BROKEN):
        await bench.make()
    assert bench.is_made()


async def test_a_cut_reply_comes_in_part(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.CUT_REPLY, "disk"))
    if bench.transport == "ssh":
        async with ssh(bench.simulator) as connection:
            result = await connection.run("/disk print; :put done", encoding="utf-8")
            text = str(result.stdout)
            assert result.exit_status is None
            assert text.startswith("Flags:")
            assert "done" not in text
    else:
        async with rest(bench.simulator) as client, client.stream("GET", "/disk") as reply:
            assert reply.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
                await reply.aread()


async def test_drop_before_does_nothing(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.DROP_BEFORE, "a.img"))
    with pytest.raises(BROKEN):
        await bench.make()
    assert not bench.is_made()
    assert await bench.make()
    assert bench.is_made()


async def test_a_reboot_does_nothing_else_and_keeps_the_state(bench: Bench) -> None:
    assert await bench.make()
    bench.faults.add(Fault(FaultKind.REBOOT, "a.img", seconds=20))
    with pytest.raises(BROKEN):
        await bench.make()
    with pytest.raises(BROKEN):
        await bench.make()
    await bench.clock.somebody_sleeps(20)
    bench.clock.advance(20)
    await until(lambda: bench.simulator.device.reboots >= 1)
    await asyncio.sleep(0)
    assert "failure" in await bench.make()
    assert bench.is_made()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (FaultKind.WRONG_POLICY, "not enough permissions (9)"),
        (FaultKind.NO_SPACE, "failure: not enough space"),
        (FaultKind.READ_ONLY_POOL, "failure: read-only file system"),
    ],
)
async def test_refusals_are_told_and_nothing_is_done(bench: Bench, kind: FaultKind, words: str) -> None:
    bench.faults.add(Fault(kind, "a.img"))
    assert words in await bench.make()
    assert not bench.is_made()
    await bench.make()
    assert bench.is_made()
    assert bench.faults.hits == {kind: 1}


async def test_a_degraded_raid_shows_and_works(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.DEGRADED_RAID, times=0))

    def state() -> object:
        (pool,) = (item for item in bench.simulator.device.menus["/disk"].items() if item.values["type"] == "raid")
        return pool.values["state"]

    assert state() == "clean, degraded"
    assert await bench.make()
    assert bench.is_made()
    bench.faults.clear(FaultKind.DEGRADED_RAID)
    assert state() == "clean"


async def test_sessions_exhausted_closes_the_new_connection(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.SESSIONS_EXHAUSTED, bench.transport))
    with pytest.raises(BROKEN):
        await bench.make()
    assert not bench.is_made()
    assert await bench.make()
    assert bench.simulator.counters.refused == 1


async def test_a_blocked_channel_is_opened_later_or_never(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.CHANNEL_OPEN_BLOCKED, bench.transport, seconds=3))
    making = asyncio.create_task(bench.make())
    await bench.clock.somebody_sleeps(3)
    assert not bench.is_made()
    bench.clock.advance(3)
    assert await making
    assert bench.is_made()
    bench.faults.add(Fault(FaultKind.CHANNEL_OPEN_BLOCKED, bench.transport))
    making = asyncio.create_task(bench.make())
    await until(lambda: not (bench.faults.waiting))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not making.done()
    making.cancel()
    await asyncio.wait({making})


async def test_corrupt_json_is_of_something_done(bench: Bench) -> None:
    bench.faults.add(Fault(FaultKind.CORRUPT_JSON, "disk"))
    if bench.transport == "ssh":
        script = ":put [:serialize to=json value=[/disk print as-value]]; :put done"
        async with ssh(bench.simulator) as connection:
            text = await run(connection, script)
        assert text.startswith("[{.id")
        assert text.endswith("done\r\n")
    else:
        async with rest(bench.simulator) as client:
            reply = await client.put("/disk", json=NEW)
        assert reply.status_code == 201
        with pytest.raises(ValueError, match="Expecting"):
            reply.json()
        assert bench.is_made()


def test_a_fault_strikes_as_often_as_told() -> None:
    faults = Faults((Fault(FaultKind.SLOW, "x", times=2), Fault(FaultKind.HANG, skip=1)))
    assert [FaultKind.SLOW in faults.strike(Stage.REQUEST, text) for text in "xyxx"] == [True, False, True, False]
    assert faults.hits == {FaultKind.SLOW: 2, FaultKind.HANG: 1}
    assert faults.waiting == ()


def test_a_fault_without_times_strikes_until_it_is_cleared() -> None:
    faults = Faults((Fault(FaultKind.SLOW, times=0),))
    assert all(FaultKind.SLOW in faults.strike(Stage.REQUEST, "x") for _ in range(3))
    faults.clear()
    assert FaultKind.SLOW not in faults.strike(Stage.REQUEST, "x")


def test_a_fault_strikes_at_its_own_stage_only() -> None:
    faults = Faults((Fault(FaultKind.SESSIONS_EXHAUSTED), Fault(FaultKind.CHANNEL_OPEN_BLOCKED)))
    assert not faults.strike(Stage.REQUEST, "x").faults
    assert FaultKind.CHANNEL_OPEN_BLOCKED in faults.strike(Stage.CHANNEL, "ssh")
    assert FaultKind.SESSIONS_EXHAUSTED in faults.strike(Stage.CONNECT, "ssh")


def test_a_fault_is_written_with_colons() -> None:
    assert parse_fault("hang") == Fault(FaultKind.HANG)
    assert parse_fault("slow:disk add:3:1.5") == Fault(FaultKind.SLOW, "disk add", 3, 1.5)
    assert parse_fault("no-space::0") == Fault(FaultKind.NO_SPACE, "", 0)
    for text in ("", "quick", "slow:x:y", "slow::-1", "slow::1:1:1"):
        with pytest.raises(ValueError, match=r"KIND|called|numbers"):
            parse_fault(text)


def test_corruption_breaks_json_and_nothing_but_json() -> None:
    assert corrupt('x "y" [{"a":1}] done') == 'x "y" [{a":1}] done'
    assert corrupt("abcdef") == "abc"
    assert corrupt("") == ""
