"""What becomes of a staged volume's session: live, away, given up by the kernel, and the portals that it lacks."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum

from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sessions import Session


class Condition(Enum):
    """How a session is, as far as it concerns the I/O of its volume."""

    LIVE = "live"
    # Controllers are there, but none of them live: the kernel works on it, and I/O waits.
    AWAY = "away"
    # No controller is there: the kernel gave it up (ctrl_loss_tmo, "do not retry"), or somebody disconnected it.
    LOST = "lost"


def condition_of(session: Session | None) -> Condition:
    """The condition of a session; None is a subsystem that the kernel does not know."""
    if session is None or not session.controllers:
        return Condition.LOST
    return Condition.LIVE if session.is_live else Condition.AWAY


def missing_portals(target: NvmeTarget, session: Session | None) -> tuple[str, ...]:
    """The portals of ``target`` without a controller, although its session is there and has room for them.

    Without native multipath one portal is all that a volume can have: the head of native multipath is told by a
    namespace that belongs to no single controller. A host name is taken for connected as long as a controller is
    there that none of the IP addresses accounts for.
    """
    if session is None or not session.controllers or all(ns.controller for ns in session.namespaces):
        return ()
    there = {_plain(item.traddr) for item in session.controllers if item.trsvcid == str(target.port)}
    plain = {_plain(address): address for address in target.addresses}
    unexplained = len(there - plain.keys())
    names = [address for address in target.addresses if not _is_ip(address)]
    missing = [address for key, address in plain.items() if key not in there and _is_ip(address)]
    return tuple(f"{address}:{target.port}" for address in (*missing, *names[unexplained:]))


def _plain(address: str) -> str:
    """One spelling for one address."""
    return str(ipaddress.ip_address(address)) if _is_ip(address) else address.lower()


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by two clocks: ``seconds`` only grow and measure, ``wall`` (Unix time) is for people."""

    seconds: float
    wall: float

    def __str__(self) -> str:
        return f"{datetime.fromtimestamp(self.wall, UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class Change:
    """What a look has found to be otherwise than before: in sentences for the log, the length (s) of an outage that has
    ended, and of one that has begun what is being done about it."""

    sentences: tuple[str, ...] = ()
    outage: float | None = None
    loss: str = ""


@dataclass(slots=True)
class Watched:
    """One staged volume, its session as of the last look, and what was tried for it.

    ``away_since`` and ``missing_since`` are None while all is well; ``next_attempt`` is a moment of the clock that
    only grows, before which nothing is tried; ``failure`` is the last attempt's error, "" when there was none.
    """

    record: StageRecord
    target: NvmeTarget
    condition: Condition = Condition.LIVE
    states: str = ""
    missing: tuple[str, ...] = ()
    away_since: Moment | None = None
    missing_since: Moment | None = None
    next_attempt: float = 0.0
    failure: str = ""

    @property
    def lacks_something(self) -> bool:
        """Whether there is something that the kernel does not bring back by itself."""
        return self.condition is Condition.LOST or bool(self.missing)

    @property
    def is_well(self) -> bool:
        """Whether the session is live, with every portal."""
        return self.condition is Condition.LIVE and not self.missing

    def see(self, session: Session | None, now: Callable[[], Moment]) -> Change:
        """Take over what a look has found."""
        change = self._see_condition(condition_of(session), session, now)
        portals = self._see_portals(missing_portals(self.target, session), now)
        return replace(change, sentences=(*change.sentences, *portals))

    def trouble(self) -> str:
        """Why not all of the volume's session is there, in one sentence; "" when it is."""
        nqn, pause = self.target.nqn, f"every {self.record.config.reconnect_delay} s"
        failed = f"; the last attempt failed: {self.failure}" if self.failure else ""
        if self.condition is Condition.AWAY:
            return (
                f"the session of {nqn} has been away since {self.away_since}, the kernel reconnects it: {self.states}"
            )
        if self.condition is Condition.LOST:
            return (
                f"the session of {nqn} has been away since {self.away_since} and the kernel has given it up; "
                f"it is connected again {pause}{failed}"
            )
        if self.missing:
            portals = ", ".join(self.missing)
            return f"{nqn} has not been connected through {portals} since {self.missing_since}; tried {pause}{failed}"
        return ""

    def _see_condition(self, condition: Condition, session: Session | None, now: Callable[[], Moment]) -> Change:
        before, self.condition = self.condition, condition
        self.states = session.states if session is not None else ""
        name = f"the session of {self.target.nqn} (volume {self.record.volume_id})"
        if condition is Condition.LIVE:
            if self.away_since is None:
                return Change()
            length = now().seconds - self.away_since.seconds
            self.away_since, self.failure = None, ""
            return Change((f"{name} is live again after {length:.0f} s",), length)
        loss = "" if self.away_since is not None else self._loss(condition)
        self.away_since = self.away_since or now()
        if condition is Condition.LOST and before is not Condition.LOST:
            sentence = f"{name} was given up by the kernel; it is connected again while the volume is staged"
            return Change((sentence,), loss=loss)
        if condition is Condition.AWAY and before is Condition.LIVE:
            return Change((f"{name} is away, I/O waits: {self.states}",), loss=loss)
        return Change()

    def _loss(self, condition: Condition) -> str:
        """An outage that begins, in the same words each time: without states and moments."""
        if condition is Condition.AWAY:
            return f"the session of {self.target.nqn} is away: I/O waits, and the kernel reconnects it"
        return (
            f"the kernel has given up the session of {self.target.nqn}: the driver connects it again "
            f"every {self.record.config.reconnect_delay} s while the volume is staged"
        )

    def _see_portals(self, missing: tuple[str, ...], now: Callable[[], Moment]) -> tuple[str, ...]:
        before, self.missing = self.missing, missing
        self.missing_since = (self.missing_since or now()) if missing else None
        if before and not missing and self.condition is Condition.LIVE:
            self.failure = ""
            return (f"{self.target.nqn} is connected through all its portals again",)
        if missing and missing != before:
            return (f"{self.target.nqn} is not connected through {', '.join(missing)}",)
        return ()
