"""What earlier orphan reports saw: since when something on an array is an orphan, without a report that saw it well.

Days may lie between two reports, and boots too. Only what has passed for certain counts: within one boot by the clock
that nobody sets (CLOCK_BOOTTIME), and of the time over a boot no more than this boot is old. So a clock that jumps, or
that was wrong when one of the reports was made, ages nothing.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from rds_csi.atomic import write_atomically

_VERSION = 2
# Bytes. Some hundred thousand ids.
_MAX_BYTES = 64 << 20
# Unix time of 2026-01-01, before any release: a clock that tells less was not set yet.
_EARLIEST = 1_767_225_600.0


@dataclass(frozen=True, slots=True)
class Now:
    """A moment on both clocks, in seconds; ``boot_id`` says of which boot the second one is."""

    wall: float
    boottime: float
    boot_id: str


def now(boot_id: str) -> Now:
    """This moment."""
    return Now(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)


def passed(before: Now, after: Now) -> float:
    """Seconds that have passed for certain between two moments, whatever became of the clocks."""
    wall = after.wall - before.wall
    if before.boot_id and before.boot_id == after.boot_id:
        return max(0.0, min(wall, after.boottime - before.boottime))
    if min(before.wall, after.wall) < _EARLIEST:
        return 0.0
    # Of another boot, or of one that is not known: then it may be the same.
    known = bool(before.boot_id and after.boot_id)
    uptime = after.boottime if known or after.boottime < before.boottime else after.boottime - before.boottime
    return max(0.0, min(wall, uptime))


@dataclass(frozen=True, slots=True)
class Sighting:
    """That reports in a row have called it an orphan. ``incarnation``: which one of its name it was; ``last``: the
    last of these reports; ``proven``: seconds between the first of them and that one; ``list_time``: when the list of
    handles of the first was made, Unix time."""

    incarnation: str
    last: Now
    proven: float = 0.0
    list_time: float = 0.0

    def age(self, moment: Now) -> float:
        """Seconds since the first of the reports that have passed for certain."""
        return self.proven + passed(self.last, moment)


@dataclass(frozen=True, slots=True)
class Sightings:
    """Sightings by key, and the ids by which leftovers can be told that are still there, or may come."""

    by_key: Mapping[str, Sighting] = field(default_factory=dict)
    known_ids: frozenset[str] = frozenset()

    def of(self, key: str, incarnation: str) -> Sighting | None:
        """What earlier reports saw of it; None when this is the first."""
        known = self.by_key.get(key)
        return known if known is not None and known.incarnation == incarnation else None

    def updated(
        self,
        orphans: Mapping[str, str],
        known_ids: Collection[str],
        moment: Now,
        *,
        list_time: float = 0.0,
        unseen: Callable[[str], bool] | None = None,
    ) -> "Sightings":
        """After a report: ``orphans`` has the incarnation of each by key. Whatever is not among them is forgotten, but
        for the keys that are ``unseen``: their array did not answer. An older list than the first begins anew."""
        kept = {key: known for key, known in self.by_key.items() if unseen is not None and unseen(key)}
        for key, incarnation in orphans.items():
            known = self.of(key, incarnation)
            if known is None or known.list_time > list_time:
                kept[key] = Sighting(incarnation, moment, 0.0, list_time)
            else:
                kept[key] = Sighting(incarnation, moment, known.age(moment), known.list_time)
        return Sightings(kept, frozenset(known_ids))


def read(path: str) -> Sightings:
    """The sightings in the file; none when it is not there. Blocking; OSError, ValueError when it is damaged."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return Sightings()
    try:
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise ValueError("of another version")
        return Sightings(
            {
                str(item["key"]): Sighting(
                    str(item["incarnation"]),
                    Now(float(item["wall"]), float(item["boottime"]), str(item["bootId"])),
                    float(item["proven"]),
                    float(item["listTime"]),
                )
                for item in document["sightings"]
            },
            frozenset(map(str, document["knownIds"])),
        )
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not what was written there: {error!r}") from None


def write(path: str, sightings: Sightings) -> None:
    """Replace the file. Blocking; OSError."""
    document = {
        "version": _VERSION,
        "sightings": [
            {
                "key": key,
                "incarnation": item.incarnation,
                "wall": item.last.wall,
                "boottime": item.last.boottime,
                "bootId": item.last.boot_id,
                "proven": item.proven,
                "listTime": item.list_time,
            }
            for key, item in sorted(sightings.by_key.items())
        ],
        "knownIds": sorted(sightings.known_ids),
    }
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")


Clock = Callable[[], Now]


def file_in(state_dir: str, digest: str) -> str:
    """Where the sightings of one array are."""
    return os.path.join(state_dir, f"orphans-{digest}.json")
