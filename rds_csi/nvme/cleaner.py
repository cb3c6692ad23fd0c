"""The sweep at work: looks, decides, looks again under the locks of each orphan, and only then disconnects it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from rds_csi.blockdev.users import DeviceUsers
from rds_csi.errors import Aborted, ConfigurationError, DeadlineExceeded, DriverError
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.notices import Announce, Notice, Reason, announce_nothing
from rds_csi.nvme.decision import Decision, Hang, Snapshot, Verdict, decide, names
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sightings import Sightings, boottime
from rds_csi.nvme.snapshots import Moved, Rules, Snapshots, Staged
from rds_csi.retry import Clock

log = logging.getLogger(__name__)

# Seconds for one orphan, its last look included. A disconnect ends in 0.3 s, beside 500 sessions in some.
DISCONNECT_SECONDS = 30.0
# Disconnects at once: one that hangs keeps its place only until its time is over.
DISCONNECTS_AT_ONCE = 4
# Nodes of a cluster must not march in step.
JITTER = 0.1

Disconnect = Callable[[Session], Awaitable[None]]


class Result(StrEnum):
    """What came of a decision to disconnect."""

    DISCONNECTED = "disconnected"
    FAILED = "failed"
    HANGING = "hanging"
    # Used again at the last look, or gone by itself, or an operation had begun.
    SPARED = "spared"
    DRY_RUN = "dry run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and what was done: ``result`` is None where there was nothing to do. ``error`` tells why it failed."""

    verdict: Verdict
    result: Result | None = None
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether an orphan is still there that should not be."""
        return self.result in (Result.FAILED, Result.HANGING)


class OrphanCleaner:
    """Disconnects sessions of this driver that nobody uses any more, and nothing else."""

    def __init__(
        self,
        resolver: DeviceResolver,
        users: DeviceUsers,
        sightings: Sightings,
        *,
        disconnect: Disconnect,
        staged: Staged,
        locks: OperationLocks,
        moved: Moved,
        prefix: str,
        grace: float,
        sweep_unused: bool,
        metrics: Metrics,
        dry_run: bool = False,
        clock: Clock | None = None,
        random: Random | None = None,
        deadline: float = DISCONNECT_SECONDS,
        announce: Announce = announce_nothing,
    ) -> None:
        """``disconnect`` takes a session away and sees it gone. ``staged`` gives all stage records, ``moved`` the NQNs
        of volumes that are known to be attached elsewhere and not here. ``clock`` counts CLOCK_BOOTTIME;
        ``deadline`` is in seconds, for each disconnect. ``announce`` is told of each session that was disconnected.

        ConfigurationError for an empty ``prefix``, which would make every subsystem ours.
        """
        if not prefix:
            raise ConfigurationError("the sweep needs an NQN prefix", remedy="Set --nqn-prefix.")
        self._snapshots = Snapshots(
            resolver,
            users,
            sightings,
            staged=staged,
            moved=moved,
            locks=locks,
            rules=Rules(prefix, grace, sweep_unused),
        )
        self._sightings = sightings
        self._disconnect = disconnect
        self._locks = locks
        self._metrics = metrics
        self._dry_run = dry_run
        self._clock = clock or Clock(now=boottime)
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._deadline = deadline
        self._announce = announce
        self._places = asyncio.Semaphore(DISCONNECTS_AT_ONCE)
        # Disconnects that are under way, those included that the sweep no longer waits for.
        self._tasks: set[asyncio.Task[Outcome]] = set()
        # NQNs whose disconnect has begun and not come back.
        self._begun: set[str] = set()
        self._told: dict[tuple[str, str], tuple[Decision, bool]] = {}

    async def cleanup_orphaned_connections(self) -> Sequence[Outcome]:
        """One sweep: what was decided about every NVMe subsystem of this host, and what was done.

        One disconnect that fails or hangs holds up no other. Unavailable, ResourceExhausted or DeadlineExceeded
        when sysfs cannot be read. Cancelled at any moment it leaves no lock behind.
        """
        await self._sightings.load()
        snapshot = await self._snapshots.of_all(self._clock.now())
        verdicts = decide(snapshot)
        suspects = {v.nqn for v in verdicts if v.decision is Decision.DISCONNECT and _matters(v, snapshot)}
        if suspects:
            verdicts = decide(await self._snapshots.closer(snapshot, suspects))
        await self._remember(snapshot, verdicts)
        self._tell(verdicts)
        orphans = [verdict for verdict in verdicts if verdict.decision is Decision.DISCONNECT]
        acted = dict(
            zip(map(id, orphans), await asyncio.gather(*(self._act(v, snapshot) for v in orphans)), strict=True)
        )
        outcomes = [acted.get(id(verdict)) or Outcome(verdict) for verdict in verdicts]
        for decision, count in Counter(outcome.verdict.decision for outcome in outcomes).items():
            self._metrics.sweep_decisions.labels(decision.value).inc(count)
        if not self._dry_run:
            await self._sightings.store()
        return outcomes

    async def attempt(self) -> Sequence[Outcome] | None:
        """``cleanup_orphaned_connections``, counted; None when it failed, which is logged."""
        try:
            outcomes = await self.cleanup_orphaned_connections()
        except Exception as error:
            self._metrics.sweeps.labels("failed").inc()
            # Of an error on purpose the text is enough.
            log.error("the sweep failed: %s", error, exc_info=None if isinstance(error, DriverError) else error)
            return None
        self._metrics.sweeps.labels("ok").inc()
        self._metrics.sweep_last_success.set_to_current_time()
        return outcomes

    async def run(self, interval: float, tell: Callable[[Sequence[Outcome]], None] = lambda _: None) -> None:
        """For ever: wait ``interval`` seconds, more or less, sweep, and tell the outcomes. A sweep that fails is
        logged and counted, and the next one is made all the same."""
        while True:
            await self._clock.sleep(interval * (1 + self._random.uniform(-JITTER, JITTER)))
            outcomes = await self.attempt()
            if outcomes is not None:
                tell(outcomes)

    async def _remember(self, snapshot: Snapshot, verdicts: Sequence[Verdict]) -> None:
        self._sightings.update(
            [verdict.sighting for verdict in verdicts if verdict.sighting is not None],
            frozenset(verdict.nqn for verdict in verdicts if verdict.unsure),
            snapshot.now,
        )
        self._sightings.keep_hangs(
            {nqn: frozenset(map(names, sessions)) for nqn, sessions in snapshot.index.by_nqn.items()}
        )
        if not self._dry_run:
            # Before anything is done: a process that is killed half-way begins no grace anew.
            await self._sightings.store()

    async def _act(self, verdict: Verdict, snapshot: Snapshot) -> Outcome:
        if self._dry_run:
            return Outcome(verdict, Result.DRY_RUN)
        async with self._places:
            task = asyncio.create_task(self._disconnect_locked(verdict, snapshot), name=f"disconnect {verdict.nqn}")
            self._tasks.add(task)
            task.add_done_callback(self._end)
            try:
                await asyncio.wait({task}, timeout=self._deadline)
            finally:
                if not task.done():
                    # It holds its locks until it has really ended: nobody connects under a disconnect to come.
                    task.cancel()
            outcome = task.result() if task.done() else self._overdue(verdict)
        self._count(outcome)
        return outcome

    async def _disconnect_locked(self, verdict: Verdict, snapshot: Snapshot) -> Outcome:
        volumes = [record.volume_id for record in snapshot.records.get(verdict.nqn, ())]
        try:
            with self._locks.hold("sweep", verdict.nqn, *volumes):
                last = await self._look_again(verdict, snapshot)
                if last.decision is not Decision.DISCONNECT:
                    return Outcome(last, Result.SPARED)
                return await self._take_away(last)
        except Aborted as error:
            return Outcome(_spared(verdict, f"an operation has begun: {error.message}."), Result.SPARED)
        except DriverError as error:
            return Outcome(verdict, Result.FAILED, str(error))
        except Exception as error:
            log.exception("the sweep of %s broke", verdict.nqn)
            return Outcome(verdict, Result.FAILED, repr(error))

    async def _look_again(self, verdict: Verdict, snapshot: Snapshot) -> Verdict:
        """Everything of this one anew, now that no operation can begin."""
        fresh = await self._snapshots.again(verdict.nqn, snapshot, self._clock.now())
        first = next(iter(decide(fresh)), None)
        if first is None or names(first.session) != names(verdict.session):
            return _spared(verdict, "it has gone by itself, or is another session now.")
        if first.decision is Decision.DISCONNECT and _matters(first, fresh):
            first = next(iter(decide(await self._snapshots.closer(fresh, [verdict.nqn]))))
        return first

    async def _take_away(self, verdict: Verdict) -> Outcome:
        log.warning("disconnecting %s (%s): %s", verdict.nqn, verdict.session.states, verdict.reason)
        self._begun.add(verdict.nqn)
        try:
            await self._disconnect(verdict.session)
        except DeadlineExceeded as error:
            return self._hangs(verdict, error.message)
        finally:
            self._begun.discard(verdict.nqn)
        # The next of its name begins anew.
        self._sightings.forget(verdict.nqn)
        log.info("%s is disconnected", verdict.nqn)
        told = f"the orphaned session of {verdict.nqn} was disconnected: {verdict.reason}"
        self._announce(Notice(Reason.ORPHAN_DISCONNECTED, told, warning=True, nqn=verdict.nqn))
        return Outcome(verdict, Result.DISCONNECTED)

    def _overdue(self, verdict: Verdict) -> Outcome:
        how = f"no end within {self._deadline:g} s"
        if verdict.nqn in self._begun:
            return self._hangs(verdict, how)
        return Outcome(verdict, Result.FAILED, f"the last look at it: {how}; the next sweep tries again")

    def _hangs(self, verdict: Verdict, how: str) -> Outcome:
        log.error("the disconnect of %s hangs, and is not tried again while it does: %s", verdict.nqn, how)
        self._sightings.note_hang(verdict.nqn, Hang(names(verdict.session), self._clock.now()))
        return Outcome(verdict, Result.HANGING, how)

    def _end(self, task: asyncio.Task[Outcome]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Who waited may have gone: its failure is told to nobody else.
            task.exception()

    def _count(self, outcome: Outcome) -> None:
        result = {Result.DISCONNECTED: "ok", Result.SPARED: "spared"}.get(outcome.result or Result.FAILED, "failed")
        self._metrics.sweep_disconnects.labels(result).inc()
        if outcome.result is Result.SPARED:
            log.info("%s is spared: %s", outcome.verdict.nqn, outcome.verdict.reason)
        elif outcome.result is Result.FAILED:
            log.error("%s could not be disconnected: %s", outcome.verdict.nqn, outcome.error)

    def _tell(self, verdicts: Sequence[Verdict]) -> None:
        """Log what has changed since the last sweep, and at each one what somebody has to do."""
        told = {}
        for verdict in verdicts:
            key, state = (verdict.nqn, verdict.subsystem), (verdict.decision, verdict.sighting is not None)
            changed = state != self._told.get(key, (verdict.decision, False))
            level = logging.ERROR if verdict.urgent else logging.INFO if changed else logging.DEBUG
            log.log(level, "%s: %s: %s", verdict.decision, verdict.nqn, verdict.reason)
            told[key] = state
        self._told = told


def _matters(verdict: Verdict, snapshot: Snapshot) -> bool:
    """Whether a use would still save it: not one that has moved and is down, where each second counts."""
    return verdict.nqn not in snapshot.moved or verdict.session.is_live


def _spared(verdict: Verdict, reason: str) -> Verdict:
    return Verdict(verdict.session, Decision.KEEP, reason)
