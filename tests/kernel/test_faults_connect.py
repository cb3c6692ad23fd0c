"""NodeStage against portals, arrays, tools and kernels that fail: how it ends, when, and what it leaves (nothing)."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from grpclib.const import Status

from rds_csi.model.targets import NvmeTarget
from tests.kernel.conftest import MakeTarget
from tests.support.csi_calls import (
    CONNECTORS,
    NodeCalls,
    NodeServer,
    StaticVolume,
    all_controllers,
    controllers_of,
    eventually,
    failure_of,
    is_live,
    session_of,
    volume_on,
)
from tests.support.machine_state import MachineState
from tests.support.nvmet_target import MIB, NvmetTarget
from tests.support.portals import ClosingPortal, CountingPortal, HalfMutePortal, MutePortal
from tests.support.rpc import STAGE, RawClient
from tests.support.slow_stages import NQN_PREFIX, STRANGER, Slow, nowhere, slow_failures, unreachable
from tests.support.stand_ins import running

# Pauses of 1, 2, 4 and 8 s between five attempts (design, section 5).
PAUSES_SECONDS = 15.0
# A failure that is not retried has no pause in it; the machine is emulated, and others are busy at the same time.
AT_ONCE_SECONDS = 10.0


# --- What waits for its last attempt, or for a device that does not come: all of it at the same time.


@pytest.fixture(scope="module")
def slow(servers: dict[str, NodeServer]) -> dict[tuple[str, str], Slow]:
    """Every slow failure by its name and connector."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/run") as directory, ExitStack() as targets, unreachable():

        def export() -> NvmetTarget:
            return targets.enter_context(NvmetTarget(Path(directory), size=16 * MIB))

        before = MachineState.now()
        outcomes = asyncio.run(slow_failures(servers, export))
        # The targets that were made meanwhile are still there.
        left = [
            line
            for line in MachineState.now().left_since(before)
            if not line.startswith(("loop device", "configfs entry", f"file {directory}"))
        ]
        assert (left, all_controllers()) == ([], [])
        return outcomes


@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize(
    ("case", "words", "remedy", "most"),
    [
        ("refused", "refused", "listening", 25.0),
        # Each attempt waits for the answer to its SYN, at most 5 s.
        ("filtered", "did not answer in time", "firewall", 50.0),
        ("unreachable", "cannot be reached", "network", 25.0),
        ("unrouted", "cannot be reached", "network", 25.0),
        ("reset", "closed the connection", "restarting", 25.0),
    ],
)
def test_a_portal_that_stays_away_is_unavailable_with_portal_attempts_and_remedy(
    slow: dict[tuple[str, str], Slow], connector: str, case: str, words: str, remedy: str, most: float
) -> None:
    outcome = slow[case, connector]
    target = outcome.volume.target
    message = outcome.failure.message
    assert outcome.failure.status is Status.UNAVAILABLE, message
    for text in (target.nqn, f"{target.addresses[0]}:{target.port}", words, "5 attempts", remedy):
        assert text in message
    assert PAUSES_SECONDS < outcome.failure.seconds < most
    assert outcome.left == []


@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize("case", ["no device", "vanishing"])
def test_a_session_whose_device_does_not_come_is_undone(
    slow: dict[tuple[str, str], Slow], connector: str, case: str
) -> None:
    outcome = slow[case, connector]
    assert outcome.failure.status is Status.UNAVAILABLE, outcome.failure.message
    assert f"no device of {outcome.volume.target.nqn} appeared" in outcome.failure.message
    assert "namespace enabled" in outcome.failure.message
    assert outcome.left == []


@pytest.mark.parametrize("connector", CONNECTORS)
def test_a_device_smaller_than_its_volume_is_not_used(slow: dict[tuple[str, str], Slow], connector: str) -> None:
    outcome = slow["too small", connector]
    assert outcome.failure.status in {Status.DEADLINE_EXCEEDED, Status.FAILED_PRECONDITION}
    assert str(outcome.volume.size) in outcome.failure.message
    assert outcome.left == []


# --- What comes to an end sooner.


