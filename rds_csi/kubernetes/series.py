"""One Event object for what happens again and again: what it says, how often, and when it is written next."""

import time
from dataclasses import dataclass

from rds_csi.kubernetes.resources import Reference
from rds_csi.kubernetes.values import Object
from rds_csi.logging import single_line

# What the events.k8s.io API takes for a note; core/v1 sets no limit of its own.
MESSAGE_BYTES = 1024
# Seconds between two writes of the count.
REPEAT_SECONDS = 60.0
# Seconds after which what was not written is not news any more.
NEWS_SECONDS = 300.0
# New Events about one object: this many at once, then one more each so many seconds (client-go's spam filter).
BURST = 25
REFILL_SECONDS = 300.0
# RFC 1123, a DNS subdomain: what a name may have.
_NAME_LENGTH = 253
_CUT = "..."


@dataclass(frozen=True, slots=True)
class Saying:
    """What is said about an object: the events of equal sayings are one, whatever their messages. ``nqn`` tells the
    sessions of a node apart."""

    about: Reference
    reason: str
    warning: bool
    nqn: str = ""


@dataclass(slots=True)
class Series:
    """How often something was said, and in which words the last time. ``name`` is the Event's, chosen before it is
    created; ``count`` is what it shows, 0 until it is known to be there.

    ``pending`` are the times that it does not show yet, the first of them at ``since``, the last at ``last_wall``.
    """

    message: str = ""
    name: str = ""
    count: int = 0
    first_wall: float = 0.0
    last_wall: float = 0.0
    pending: int = 0
    since: float = 0.0
    written: float = float("-inf")

    def add(self, message: str, times: int, now: float, wall: float) -> None:
        """It was said again; ``now`` only grows, ``wall`` is Unix time."""
        self.message = message
        if not self.pending:
            self.since = now
        self.first_wall = self.first_wall or wall
        self.last_wall = wall
        self.pending += times

    @property
    def due(self) -> float:
        """When it may be written."""
        return self.written + REPEAT_SECONDS

    def is_old(self, now: float) -> bool:
        """Whether nobody wants to know any more; counted from when it could have been written."""
        return now - max(self.since, self.due) > NEWS_SECONDS

    def wrote(self, count: int, now: float) -> None:
        """The Event shows ``count`` now. What was said while it was written is still to be told."""
        self.pending -= count - self.count
        self.count, self.since, self.written = count, now, now

    def lost(self) -> None:
        """Its Event has been deleted (they live an hour): the next one begins anew."""
        self.name, self.count, self.first_wall = "", 0, self.last_wall


@dataclass(slots=True)
class Allowance:
    """How many new Events an object may still get."""

    left: float = BURST
    at: float = 0.0

    def take(self, now: float) -> bool:
        """Whether there may be one more; it is taken then."""
        self.left = min(BURST, self.left + (now - self.at) / REFILL_SECONDS)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def clean(message: str) -> str:
    """``message`` on one line and as UTF-8 of at most MESSAGE_BYTES, cut between two characters."""
    data = single_line(message[: MESSAGE_BYTES + 1]).encode("utf-8", "replace")
    if len(data) <= MESSAGE_BYTES:
        return data.decode()
    return data[: MESSAGE_BYTES - len(_CUT)].decode("utf-8", "ignore") + _CUT


def event_name(about: Reference, number: int) -> str:
    """The name of an Event: that of the object and a number of 64 bits."""
    suffix = f".{number:016x}"
    return about.name[: _NAME_LENGTH - len(suffix)].rstrip("-.") + suffix


def event_namespace(about: Reference) -> str:
    """Where an Event is: events of objects without a namespace are taken in "default" only."""
    return about.namespace or "default"


def timestamp(wall: float) -> str:
    """RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))


def event_body(saying: Saying, series: Series, name: str, count: int, *, component: str, host: str) -> Object:
    """A core/v1 Event by which ``component`` on ``host`` tells that it happened ``count`` times."""
    about = saying.about
    involved = {"apiVersion": "v1", "kind": about.kind, "name": about.name, "namespace": about.namespace}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": event_namespace(about)},
        "involvedObject": {key: value for key, value in {**involved, "uid": about.uid}.items() if value},
        "type": "Warning" if saying.warning else "Normal",
        "reason": saying.reason,
        "message": series.message,
        "source": {"component": component, "host": host},
        "reportingComponent": component,
        "reportingInstance": host,
        "firstTimestamp": timestamp(series.first_wall),
        "lastTimestamp": timestamp(series.last_wall),
        "count": count,
    }
