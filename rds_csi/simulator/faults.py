"""Faults on demand: what the device or the way to it does wrong, to whom, how often and for how long."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

UNLIMITED = 0


class FaultKind(Enum):
    """What goes wrong. Each kind works over SSH and over REST; a "request" is one script or one HTTP request."""

    SLOW = "slow"
    """The request waits ``seconds``, then is done and answered: long after its client has given up, perhaps."""
    HANG = "hang"
    """The request is done, but never answered; the connection stays open, for ``seconds`` if that is not 0."""
    CUT_REPLY = "cut-reply"
    """The request is done; the connection breaks in the middle of the reply."""
    LOSE_REPLY = "lose-reply"
    """The request is done; the connection breaks before the reply."""
    DROP_BEFORE = "drop-before"
    """The connection breaks when the request has arrived; it is not done."""
    CORRUPT_JSON = "corrupt-json"
    """The request is done; the reply arrives whole, but is not JSON any more."""
    WRONG_POLICY = "wrong-policy"
    """The request is refused: the user may not do that."""
    NO_SPACE = "no-space"
    """The pools are full."""
    READ_ONLY_POOL = "read-only-pool"
    """The pools take no changes."""
    DEGRADED_RAID = "degraded-raid"
    """The pools work, but their raid is not clean."""
    REBOOT = "reboot"
    """The device reboots when the request arrives, which is not done: every connection breaks, nobody is let in for
    ``seconds``, what was there before is there again."""
    SESSIONS_EXHAUSTED = "sessions-exhausted"
    """A new connection is accepted and closed at once. ``match`` is looked for in "ssh" or "https"."""
    CHANNEL_OPEN_BLOCKED = "channel-open-blocked"
    """A channel is not opened (SSH), a request on an open connection is not read (HTTPS): never, or not before
    ``seconds``. ``match`` is looked for in "ssh" or "https"."""


class Stage(Enum):
    """When a fault strikes."""

    CONNECT = "connect"
    CHANNEL = "channel"
    REQUEST = "request"


_STAGES = {FaultKind.SESSIONS_EXHAUSTED: Stage.CONNECT, FaultKind.CHANNEL_OPEN_BLOCKED: Stage.CHANNEL}
# What is the matter with the pools rather than with one request.
CONDITIONS = frozenset({FaultKind.NO_SPACE, FaultKind.READ_ONLY_POOL, FaultKind.DEGRADED_RAID})


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that strikes the next ``times`` requests in which ``match`` occurs; 0 times: until it is cleared.

    A script is matched as it was sent; an HTTP request as ``METHOD target body``. ``skip`` matching requests are
    let through first. ``seconds`` is explained with each kind.
    A condition of the pools (no-space, read-only-pool, degraded-raid) with neither ``match`` nor ``times`` holds
    all the time, also for jobs in the background; otherwise it begins and ends with the requests that it strikes.
    """

    kind: FaultKind
    match: str = ""
    times: int = 1
    seconds: float = 0.0
    skip: int = 0

    def __post_init__(self) -> None:
        if self.times < 0 or self.skip < 0 or not 0 <= self.seconds < math.inf:
            raise ValueError("times, seconds and skip of a fault cannot be negative, nor endless")

    @property
    def lasting(self) -> bool:
        """Whether it is a condition that holds all the time."""
        return self.kind in CONDITIONS and not self.match and self.times == UNLIMITED and not self.skip


def parse_fault(text: str) -> Fault:
    """A fault from ``KIND[:MATCH[:TIMES[:SECONDS]]]``; ValueError says what is wrong. MATCH may hold no colon."""
    kind, match, times, seconds, *rest = [*text.split(":"), *[""] * 3]
    if any(rest):
        raise ValueError(f"not KIND[:MATCH[:TIMES[:SECONDS]]]: {text!r}")
    kinds = [each.value for each in FaultKind]
    if kind not in kinds:
        raise ValueError(f"no fault is called {kind!r}: there are {', '.join(kinds)}")
    try:
        return Fault(FaultKind(kind), match, int(times or 1), float(seconds or 0))
    except ValueError as error:
        raise ValueError(f"TIMES and SECONDS are numbers that are not negative: {text!r}") from error


@dataclass(frozen=True, slots=True)
class Struck:
    """The faults that strike one request, at most one of a kind."""

    faults: tuple[Fault, ...] = ()

    def get(self, kind: FaultKind) -> Fault | None:
        """The fault of that kind, if it strikes."""
        return next((fault for fault in self.faults if fault.kind is kind), None)

    def __contains__(self, kind: FaultKind) -> bool:
        return self.get(kind) is not None

    @property
    def conditions(self) -> frozenset[FaultKind]:
        """What is the matter with the pools while the request runs."""
        return frozenset(fault.kind for fault in self.faults) & CONDITIONS


class Faults:
    """The faults that wait for somebody to strike. ``hits`` counts those that did."""

    def __init__(self, faults: tuple[Fault, ...] = (), *, changed: Callable[[], None] = lambda: None) -> None:
        """``changed`` is called whenever a fault was added or cleared."""
        self._waiting: list[Fault] = list(faults)
        self._changed = changed
        self.hits: Counter[FaultKind] = Counter()

    def add(self, fault: Fault) -> None:
        """One more; the first of a kind that matches strikes."""
        self._waiting.append(fault)
        self._changed()

    def clear(self, kind: FaultKind | None = None) -> None:
        """Take away those of that kind, or all."""
        self._waiting = [fault for fault in self._waiting if kind is not None and fault.kind is not kind]
        self._changed()

    @property
    def waiting(self) -> tuple[Fault, ...]:
        """Those that can still strike, with the times that are left."""
        return tuple(self._waiting)

    @property
    def lasting(self) -> frozenset[FaultKind]:
        """The conditions of the pools that hold all the time."""
        return frozenset(fault.kind for fault in self._waiting if fault.lasting)

    def strike(self, stage: Stage, text: str) -> Struck:
        """The faults that strike what happens now, described by ``text``; they have struck once more then."""
        struck: dict[FaultKind, Fault] = {}
        left: list[Fault] = []
        for fault in self._waiting:
            if fault.lasting or not self._meant(fault, stage, text) or fault.kind in struck:
                left.append(fault)
            elif fault.skip:
                left.append(replace(fault, skip=fault.skip - 1))
            else:
                struck[fault.kind] = fault
                if fault.times != 1:
                    left.append(replace(fault, times=max(fault.times - 1, UNLIMITED)))
        self._waiting = left
        self.hits.update(struck.keys())
        return Struck(tuple(struck.values()))

    @staticmethod
    def _meant(fault: Fault, stage: Stage, text: str) -> bool:
        return _STAGES.get(fault.kind, Stage.REQUEST) is stage and fault.match in text


def corrupt(text: str) -> str:
    """The text with its JSON broken: the first quote inside an object or a list is gone, else its second half."""
    begin = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    quote = text.find('"', begin) if begin >= 0 else -1
    return text[:quote] + text[quote + 1 :] if quote >= 0 else text[: len(text) // 2]
