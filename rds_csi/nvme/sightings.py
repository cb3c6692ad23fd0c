"""What earlier sweeps saw: since when a session looks like an orphan, and which disconnects hang.

Times are seconds of CLOCK_BOOTTIME, which goes on in suspend and starts anew with each boot; the boot id tells them
apart. What is lost here only makes the sweep wait for its grace period once more.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from rds_csi.atomic import remove_leftovers, write_atomically
from rds_csi.errors import DriverError
from rds_csi.nvme.decision import Hang, Kind, Sighting
from rds_csi.tasks import finish
from rds_csi.workers import Workers

log = logging.getLogger(__name__)

FILE_NAME = "sightings.json"

# The form of the JSON below. Another version counts as none.
_VERSION = 1
# Some thousand orphans; a larger file is not one of ours.
_MAX_BYTES = 16 << 20
_TIMEOUT_SECONDS = 30.0


def boottime() -> float:
    """Seconds since this boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sightings:
    """First sightings by orphan-to-be, and hanging disconnects by NQN; kept in a file where there is one."""

    def __init__(
        self, workers: Workers, *, path: str = "", boot_id: str = "", now: Callable[[], float] = boottime
    ) -> None:
        """Without ``path`` or ``boot_id`` they live only as long as this object."""
        self._workers = workers
        self._now = now
        self._path = path if boot_id else ""
        self._boot_id = boot_id
        self._first_seen: dict[Sighting, float] = {}
        self._hangs: dict[str, Hang] = {}
        self._loaded = False
        # What the file has, so that it is written only when that changes.
        self._written = b""
        self._told = False

    @property
    def first_seen(self) -> Mapping[Sighting, float]:
        """When each was seen first, without a look in between that saw it well."""
        return MappingProxyType(self._first_seen)

    @property
    def hangs(self) -> Mapping[str, Hang]:
        """Disconnects that have not come back."""
        return MappingProxyType(self._hangs)

    async def load(self) -> None:
        """Read the file, once. Damaged, of another boot or unreadable: as if there were none, and logged."""
        if self._loaded:
            return
        self._loaded = True
        if not self._path:
            return
        try:
            data = await self._workers.run(self._read, timeout=_TIMEOUT_SECONDS)
            if data:
                self._take(json.loads(data))
                self._written = data
        except (OSError, DriverError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("%s counts as none, so that each orphan's grace begins anew: %r", self._path, error)
            self._first_seen, self._hangs = {}, {}

    def update(self, seen: Iterable[Sighting], unsure: frozenset[str], now: float) -> None:
        """Note what one look saw: ``seen`` looks like an orphan. All others are forgotten, but for the NQNs that
        were not to be looked at (``unsure``)."""
        kept = {known: first for known, first in self._first_seen.items() if known.nqn in unsure}
        fresh = {sighting: self._first_seen.get(sighting, now) for sighting in seen}
        self._first_seen = kept | fresh

    def forget(self, nqn: str) -> None:
        """It has been disconnected: whatever comes under its name is seen for the first time."""
        self._first_seen = {known: first for known, first in self._first_seen.items() if known.nqn != nqn}

    def note_hang(self, nqn: str, hang: Hang) -> None:
        """Its disconnect has not come back."""
        self._hangs[nqn] = hang

    def keep_hangs(self, controllers: Mapping[str, frozenset[tuple[str, ...]]]) -> None:
        """Forget hangs of sessions whose controllers have changed; ``controllers`` has those that are there."""
        self._hangs = {
            nqn: hang for nqn, hang in self._hangs.items() if hang.controllers in controllers.get(nqn, frozenset())
        }

    async def store(self) -> None:
        """Write the file when something has changed. A failure is logged once; the next store tries again."""
        data = self._encode()
        nothing_yet = not (self._written or self._first_seen or self._hangs)
        if not self._path or nothing_yet or data == self._written:
            return
        try:
            # To its end: an abandoned thread could write old sightings over later ones.
            await finish(self._workers.run(lambda: self._write(data), timeout=_TIMEOUT_SECONDS, key=self._path))
        except (OSError, DriverError) as error:
            if not self._told:
                log.warning("sightings do not survive a restart: %s cannot be written: %s", self._path, error)
            self._told = True
        else:
            self._written, self._told = data, False

    def _read(self) -> bytes:
        try:
            with open(self._path, "rb") as stream:
                return stream.read(_MAX_BYTES)
        except FileNotFoundError:
            return b""

    def _write(self, data: bytes) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        if not self._written:
            remove_leftovers(self._path)
        # A power cut ends the boot, and with it the worth of all this.
        write_atomically(self._path, data, durable=False)

    def _take(self, document: object) -> None:
        if not isinstance(document, dict) or document["version"] != _VERSION:
            raise ValueError("not a version that is known")
        if document["bootId"] != self._boot_id:
            log.debug("%s is of another boot", self._path)
            return
        now = self._now()
        self._first_seen = {
            Sighting(
                str(item["nqn"]),
                str(item["subsystem"]),
                tuple(map(str, item["controllers"])),
                Kind(item["kind"]),
            ): _moment(item["firstSeen"], now)
            for item in document["sightings"]
        }
        self._hangs = {
            str(item["nqn"]): Hang(tuple(map(str, item["controllers"])), _moment(item["since"], now))
            for item in document["hangs"]
        }

    def _encode(self) -> bytes:
        sightings = [
            {
                "nqn": sighting.nqn,
                "subsystem": sighting.subsystem,
                "controllers": sighting.controllers,
                "kind": sighting.kind.value,
                "firstSeen": first,
            }
            for sighting, first in self._first_seen.items()
        ]
        hangs = [{"nqn": nqn, "controllers": h.controllers, "since": h.since} for nqn, h in self._hangs.items()]
        document = {"version": _VERSION, "bootId": self._boot_id, "sightings": sightings, "hangs": hangs}
        return json.dumps(document, indent=1).encode("ascii") + b"\n"


def _moment(value: object, now: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= now:
        raise ValueError(f"not a moment of this boot: {value!r}")
    return float(value)