@pytest.mark.usefixtures("everything_goes")
async def test_a_target_that_comes_back_after_3_s_is_staged_by_the_same_call(
    servers: dict[str, NodeServer], nvmet_target: MakeTarget
) -> None:
    async def stage(server: NodeServer) -> None:
        exported = nvmet_target()
        volume = volume_on(exported, f"back-{server.connector}")
        exported.break_link()
        asyncio.get_running_loop().call_later(3.0, exported.restore)
        async with server.calls() as calls:
            begun = time.monotonic()
            await calls.stage(volume)
            # Attempts at 0, 1, 3 and 7 s; one a little earlier than the restoration is followed by a pause of 4 s.
            assert 3.0 < time.monotonic() - begun < 7.0 + AT_ONCE_SECONDS
            assert len(controllers_of(exported.nqn)) == 1
            await calls.unstage(volume)

    await asyncio.gather(*(stage(server) for server in servers.values()))


@pytest.mark.usefixtures("everything_goes")
async def test_what_no_repetition_mends_fails_at_once(servers: dict[str, NodeServer], nvmet_target: MakeTarget) -> None:
    async def refused(calls: NodeCalls, volume: StaticVolume, *words: str) -> None:
        failure = await failure_of(calls.stage(volume))
        assert failure.status is Status.FAILED_PRECONDITION, failure.message
        assert [word for word in words if word not in failure.message] == [], failure.message
        assert failure.seconds < AT_ONCE_SECONDS
        assert controllers_of(volume.target.nqn) == []

    async with AsyncExitStack() as stack:
        cases = []
        for name, server in servers.items():
            calls = await stack.enter_async_context(server.calls())
            exported, closed, other = nvmet_target(), nvmet_target(), nvmet_target()
            closed.allow_only("nqn.2026-01.io.example:somebody-else")
            unknown = NvmeTarget(f"{exported.nqn}-x", (exported.address,), exported.port, exported.uuid)
            stranger = NvmeTarget(other.nqn, (other.address,), other.port, STRANGER)
            cases += [
                refused(calls, StaticVolume(f"unknown-{name}", unknown), "NQN is unknown", f":{exported.port}"),
                refused(calls, volume_on(closed, f"closed-{name}"), "not allowed", "is exported", f":{closed.port}"),
                refused(calls, StaticVolume(f"stranger-{name}", stranger), STRANGER, other.uuid, "another volume"),
            ]
        await asyncio.gather(*cases)


@pytest.mark.usefixtures("everything_goes")
@pytest.mark.parametrize(("portal", "deadline"), [(MutePortal, 6.0), (HalfMutePortal, 3.0)])
async def test_a_mute_target_costs_no_more_than_the_callers_deadline(
    servers: dict[str, NodeServer], portal: type[MutePortal | HalfMutePortal], deadline: float
) -> None:
    async def stage(server: NodeServer, mute: CountingPortal) -> None:
        volume = nowhere(f"{portal.__name__.lower()}-{server.connector}", mute.address, mute.port)
        async with server.calls() as calls, RawClient.connected(str(server.driver.socket)) as client:
            begun = time.monotonic()
            answer = await client.call(STAGE, bytes(calls.request(volume)), grpc_timeout=f"{deadline * 1000:.0f}m")
            seconds = time.monotonic() - begun
        # Told with its reason a moment before the caller gives up, where there was time to learn one.
        assert answer.code in {Status.UNAVAILABLE.value, Status.DEADLINE_EXCEEDED.value}, answer.text
        assert mute.portal in answer.text or "deadline" in answer.text
        # What the call had begun is ended and undone before it answers.
        assert seconds < deadline + 1.0
        ended = [Status(answer.code).name]
        await eventually(lambda: server.ends(volume.volume_id) == ended, "the call has ended", seconds=1.0)

    with admin_timeout(5):
        async with AsyncExitStack() as stack:
            mutes = {name: await stack.enter_async_context(portal()) for name in servers}
            await asyncio.gather(*(stage(server, mutes[name]) for name, server in servers.items()))
            # A Connect that was never answered cannot be interrupted, nor can one that waits behind it: the kernel
            # makes one after the other, and ends them by its own timeout.
            patience = 1.0 if portal is MutePortal else 15.0
            await eventually(lambda: running() == [], "no child runs on", seconds=patience)
            settled = time.monotonic() + 0.5
            await asyncio.sleep(2.5)
            assert [mute.since(settled) for mute in mutes.values()] == [0] * len(mutes)
            assert all_controllers() == []


