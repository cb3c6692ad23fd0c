"""What is to become of each NVMe subsystem of this host: a pure function of one snapshot (design, section 6)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from rds_csi.errors import ConfigurationError
from rds_csi.model.records import StageRecord
from rds_csi.nvme.sessions import Controller, Session, SessionIndex

# drivers/nvme/host/sysfs.c, nvme_sysfs_show_state(): states out of which no controller comes back.
_ENDED = frozenset({"dead", "deleting", "deleting (no IO)"})
# What a disconnect makes of a controller at once, even when it hangs afterwards ("deleting (no IO)" too).
_DELETING = "deleting"
# Seconds that a disconnect without that counts as hanging: nvme-cli that was merely slow is tried again after them.
HANG_SECONDS = 600.0
_DISCOVERY = "discovery"
# NVMe Base Specification 2.0, section 3.1.3.3: the well-known name of discovery subsystems.
_DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"


class Decision(StrEnum):
    """What becomes of a subsystem; the values are those of ``sweep --output json``."""

    KEEP = "keep"
    DISCONNECT = "disconnect"
    FOREIGN = "foreign"


class Kind(StrEnum):
    """Why a session of ours that nothing uses may be an orphan."""

    EMPTY = "live without a namespace"
    ENDED = "ended"
    AWAY = "away"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One orphan-to-be: with other controllers, or for another reason, it is another one."""

    nqn: str
    subsystem: str
    controllers: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Hang:
    """A disconnect that has not come back: of which controllers, since when (seconds of CLOCK_BOOTTIME)."""

    controllers: tuple[str, ...]
    since: float


def _none() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision rests upon, at one moment.

    ``uses`` has, by NQN, what uses it in phrases ("nvme0n1 is mounted at /mnt"); ``unseen``, by NQN, why that could
    not be looked at; ``blind`` is why it could be for none of them. ``running`` names, by NQN, the operation
    at work. ``moved`` are the NQNs of volumes known to be attached elsewhere and not here. ``now`` and the first
    sightings are seconds of CLOCK_BOOTTIME.
    """

    index: SessionIndex
    prefix: str
    now: float
    grace: float
    sweep_unused: bool = False
    uses: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    unseen: Mapping[str, str] = field(default_factory=_none)
    blind: str = ""
    records: Mapping[str, Sequence[StageRecord]] = field(default_factory=lambda: MappingProxyType({}))
    running: Mapping[str, str] = field(default_factory=_none)
    moved: frozenset[str] = frozenset()
    hangs: Mapping[str, Hang] = field(default_factory=lambda: MappingProxyType({}))
    first_seen: Mapping[Sighting, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of ``session``, and why, in one sentence.

    ``sighting`` is set while it looks like an orphan. ``unsure``: it could not be looked at, which neither makes
    an orphan nor clears one. ``urgent``: a person has to act.
    """

    session: Session
    decision: Decision
    reason: str
    sighting: Sighting | None = None
    unsure: bool = False
    urgent: bool = False

    @property
    def nqn(self) -> str:
        """The subsystem's NQN."""
        return self.session.nqn

    @property
    def subsystem(self) -> str:
        """Its name in sysfs."""
        return self.session.subsystem

    @property
    def controllers(self) -> tuple[tuple[str, str], ...]:
        """Name and state of each."""
        return tuple((controller.name, controller.state) for controller in self.session.controllers)

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of its block devices."""
        return tuple(namespace.device for namespace in self.session.namespaces)


def decide(snapshot: Snapshot) -> tuple[Verdict, ...]:
    """One verdict for each subsystem, in the index's order. ConfigurationError for an empty prefix."""
    if not snapshot.prefix:
        raise ConfigurationError(
            "an empty --nqn-prefix would make every subsystem ours", remedy="Name how this cluster's NQNs begin."
        )
    return tuple(_judge(session, snapshot) for session in every(snapshot.index))


def every(index: SessionIndex) -> Iterator[Session]:
    """All sessions, those of one NQN after each other."""
    return itertools.chain.from_iterable(index.by_nqn.values())


def is_foreign(session: Session, prefix: str) -> str:
    """Why the session is not this driver's, in one sentence; "" when it is.

    A vendor's prefix alone is no ownership: a diskless node has its /var on the same array (lessons I7).
    """
    if not session.nqn.encode("utf-8", "surrogateescape").startswith(prefix.encode("utf-8", "surrogateescape")):
        return f"its NQN does not begin with {prefix}."
    if session.nqn == _DISCOVERY_NQN or any(c.cntrltype == _DISCOVERY for c in session.controllers):
        return "it is a discovery subsystem."
    transports = {controller.transport for controller in session.controllers} - {"tcp", ""}
    return f"it is connected by {', '.join(sorted(transports))}, not by tcp." if transports else ""


def _judge(session: Session, snapshot: Snapshot) -> Verdict:
    foreign = is_foreign(session, snapshot.prefix)
    if foreign:
        return Verdict(session, Decision.FOREIGN, foreign)
    verdict = _at_work(session, snapshot) or _moved(session, snapshot) or _in_use(session, snapshot)
    return verdict or _orphan(session, snapshot)


def _at_work(session: Session, snapshot: Snapshot) -> Verdict | None:
    """Something is done with it now, or nothing can be done."""
    hanging = _hanging(session, snapshot)
    if hanging:
        return _keep(session, hanging, urgent=True)
    if session.nqn in snapshot.running:
        return _keep(session, f"{snapshot.running[session.nqn]} is running for it.")
    if not session.controllers:
        holder = _use(session, snapshot) or snapshot.blind or "something still holds its device open"
        return _keep(session, f"it is a left-over without a controller, nothing is connected: {holder}.")
    if not all(controller.transport and controller.state for controller in session.controllers):
        return _keep(session, "one of its controllers is going just now.", unsure=True)
    return None


