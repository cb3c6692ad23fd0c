"""The keeper of sessions on made-up trees: what it tells, what it tries, and at which pace."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import anyio
import pytest

from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import FileTarget, NvmeTarget, Target
from rds_csi.nvme.keeper import LOOK_SECONDS, PAUSE_SECONDS, UNDO_SECONDS, SessionKeeper
from rds_csi.nvme.outages import missing_portals
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.uevents import Uevents
from rds_csi.workers import Workers
from tests.support.clock import FakeClock
from tests.support.nvme_tree import NvmeTree
from tests.support.rpc import eventually

NQN, OTHER_NQN = "nqn.2026-01.io.example:v0", "nqn.2026-01.io.example:v1"
TARGET = NvmeTarget(NQN, ("192.0.2.1",))
OTHER = NvmeTarget(OTHER_NQN, ("192.0.2.1",))
TWO_PORTALS = NvmeTarget(NQN, ("192.0.2.1", "192.0.2.2"))
DELAY = ConnectionConfig().reconnect_delay
# 2026-11-21 10:00:00 UTC.
WALL = 1_795_255_200.0


def record(target: Target, volume_id: str = "v0") -> StageRecord:
    return StageRecord(
        volume_id, f"/staging/{volume_id}", target, ConnectionConfig(), 1 << 30, "token", "boot", block=True
    )


def no_uevents() -> Uevents:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    return Uevents(refuse)  # type: ignore[arg-type]  # never returns


class Bench:
    """A keeper, the tree that it looks at, and a connector that does as it is told."""

    def __init__(self, root: Path, *targets: Target, multipath: bool = True) -> None:
        self.tree = NvmeTree(root, multipath=multipath)
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.locks = OperationLocks()
        self.records: list[StageRecord] = [record(target, f"v{n}") for n, target in enumerate(targets or (TARGET,))]
        self.attempts: list[tuple[str, float]] = []
        self.dropped: list[str] = []
        self.in_use: set[str] = set()
        self.effects: dict[str, Callable[[], object]] = {}
        self.hanging: dict[str, asyncio.Event] = {}
        # One is called after each time that the staged volumes were asked for.
        self.after_staged: list[Callable[[], object]] = []
        self.numbers: dict[str, int] = {}
        self.keeper = self.make(self._attempt)

    def make(self, attempt: Callable[[NvmeTarget, ConnectionConfig], Awaitable[None]]) -> SessionKeeper:
        """A keeper that connects by ``attempt``."""
        return SessionKeeper(
            DeviceResolver(self.tree.host, Workers()),
            no_uevents(),
            staged=self._staged,
            attempt=attempt,
            drop=self._drop,
            locks=self.locks,
            metrics=self.metrics,
            clock=self.clock.clock,
            random=Random(1),
            wall_clock=lambda: WALL + self.clock.seconds,
        )

    def connect(self, nqn: str = NQN, *, state: str = "live", traddr: str = "192.0.2.1") -> None:
        self.numbers[nqn] = self.tree.add_session(nqn, state=state, traddr=traddr)
        self.tree.add_namespace(self.numbers[nqn])

    def lose(self, nqn: str = NQN) -> None:
        self.tree.remove_session(self.numbers[nqn])

    async def look(self, *, after: float = 0.0) -> None:
        """One look, with the attempts that it began run as far as they get."""
        self.clock.seconds += after
        await self.keeper.look()
        await self.settle()

    async def settle(self) -> None:
        """Attempts that do not hang come to their end."""
        await asyncio.sleep(0)
        hanging = {f"reconnect {nqn}" for nqn, end in self.hanging.items() if not end.is_set()}
        for task in asyncio.all_tasks():
            if task.get_name().startswith("reconnect") and task.get_name() not in hanging:
                await asyncio.wait((task,))
        await asyncio.sleep(0)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"rds_csi_nvme_{name}", labels) or 0.0

    @property
    def trouble(self) -> str:
        return self.keeper.trouble(NQN)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.keeper.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _staged(self) -> Sequence[StageRecord]:
        answer = tuple(self.records)
        if self.after_staged:
            self.after_staged.pop(0)()
        return answer

    async def _attempt(self, target: NvmeTarget, config: ConnectionConfig) -> None:
        assert config == ConnectionConfig()
        self.attempts.append((target.nqn, self.clock.seconds))
        if target.nqn in self.hanging:
            await self.hanging[target.nqn].wait()
        if target.nqn not in self.effects:
            raise Unavailable("192.0.2.1:4420 refused the connection")
        self.effects[target.nqn]()

    async def _drop(self, target: NvmeTarget) -> None:
        assert self.locks.is_held(target.nqn)
        if target.nqn in self.in_use:
            raise FailedPrecondition(f"{target.nqn} is in use")
        self.dropped.append(target.nqn)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_sessions_of_volumes_that_are_not_staged_are_not_looked_at(bench: Bench) -> None:
    bench.connect()
    await bench.look()
    bench.connect("nqn.2026-01.io.example:foreign")
    unreadable = bench.tree.path("sys/class/nvme-subsystem/nvme-subsys1/subsysnqn")
    unreadable.unlink()
    unreadable.mkdir()
    await bench.look(after=LOOK_SECONDS)
    assert bench.keeper.troubles() == {}
    bench.records.clear()
    await bench.look(after=LOOK_SECONDS)


async def test_a_session_that_is_well_is_left_alone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.connect()
    await bench.look()
    await bench.look(after=60)
    assert bench.trouble == ""
    assert bench.attempts == []
    assert caplog.messages == []


async def test_an_outage_is_told_once_with_its_length(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.connect()
    await bench.look()
    bench.tree.set_state(0, "connecting")
    await bench.look(after=10)
    assert "since 2026-11-21 10:00:10 UTC" in bench.trouble
    assert "nvme0 (192.0.2.1:4420) connecting" in bench.trouble
    await bench.look(after=10)
    assert "since 2026-11-21 10:00:10 UTC" in bench.trouble
    bench.tree.set_state(0, "live")
    await bench.look(after=5)
    await bench.look(after=5)
    assert bench.trouble == ""
    assert bench.attempts == []
    away, back = caplog.records
    assert away.levelno == logging.WARNING
    assert "(volume v0) is away" in away.getMessage()
    assert back.levelno == logging.INFO
    assert back.getMessage().endswith("live again after 15 s")
    assert bench.value("outage_duration_seconds_sum") == 15
    assert bench.value("outage_duration_seconds_count") == 1


async def test_what_the_kernel_gave_up_is_connected_again_at_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.connect()
    await bench.look()
    bench.tree.set_state(0, "connecting")
    await bench.look(after=5)
    bench.lose()
    bench.effects[NQN] = bench.connect
    await bench.look(after=5)
    assert bench.attempts == [(NQN, 10)]
    assert bench.value("sessions_lost") == 1
    await bench.look(after=1)
    assert bench.trouble == ""
    assert bench.value("sessions_lost") == 0
    assert bench.value("reconnects_total", result="ok") == 1
    assert bench.value("outage_duration_seconds_sum") == 6
    assert bench.dropped == []
    assert [message.partition("(volume v0) ")[2].partition(";")[0] for message in caplog.messages] == [
        "is away, I/O waits: nvme0 (192.0.2.1:4420) connecting",
        "was given up by the kernel",
        "is live again after 6 s",
    ]


async def test_a_failed_attempt_is_repeated_every_reconnect_delay(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(200):
        await bench.look(after=0.25)
    moments = [moment for _, moment in bench.attempts]
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert moments[0] == 0.25
    assert len(moments) >= 8
    assert all(DELAY <= pause <= DELAY * 1.1 + 0.25 for pause in pauses)
    assert len(set(pauses)) > 1
    assert bench.value("reconnects_total", result="failed") == len(moments)
    assert "given it up" in bench.trouble
    assert "every 5 s" in bench.trouble
    assert bench.trouble.endswith("192.0.2.1:4420 refused the connection")
    # One failure that goes on is told once.
    assert sum("not connected again" in message for message in caplog.messages) == 1


async def test_a_session_that_goes_again_and_again_is_not_connected_faster(bench: Bench) -> None:
    bench.effects[NQN] = bench.connect
    await bench.look()
    bench.lose()
    await bench.look(after=0.25)
    await bench.look(after=0.25)
    assert len(bench.attempts) == 1
    await bench.look(after=DELAY * 1.1)
    assert len(bench.attempts) == 2


async def test_a_left_over_without_controllers_is_lost(bench: Bench) -> None:
    bench.connect()
    await bench.look()
    bench.tree.path("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0").unlink()
    await bench.look()
    assert [nqn for nqn, _ in bench.attempts] == [NQN]
    assert bench.value("sessions_lost") == 1


async def test_an_attempt_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TARGET, OTHER)
    bench.hanging[NQN] = asyncio.Event()
    bench.effects[NQN] = bench.connect
    bench.effects[OTHER_NQN] = lambda: bench.connect(OTHER_NQN)
    await bench.look()
    await bench.look(after=60)
    assert bench.keeper.trouble(OTHER_NQN) == ""
    assert bench.keeper.troubles() == {NQN: bench.trouble}
    # One attempt at a time.
    assert sorted(nqn for nqn, _ in bench.attempts) == [NQN, OTHER_NQN]
    bench.hanging[NQN].set()
    await bench.settle()
    await bench.look()
    assert bench.trouble == ""


async def test_what_was_unstaged_meanwhile_is_disconnected_again(bench: Bench) -> None:
    bench.hanging[NQN] = asyncio.Event()
    bench.effects[NQN] = bench.connect
    await bench.look()
    bench.records.clear()
    await bench.look()
    assert bench.trouble == ""
    bench.hanging[NQN].set()
    await bench.settle()
    assert bench.dropped == [NQN]


async def test_an_unstage_that_is_running_is_waited_for_before_the_session_is_judged(bench: Bench) -> None:
    bench.hanging[NQN] = asyncio.Event()
    bench.effects[NQN] = bench.connect
    await bench.look()
    unstage = bench.locks.hold("NodeUnstageVolume", "v0")
    unstage.__enter__()
    ended = asyncio.Event()

    def end() -> None:
        bench.records.clear()
        unstage.__exit__(None, None, None)
        ended.set()

    bench.clock.at_first_pause = end
    bench.hanging[NQN].set()
    async with asyncio.timeout(10):
        await ended.wait()
    await bench.settle()
    assert bench.dropped == [NQN]


async def test_a_half_made_session_of_a_volume_unstaged_meanwhile_goes_as_well(bench: Bench) -> None:
    def fail_after_one_portal() -> None:
        bench.connect()
        bench.records.clear()
        raise Unavailable("192.0.2.2:4420 refused the connection")

    bench.effects[NQN] = fail_after_one_portal
    await bench.look()
    assert bench.dropped == [NQN]


async def test_a_session_that_is_in_use_is_left_to_the_sweep(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def connect_what_somebody_uses_at_once() -> None:
        bench.connect()
        bench.records.clear()
        bench.in_use.add(NQN)

    bench.effects[NQN] = connect_what_somebody_uses_at_once
    await bench.look()
    assert "may be left, the sweep finds it" in caplog.text


async def test_a_volume_that_is_being_worked_on_is_not_connected_behind_its_back(bench: Bench) -> None:
    with bench.locks.hold("NodeStageVolume", "v0"):
        await bench.look()
        assert bench.attempts == []
        assert bench.trouble == ""
    await bench.look()
    assert len(bench.attempts) == 1


@pytest.mark.parametrize("key", ["v0", NQN])
async def test_a_lost_session_is_not_tried_while_its_volume_is_being_worked_on(bench: Bench, key: str) -> None:
    await bench.look()
    assert len(bench.attempts) == 1
    with bench.locks.hold("NodeUnstageVolume", key):
        await bench.look(after=2 * DELAY)
        assert len(bench.attempts) == 1
    await bench.look()
    assert len(bench.attempts) == 2


async def test_what_an_unstage_does_to_the_session_is_no_outage(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.connect()
    await bench.look()
    with bench.locks.hold("NodeUnstageVolume", "v0"):
        bench.tree.set_state(0, "deleting (no IO)")
        await bench.look()
        bench.lose()
        await bench.look()
    bench.records.clear()
    await bench.look()
    assert caplog.messages == []
    assert bench.attempts == []


async def test_a_volume_unstaged_during_the_look_is_not_lost(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.after_staged.append(bench.records.clear)
    await bench.look()
    assert bench.attempts == []
    assert caplog.messages == []


async def test_a_missing_portal_is_tried_and_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TWO_PORTALS)
    bench.connect()
    await bench.look()
    assert len(bench.attempts) == 1
    assert bench.value("portals_missing") == 1
    assert bench.value("sessions_lost") == 0
    await bench.look(after=1)
    assert "192.0.2.2:4420 since 2026-11-21 10:00:00 UTC" in bench.trouble
    bench.effects[NQN] = lambda: bench.tree.add_path(0, NQN, traddr="192.0.2.2")
    await bench.look(after=DELAY * 1.1)
    await bench.look()
    assert len(bench.attempts) == 2
    assert bench.value("portals_missing") == 0
    assert bench.trouble == ""


async def test_without_native_multipath_one_portal_is_enough(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TWO_PORTALS, multipath=False)
    bench.connect()
    await bench.look()
    assert bench.attempts == []
    assert bench.value("portals_missing") == 0


@pytest.mark.parametrize(
    ("addresses", "traddr", "missing"),
    [
        (("2001:db8::1",), "2001:db8:0:0:0:0:0:1", ()),
        (("array.example",), "192.0.2.1", ()),
        (("192.0.2.1", "array.example"), "192.0.2.1", ("array.example:4420",)),
        (("192.0.2.2", "array.example"), "192.0.2.1", ("192.0.2.2:4420",)),
    ],
)
async def test_a_portal_is_known_by_any_spelling(
    tmp_path: Path, addresses: tuple[str, ...], traddr: str, missing: tuple[str, ...]
) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_namespace(tree.add_session(NQN, traddr=traddr))
    session = await DeviceResolver(tree.host, Workers()).session(NQN)
    assert missing_portals(NvmeTarget(NQN, addresses), session) == missing


async def test_a_volume_of_another_kind_is_none_of_its_business(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FileTarget("/images/v0"))
    await bench.look()
    assert bench.attempts == []


async def test_errors_never_end_it_and_are_told_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> Callable[[], object]:
        def failing() -> None:
            raise error

        return failing

    bench.after_staged += [fail(FailedPrecondition("the records cannot be read"))] * 3 + [
        fail(RuntimeError("broken"))
    ] * 3
    async with bench.running() as task:
        await eventually(lambda: bool(bench.attempts), "an attempt")
        assert not task.done()
    told = [message for message in caplog.messages if "could not be looked at" in message]
    assert [message.rpartition(": ")[2] for message in told] == ["the records cannot be read", "broken"]


async def test_it_looks_at_its_pace_and_sooner_for_an_attempt_that_is_due(bench: Bench) -> None:
    bench.connect()
    async with bench.running():
        await eventually(lambda: len(bench.clock.pauses) >= 6, "three looks")
        assert set(bench.clock.pauses[:6]) == {PAUSE_SECONDS, LOOK_SECONDS}
        bench.lose()
        await eventually(lambda: len(bench.attempts) >= 4, "four attempts")
    moments = [moment for _, moment in bench.attempts]
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert all(DELAY <= pause <= DELAY * 1.1 + PAUSE_SECONDS for pause in pauses)


async def test_a_shutdown_leaves_no_task_and_lets_attempts_undo_what_they_began(bench: Bench) -> None:
    undone = []

    async def attempt_and_undo(target: NvmeTarget, config: ConnectionConfig) -> None:
        try:
            bench.attempts.append((target.nqn, 0))
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            undone.append(target.nqn)

    keeper = bench.make(attempt_and_undo)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        await eventually(lambda: bool(bench.attempts), "an attempt")
        tasks.cancel_scope.cancel()
    assert undone == [NQN]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("reconnect")]


def test_a_shutdown_ends_before_kubernetes_kills_the_driver() -> None:
    # 30 s in all, of which the running calls may take 25.
    assert UNDO_SECONDS < 30 - 25
