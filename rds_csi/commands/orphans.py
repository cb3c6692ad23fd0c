"""``rds-csi orphans``: what on an array belongs to no PersistentVolume, and what is damaged; deletion only by a list.

It reports. With ``--delete`` it removes what the list names, and of that only what two reports, far enough apart, have
called an orphan; the array itself refuses what is attached or not provably ours.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rds_csi.arrays.protocol import Array
from rds_csi.arrays.routeros.objects import Inventory
from rds_csi.arrays.several import SeveralArrays
from rds_csi.commands import orphan_sightings
from rds_csi.commands.orphan_decision import (
    InUse,
    Judged,
    Verdict,
    judge,
    parse_in_use,
    parse_list,
    why_list_is_doubtful,
    why_not_deleted,
)
from rds_csi.commands.orphan_sightings import Clock, Now, Sightings
from rds_csi.commands.tables import print_table
from rds_csi.errors import ConfigurationError, DriverError
from rds_csi.locks import LockFile, OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.parts import Machine, check_state_dir, open_array, read_boot_id
from rds_csi.settings import Settings
from rds_csi.tasks import finish
from rds_csi.workers import Workers

log = logging.getLogger(__name__)

# Seconds between two sightings: volumes that are being made, and lists that were a little old, are settled by then.
DEFAULT_APART = 86400.0
# Bytes. A million handles.
_MAX_BYTES = 64 << 20
_FILE_SECONDS = 30.0
# In the state directory, shared with the servers of this node.
_LOCKS = "locks"
_WELL = (Verdict.IN_USE, Verdict.NOT_JUDGED)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report. ``age``: seconds since an earlier report called it an orphan; None: none has.
    ``result``: what ``--delete`` did about it, "" when it was not in the list."""

    judged: Judged
    age: float | None
    result: str = ""
    failed: bool = False


async def orphans(
    settings: Settings, *, in_use: str = "", delete: str = "", apart: float = DEFAULT_APART, as_json: bool = False
) -> int:
    """Report, and delete what the file ``delete`` names. Exit status 1 when something is an orphan, damaged or
    unproven, or could not be deleted.

    ConfigurationError for files that cannot be used, and for an array that cannot tell what is on it.
    """
    if delete and not in_use:
        raise ConfigurationError("--delete wants --in-use", remedy="Without it nothing is known to be an orphan.")
    machine = Machine.of(settings, Metrics())
    wanted = parse_list(await _read(delete, "--delete", machine.workers)) if delete else ()
    handles = parse_in_use(await _read(in_use, "--in-use", machine.workers)) if in_use else None
    boot_id = await _boot_id()
    array = open_array(settings, machine)
    try:
        with _memory(settings, needed=bool(delete)) as memory:
            report = Report(_inventories(array), memory, lambda: orphan_sightings.now(boot_id), apart, machine.workers)
            outcome = await report.run(handles, wanted)
    finally:
        await array.close()
    (_print_json if as_json else _print_text)(outcome)
    return 1 if any(_is_bad_news(line) for line in outcome.lines) else 0


def _is_bad_news(line: Line) -> bool:
    return line.failed or (line.judged.verdict not in _WELL and not line.result)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A report's lines, sorted by key, and what was to be deleted and is not there."""

    lines: Sequence[Line]
    absent: Sequence[str] = ()


class Report:
    """One report on all arrays, by name. ``memory`` is the file with earlier sightings, "" for none."""

    def __init__(self, arrays: Mapping[str, Array], memory: str, clock: Clock, apart: float, workers: Workers) -> None:
        self._arrays = arrays
        self._memory = memory
        self._workers = workers
        self._clock = clock
        self._apart = apart

    async def run(self, in_use: InUse | None, wanted: Sequence[str]) -> Outcome:
        """Look, judge, delete what is ``wanted`` and may be, and remember what was seen."""
        sightings = await self._recall()
        everything = await self._look(in_use, sightings)
        moment = self._clock()
        ages = {item.key: sightings.age(item.key, item.item.incarnation, moment) for item in everything}
        doubt = why_list_is_doubtful(in_use, everything) if in_use else ""
        if in_use is not None and not doubt:
            await self._remember(sightings, everything, moment)
        lines = []
        for item in everything:
            line = Line(item, ages[item.key])
            lines.append(await self._delete(line, doubt) if item.key in wanted else line)
        there = {item.key for item in everything}
        return Outcome(lines, tuple(key for key in wanted if key not in there))

    async def _look(self, in_use: InUse | None, sightings: Sightings) -> Sequence[Judged]:
        """Every array has to answer: what is half known is not judged."""
        found = [
            judge(name, item, in_use, sightings.known_ids)
            for name, array in self._arrays.items()
            if isinstance(array, Inventory)
            for item in await array.list_objects()
        ]
        return sorted(found, key=lambda item: item.key)

    async def _delete(self, line: Line, doubt: str) -> Line:
        judged = line.judged
        refusal = doubt or why_not_deleted(judged, line.age, self._apart)
        if refusal:
            return Line(judged, line.age, f"kept: {refusal}", failed=True)
        array = self._arrays[judged.array]
        delete = array.delete_snapshot if judged.is_snapshot else array.delete_volume
        try:
            await finish(delete(judged.object_id))
        except DriverError as error:
            return Line(judged, line.age, f"failed: {error}", failed=True)
        log.warning("deleted the orphan %s (%s)", judged.key, judged.item.path)
        return Line(judged, line.age, "deleted")

    async def _recall(self) -> Sightings:
        if not self._memory:
            return Sightings()
        try:
            return await self._workers.run(partial(orphan_sightings.read, self._memory), timeout=_FILE_SECONDS)
        except (OSError, ValueError, DriverError) as error:
            log.warning("%s counts as none, so that everything is seen for the first time: %s", self._memory, error)
            return Sightings()

    async def _remember(self, sightings: Sightings, everything: Sequence[Judged], moment: Now) -> None:
        if not self._memory:
            return
        seen = {item.key: item.item.incarnation for item in everything if item.verdict is Verdict.ORPHAN}
        # Of what is here now, and of leftovers: the names of files do not tell their ids.
        ids = {item.object_id for item in everything if item.object_id}
        try:
            write = partial(orphan_sightings.write, self._memory, sightings.updated(seen, ids, moment))
            await finish(self._workers.run(write, timeout=_FILE_SECONDS))
        except (OSError, DriverError) as error:
            log.warning("this report is not remembered: %s cannot be written: %s", self._memory, error)