def _hanging(session: Session, snapshot: Snapshot) -> str:
    """How its disconnect hangs, in one sentence; "" when it does not."""
    hang = snapshot.hangs.get(session.nqn)
    if hang is None or hang.controllers != names(session):
        return ""
    seconds = max(0.0, snapshot.now - hang.since)
    if any(controller.state.startswith(_DELETING) for controller in session.controllers):
        return f"its disconnect hangs in the kernel since {seconds:.0f} s; it is not touched again."
    if seconds < HANG_SECONDS:
        return f"its disconnect hangs since {seconds:.0f} s; it is judged anew after {HANG_SECONDS:.0f} s."
    return ""


def _moved(session: Session, snapshot: Snapshot) -> Verdict | None:
    """Its volume belongs to another node now: old pages must not be written when the path comes back (openebs
    mayastor-control-plane PR 905)."""
    if session.nqn not in snapshot.moved:
        return None
    if not session.is_live:
        return Verdict(
            session,
            Decision.DISCONNECT,
            "its volume is attached to another node; it is cut before its path is live again, so that nothing old "
            "is written.",
        )
    if _unseen(session, snapshot):
        # Told by the next rule.
        return None
    use = _use(session, snapshot)
    if use:
        return _keep(
            session,
            f"its volume is attached to another node, but here {use}: end that use now, two writers destroy the data.",
            urgent=True,
        )
    return Verdict(session, Decision.DISCONNECT, "its volume is attached to another node, and nothing uses it here.")


def _in_use(session: Session, snapshot: Snapshot) -> Verdict | None:
    use = _use(session, snapshot)
    if use:
        return _keep(session, f"{use}.")
    unseen = _unseen(session, snapshot)
    return _keep(session, f"it could not be looked at: {unseen}.", unsure=True) if unseen else None


def _orphan(session: Session, snapshot: Snapshot) -> Verdict:
    """Nothing uses it: how long has it been so?"""
    kind = kind_of(session)
    if kind is Kind.UNUSED:
        if session.nqn in snapshot.records:
            return _keep(session, "it is live with its device, and a stage record names it.")
        if not snapshot.sweep_unused:
            return _keep(session, "it is live with its device; unused ones are disconnected only with --sweep-unused.")
    sighting = Sighting(session.nqn, session.subsystem, names(session), kind)
    first = snapshot.first_seen.get(sighting)
    seconds = 0.0 if first is None else max(0.0, snapshot.now - first)
    what = _WHAT[kind]
    if snapshot.grace and (first is None or seconds < snapshot.grace):
        since = "seen so for the first time" if first is None else f"seen so for {seconds:.0f} s"
        left = snapshot.grace - seconds
        reason = f"{what}, {since}; it is decided in {left:.0f} s, if it is still so."
        return Verdict(session, Decision.KEEP, reason, sighting)
    since = f"seen so for {seconds:.0f} s" if snapshot.grace else "one sighting decides"
    return Verdict(session, Decision.DISCONNECT, f"{what}, and nothing uses it; {since}.", sighting)


_WHAT = {
    Kind.EMPTY: "it is live, but has no usable namespace device",
    Kind.ENDED: "no controller of it will come back",
    Kind.AWAY: "no path of it is live",
    Kind.UNUSED: "it is live, but no stage record names it",
}


def kind_of(session: Session) -> Kind:
    """What an unused session with controllers is."""
    live = {controller.name for controller in session.controllers if controller.is_live}
    if live:
        # A disk of one path is of no use while that path is down (multipath off).
        usable = any(not namespace.controller or namespace.controller in live for namespace in session.namespaces)
        return Kind.UNUSED if usable else Kind.EMPTY
    return Kind.ENDED if all(map(_has_ended, session.controllers)) else Kind.AWAY


def names(session: Session) -> tuple[str, ...]:
    """The names of its controllers."""
    return tuple(controller.name for controller in session.controllers)


def _has_ended(controller: Controller) -> bool:
    return controller.state in _ENDED


def _use(session: Session, snapshot: Snapshot) -> str:
    """What uses it, without a full stop; "" when nothing is known to."""
    uses = snapshot.uses.get(session.nqn, ())
    if uses:
        more = len(uses) - 1
        return uses[0] + (f" (and {more} more use{'s' if more > 1 else ''})" if more else "")
    if any(record.block for record in snapshot.records.get(session.nqn, ())):
        return "it is staged as a block volume"
    return ""


def _unseen(session: Session, snapshot: Snapshot) -> str:
    """Why it cannot be told whether something uses it, without a full stop; "" when it can."""
    unseen = snapshot.blind or snapshot.unseen.get(session.nqn, "")
    if unseen:
        return unseen
    # All sessions of one NQN share their uses: they are disconnected together.
    sessions = snapshot.index.by_nqn.get(session.nqn, ())
    devices = sorted({name for item in sessions for name in item.incomplete})
    return f"its device {', '.join(devices)} is coming or going just now" if devices else ""


def _keep(session: Session, reason: str, *, unsure: bool = False, urgent: bool = False) -> Verdict:
    return Verdict(session, Decision.KEEP, reason, unsure=unsure, urgent=urgent)
