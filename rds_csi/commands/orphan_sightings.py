"""What earlier orphan reports saw: since when something on an array is an orphan, without a report that saw it well.

Times are Unix time, as days may lie between two reports and boots too; where both were of one boot, the clock that
nobody sets (CLOCK_BOOTTIME) has to agree, so that a clock which jumps does not age anything.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from rds_csi.atomic import write_atomically

_VERSION = 1
# Bytes. Some hundred thousand ids.
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Now:
    """A moment on both clocks, in seconds; ``boot_id`` says of which boot the second one is."""

    wall: float
    boottime: float
    boot_id: str


def now(boot_id: str) -> Now:
    """This moment."""
    return Now(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)


@dataclass(frozen=True, slots=True)
class Sighting:
    """The first of the reports in a row that called it an orphan. ``incarnation``: which one of its name it was."""

    incarnation: str
    first: Now

    def age(self, moment: Now) -> float:
        """Seconds that have passed for certain."""
        wall = moment.wall - self.first.wall
        if self.first.boot_id and self.first.boot_id == moment.boot_id:
            return max(0.0, min(wall, moment.boottime - self.first.boottime))
        return max(0.0, wall)


@dataclass(frozen=True, slots=True)
class Sightings:
    """Sightings by key, and the ids by which leftovers can be told that are still there, or may come."""

    by_key: Mapping[str, Sighting] = field(default_factory=dict)
    known_ids: frozenset[str] = frozenset()

    def age(self, key: str, incarnation: str, moment: Now) -> float | None:
        """For how many seconds it has been an orphan, seen by an earlier report; None when this is the first."""
        known = self.by_key.get(key)
        return known.age(moment) if known is not None and known.incarnation == incarnation else None

    def updated(self, orphans: Mapping[str, str], known_ids: Collection[str], moment: Now) -> "Sightings":
        """After a report: ``orphans`` has the incarnation of each by key; whatever is not among them is forgotten."""
        kept = {}
        for key, incarnation in orphans.items():
            known = self.by_key.get(key)
            same = known is not None and known.incarnation == incarnation and known.first.wall <= moment.wall
            kept[key] = known if same and known is not None else Sighting(incarnation, moment)
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
                "wall": item.first.wall,
                "boottime": item.first.boottime,
                "bootId": item.first.boot_id,
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