@contextmanager
def admin_timeout(seconds: int) -> Iterator[None]:
    """How long the kernel waits for the answer to an admin command (nvme_core.admin_timeout, 60 s by default)."""
    parameter = Path("/sys/module/nvme_core/parameters/admin_timeout")
    before = parameter.read_text()
    parameter.write_text(str(seconds))
    try:
        yield
    finally:
        parameter.write_text(before)


@pytest.mark.usefixtures("everything_goes")
async def test_a_client_that_cancels_ends_attempts_and_children_within_a_second(
    servers: dict[str, NodeServer], nvmet_target: MakeTarget
) -> None:
    async def cancel(calls: NodeCalls, volume: StaticVolume, begun: Callable[[], bool]) -> None:
        stage = asyncio.create_task(calls.stage(volume))
        await eventually(begun, f"{volume.volume_id} is under way")
        stage.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage

    async with AsyncExitStack() as stack:
        portals: list[ClosingPortal | MutePortal] = []
        volumes: dict[StaticVolume, NodeServer] = {}
        cancels = []
        for name, server in servers.items():
            calls = await stack.enter_async_context(server.calls())
            closing = await stack.enter_async_context(ClosingPortal())
            mute = await stack.enter_async_context(MutePortal())
            empty = nvmet_target()
            empty.disable_namespace()
            between = nowhere(f"cancel-between-{name}", closing.address, closing.port)
            inside = nowhere(f"cancel-inside-{name}", mute.address, mute.port)
            waiting = volume_on(empty, f"cancel-waiting-{name}")
            portals += [closing, mute]
            cancels += [
                cancel(calls, between, lambda portal=closing: len(portal.attempts) >= 2),  # type: ignore[misc]
                cancel(calls, inside, lambda portal=mute: len(portal.attempts) >= 1),  # type: ignore[misc]
                cancel(calls, waiting, lambda nqn=empty.nqn: is_live(nqn)),  # type: ignore[misc]
            ]
            volumes |= dict.fromkeys((between, inside, waiting), server)
        await asyncio.gather(*cancels)
        moment = time.monotonic()

        def is_over() -> bool:
            ended = all(server.ends(volume.volume_id) == ["CANCELLED"] for volume, server in volumes.items())
            return ended and not running() and not any(controllers_of(volume.target.nqn) for volume in volumes)

        await eventually(is_over, "all calls have ended and undone what they did", seconds=1.0)
        # The next attempts would have come within 4 s.
        await asyncio.sleep(4.5)
        assert [portal.since(moment + 1.0) for portal in portals] == [0] * len(portals)


async def test_of_two_stages_at_once_one_works_and_one_is_aborted(calls: NodeCalls, nvmet_target: MakeTarget) -> None:
    volume = volume_on(nvmet_target(), "twice")

    outcomes = await asyncio.gather(calls.stage(volume), calls.stage(volume), return_exceptions=True)

    (failure,) = (outcome for outcome in outcomes if outcome is not None)
    assert getattr(failure, "status", None) is Status.ABORTED, failure
    assert len(controllers_of(volume.target.nqn)) == 1
    await calls.unstage(volume)


async def test_the_longest_nqn_that_linux_takes_is_staged_and_a_longer_one_refused_at_once(
    calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    # The specification allows 223 bytes; nvmf_parse_options() of drivers/nvme/host/fabrics.c wants fewer than that.
    longest, longer = (nvmet_target(nqn=NQN_PREFIX + "x" * (length - len(NQN_PREFIX))) for length in (222, 223))
    volume = volume_on(longest, "longest")
    await calls.stage(volume)
    session = session_of(longest.nqn)
    assert session is not None
    assert len(session.nqn) == 222
    await calls.unstage(volume)

    failure = await failure_of(calls.stage(volume_on(longer, "longer")))

    assert failure.status is Status.INVALID_ARGUMENT, failure.message
    assert longer.nqn in failure.message
    assert failure.seconds < AT_ONCE_SECONDS
