"""Keeps the sessions of staged volumes: follows them, and connects again what the kernel has given up.

What merely is away, the kernel reconnects by itself (``ctrl_loss_tmo``). It does not come back from a loss timeout,
nor, from Linux 6.12 on, from a target that answers "do not retry" (NVMe Base Specification 2.0, status field DNR).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any

import anyio

from rds_csi.errors import Aborted, DeadlineExceeded, DriverError
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.notices import Announce, Notice, Reason, announce_nothing
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.outages import Condition, Moment, Watched, condition_of
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.uevents import Bell, Uevent, Uevents
from rds_csi.retry import Clock
from rds_csi.tasks import finish

log = logging.getLogger(__name__)

# Seconds between two looks when nothing is announced: from live to connecting the kernel announces nothing.
LOOK_SECONDS = 5.0
# Seconds between two looks when much is announced: hundreds of sessions may go at once.
PAUSE_SECONDS = 0.25
# The share of reconnect_delay that is added at most, so that the nodes of a cluster do not knock in step.
JITTER = 0.1
# Seconds for one attempt; a connector gives up earlier by itself.
ATTEMPT_SECONDS = 120.0
# Seconds for cancelled attempts to undo what they have begun, when the server stops: Kubernetes kills it after 30
# in all (terminationGracePeriodSeconds), and its calls may take 25 of them to end.
UNDO_SECONDS = 4.0
# Seconds between two tries to get the volume's lock after an attempt, and how many there are: the longest running
# operation (a repair of the filesystem) takes ten minutes.
LOCKED_SECONDS = 1.0
LOCKED_TRIES = 900

_OPERATION = "the reconnect of a lost session"

Staged = Callable[[], Awaitable[Sequence[StageRecord]]]
Attempt = Callable[[NvmeTarget, ConnectionConfig], Awaitable[None]]
Drop = Callable[[NvmeTarget], Coroutine[Any, Any, None]]


class SessionKeeper:
    """Follows the sessions of the volumes that are staged here. One object a node."""

    def __init__(
        self,
        resolver: DeviceResolver,
        uevents: Uevents,
        *,
        staged: Staged,
        attempt: Attempt,
        drop: Drop,
        locks: OperationLocks,
        metrics: Metrics,
        clock: Clock | None = None,
        random: Random | None = None,
        wall_clock: Callable[[], float] = time.time,
        announce: Announce = announce_nothing,
    ) -> None:
        """``staged`` gives the records of the volumes that are staged now; ``attempt`` tries once to have every
        portal connected; ``drop`` disconnects it, and raises when it is in use. ``locks`` are the node service's;
        ``announce`` is told of each outage once, and of its end."""
        self._resolver = resolver
        self._uevents = uevents
        self._staged = staged
        self._attempt = attempt
        self._drop = drop
        self._locks = locks
        self._metrics = metrics
        self._clock = clock or Clock()
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._wall_clock = wall_clock
        self._announce = announce
        self._watched: dict[str, Watched] = {}
        self._attempts: dict[str, asyncio.Task[None]] = {}
        # Subsystems and controllers of the watched sessions, as sysfs names them, with their NQNs.
        self._names: dict[str, str] = {}
        self._bell: Bell | None = None
        self._said = ""

    async def run(self) -> None:
        """Look again and again; a look that fails is logged, and the next one is made all the same."""
        try:
            with self._uevents.listening(self._concerns, self._clock.sleep) as bell:
                self._bell = bell
                while True:
                    await self._look_safely()
                    await self._clock.sleep(PAUSE_SECONDS)
                    await bell.sleep(self._pause())
        finally:
            await self._end_attempts()

    async def look(self) -> None:
        """Look once: tell what changed, and begin the attempts that are due."""
        staged = await self._staged_sessions()
        # Not all there are: a look must cost nothing where other sessions are many and few volumes staged.
        sessions = await self._resolver.sessions(staged)
        if any(self._is_new_loss(nqn, sessions) for nqn in staged):
            # One that was unstaged while we looked is not lost.
            again = await self._staged_sessions()
            staged = {nqn: again[nqn] for nqn in staged if nqn in again}
        self._watched = {
            nqn: self._watched.get(nqn) or Watched(record, target) for nqn, (record, target) in staged.items()
        }
        for nqn, watched in self._watched.items():
            watched.record, watched.target = staged[nqn]
            self._see(watched, sessions.get(nqn))
        self._names = {
            name: nqn
            for nqn in self._watched
            if (session := sessions.get(nqn)) is not None
            for name in (session.subsystem, *(controller.name for controller in session.controllers))
        }
        self._count()
        for watched in self._watched.values():
            self._begin_attempt(watched)

    def trouble(self, nqn: str) -> str:
        """Why the session of a staged volume is not back, or not with every portal, in one sentence with since when
        and the last failure; "" when all is well, and for a volume that is not staged here."""
        watched = self._watched.get(nqn)
        return watched.trouble() if watched is not None else ""

    def troubles(self) -> Mapping[str, str]:
        """``trouble`` of every staged volume that has any, by NQN."""
        return {nqn: said for nqn, watched in self._watched.items() if (said := watched.trouble())}

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if said != self._said:
                log.error(
                    "the sessions of staged volumes could not be looked at: %s",
                    said,
                    exc_info=not isinstance(error, DriverError),
                )
            self._said = said
        else:
            self._said = ""

    async def _staged_sessions(self) -> dict[str, tuple[StageRecord, NvmeTarget]]:
        return {
            record.target.nqn: (record, record.target)
            for record in await self._staged()
            if isinstance(record.target, NvmeTarget)
        }

    def _is_new_loss(self, nqn: str, sessions: Mapping[str, Session]) -> bool:
        known = self._watched.get(nqn)
        was_lost = known is not None and known.condition is Condition.LOST
        return not was_lost and condition_of(sessions.get(nqn)) is Condition.LOST

    def _see(self, watched: Watched, session: Session | None) -> None:
        if condition_of(session) is not Condition.LIVE and self._is_held(watched):
            # A stage that has not connected yet, or an unstage that disconnects.
            return
        change = watched.see(session, self._now)
        for sentence in change.sentences:
            log.log(logging.INFO if watched.is_well else logging.WARNING, "%s", sentence)
        if change.loss:
            self._tell(watched, Reason.SESSION_LOST, change.loss)
        if change.outage is not None:
            self._metrics.outage_seconds.observe(change.outage)
            back = f"the session of {watched.target.nqn} is live again after {change.outage:.0f} s"
            self._tell(watched, Reason.SESSION_RECOVERED, back)

    def _tell(self, watched: Watched, reason: Reason, message: str) -> None:
        is_bad = reason is Reason.SESSION_LOST
        volume_id, nqn = watched.record.volume_id, watched.target.nqn
        self._announce(Notice(reason, message, warning=is_bad, volume_id=volume_id, nqn=nqn))

    def _count(self) -> None:
        watched = self._watched.values()
        self._metrics.sessions_lost.set(sum(item.condition is Condition.LOST for item in watched))
        self._metrics.portals_missing.set(sum(len(item.missing) for item in watched))

    def _begin_attempt(self, watched: Watched) -> None:
        now, nqn = self._clock.now(), watched.target.nqn
        if not self._may_attempt(watched) or now < watched.next_attempt:
            return
        delay = watched.record.config.reconnect_delay
        watched.next_attempt = now + delay * (1 + JITTER * self._random.random())
        task = asyncio.create_task(self._reconnect(watched), name=f"reconnect {nqn}")
        self._attempts[nqn] = task
        task.add_done_callback(lambda _: self._attempt_ended(nqn))

    def _may_attempt(self, watched: Watched) -> bool:
        """Whether something is to be brought back, and nobody is at it."""
        return watched.lacks_something and watched.target.nqn not in self._attempts and not self._is_held(watched)

    def _attempt_ended(self, nqn: str) -> None:
        del self._attempts[nqn]
        if self._bell is not None:
            self._bell.ring()

    async def _reconnect(self, watched: Watched) -> None:
        """One attempt, in a task of its own: whatever becomes of it, the other volumes do not wait for it."""
        try:
            await self._attempt_in_time(watched)
        except Exception as error:
            self._metrics.reconnects.labels("failed").inc()
            self._note_failure(watched, error)
        else:
            self._metrics.reconnects.labels("ok").inc()
            watched.failure = ""
        try:
            # After a failure too: of several portals one may have been connected.
            await self._drop_unless_staged(watched)
        except Exception as error:
            log.warning("a session of %s may be left, the sweep finds it: %s", watched.target.nqn, error)

    async def _attempt_in_time(self, watched: Watched) -> None:
        scope = asyncio.timeout(ATTEMPT_SECONDS)
        try:
            async with scope:
                await self._attempt(watched.target, watched.record.config)
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(f"an attempt had not ended after {ATTEMPT_SECONDS:g} s") from None

    def _note_failure(self, watched: Watched, error: Exception) -> None:
        known = isinstance(error, DriverError)
        failure = str(error) if known else f"{type(error).__name__}: {error}"
        level = logging.WARNING if failure != watched.failure else logging.DEBUG
        watched.failure = failure
        log.log(
            level,
            "%s of volume %s was not connected again: %s",
            watched.target.nqn,
            watched.record.volume_id,
            failure,
            exc_info=not known and level == logging.WARNING,
        )

    async def _drop_unless_staged(self, watched: Watched) -> None:
        """An unstage that ran meanwhile found no session to disconnect: then what was made here goes again."""
        nqn, volume_id = watched.target.nqn, watched.record.volume_id
        for _ in range(LOCKED_TRIES):
            # Without the lock, which would turn calls away: an unstage that begins later finds the session.
            if not self._is_held(watched) and nqn in await self._staged_sessions():
                return
            try:
                with self._locks.hold(_OPERATION, volume_id, nqn):
                    session = await self._resolver.session(nqn)
                    if session is None or not session.controllers or nqn in await self._staged_sessions():
                        return
                    log.warning("volume %s was unstaged meanwhile: %s is disconnected again", volume_id, nqn)
                    await finish(self._drop(watched.target))
                    return
            except Aborted:
                await self._clock.sleep(LOCKED_SECONDS)
        log.warning("volume %s is busy, so whether %s is still needed is left to the sweep", volume_id, nqn)

    def _concerns(self, event: Uevent) -> bool:
        """Whether a uevent may tell something new: of a watched session that nobody works on, or of any while
        something is lacking. A stage or unstage goes on faster when nobody looks on."""
        if not _is_nvme(event):
            return False
        if any(watched.condition is not Condition.LIVE for watched in self._watched.values()):
            return True
        nqns = {nqn for name in event.devpath.split("/") if (nqn := self._names.get(name))}
        return any(not self._locks.is_held(nqn) for nqn in nqns)

    def _is_held(self, watched: Watched) -> bool:
        return self._locks.is_held(watched.record.volume_id) or self._locks.is_held(watched.target.nqn)

    def _now(self) -> Moment:
        return Moment(self._clock.now(), self._wall_clock())

    def _pause(self) -> float:
        """Until the next attempt is due, at most LOOK_SECONDS."""
        due = [item.next_attempt for item in self._watched.values() if self._may_attempt(item)]
        return min([LOOK_SECONDS, *(max(0.0, moment - self._clock.now()) for moment in due)])

    async def _end_attempts(self) -> None:
        attempts = list(self._attempts.values())
        for task in attempts:
            task.cancel()
        # Shielded: they undo what they have begun, and anyio cancels again at every await.
        with anyio.move_on_after(UNDO_SECONDS, shield=True):
            await asyncio.gather(*attempts, return_exceptions=True)


def _is_nvme(event: Uevent) -> bool:
    return event.subsystem in ("nvme", "nvme-subsystem") or (
        event.subsystem == "block" and event.devname.startswith("nvme")
    )