def _inventories(array: Array) -> Mapping[str, Array]:
    """The arrays that can tell what is on them; ConfigurationError when none can."""
    children = array.children if isinstance(array, SeveralArrays) else {"": array}
    able = {name: child for name, child in children.items() if isinstance(child, Inventory)}
    if not able:
        raise ConfigurationError(
            "this array does not tell what is on it", remedy="Name a RouterOS array, or several, with --array."
        )
    return able


@contextlib.contextmanager
def _memory(settings: Settings, *, needed: bool) -> Iterator[str]:
    """The file with earlier sightings, for this process alone; "" when there is no place for it and none is
    ``needed``."""
    try:
        check_state_dir(settings.state_dir)
        shared = LockFile(os.path.join(settings.state_dir, _LOCKS))
    except ConfigurationError as error:
        if needed:
            raise
        log.warning("%s: this report is not remembered, so nothing can be deleted by it", error.message)
        yield ""
        return
    text = f"{settings.array}\n{settings.driver_name}\n{settings.nqn_prefix}"
    path = orphan_sightings.file_in(settings.state_dir, hashlib.sha256(text.encode()).hexdigest()[:12])
    with contextlib.closing(shared), OperationLocks(shared).hold("the orphan report", path):
        yield path


async def _boot_id() -> str:
    """Of this machine, whose clocks time the sightings; "" where it is not told."""
    with contextlib.suppress(ConfigurationError):
        return await read_boot_id(HostPaths())
    return ""


async def _read(path: str, flag: str, workers: Workers) -> str:
    def read() -> bytes:
        with open(path, "rb") as stream:
            return stream.read(_MAX_BYTES + 1)

    try:
        data = await workers.run(read, timeout=_FILE_SECONDS)
        if len(data) > _MAX_BYTES:
            raise ConfigurationError(f"{flag} {path} is larger than {_MAX_BYTES} bytes", remedy="Name the right file.")
        return data.decode()
    except OSError as error:
        raise ConfigurationError(
            f"{flag} {path} cannot be read: {error.strerror}", remedy="Name a file with one line for each."
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{flag} {path} is not text", remedy="Name the right file.") from None


def _print_text(outcome: Outcome) -> None:
    shown = [line for line in outcome.lines if line.judged.verdict not in _WELL or line.result]
    if shown:
        print_table(("VERDICT", "ID", "SIZE", "SEEN FOR", "REASON", "RESULT"), [_row(line) for line in shown])
    for key in outcome.absent:
        print(f"not there (any more): {key}")
    counts = {verdict: sum(line.judged.verdict is verdict for line in outcome.lines) for verdict in Verdict}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "Nothing of ours is there.")


def _row(line: Line) -> Sequence[str]:
    age = "-" if line.age is None else f"{line.age / 3600:.1f} h"
    size = f"{line.judged.item.size // MIB} MiB"
    return line.judged.verdict, line.judged.key, size, age, line.judged.reason, line.result or "-"


def _print_json(outcome: Outcome) -> None:
    """One object on a line of its own; every object on the array is in it."""
    objects = [
        {
            "id": line.judged.key,
            "verdict": line.judged.verdict,
            "reason": line.judged.reason,
            "handle": line.judged.object_id,
            "slot": line.judged.item.slot,
            "path": line.judged.item.path,
            "size": line.judged.item.size,
            "attachedTo": list(line.judged.item.attached_to),
            "seenFor": line.age,
            "result": line.result,
        }
        for line in outcome.lines
    ]
    print(json.dumps({"objects": objects, "absent": list(outcome.absent)}))
