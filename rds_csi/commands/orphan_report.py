"""One orphan report: look, judge, delete what a list names and may be deleted, and look again whether that is gone."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rds_csi.arrays.protocol import Array
from rds_csi.arrays.routeros.objects import ArrayObject, Inventory
from rds_csi.commands import orphan_sightings
from rds_csi.commands.orphan_decision import Judged, Verdict, judge, why_list_is_doubtful, why_not_deleted
from rds_csi.commands.orphan_lists import FILE_SECONDS, InUseList, Source, why_stale
from rds_csi.commands.orphan_sightings import Clock, Now, Sighting, Sightings
from rds_csi.errors import DriverError
from rds_csi.tasks import finish
from rds_csi.workers import Workers

log = logging.getLogger(__name__)

_STOPPED = "kept: the command was stopped before it"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report. ``age``: seconds since an earlier report called it an orphan; None: none has.
    ``result``: what ``--delete`` did about it, "" when it was not in the list."""

    judged: Judged
    age: float | None
    result: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A report's lines, sorted by key; what was to be deleted and is not there; why the list is doubtful, "" when it is
    not; and the arrays that did not answer, by name."""

    lines: Sequence[Line] = ()
    absent: Sequence[str] = ()
    doubt: str = ""
    away: Mapping[str, str] | None = None


class Report:
    """One report on all arrays, by name. ``memory`` is the file with earlier sightings, "" for none. ``most``: see
    ``why_list_is_doubtful``."""

    def __init__(
        self,
        arrays: Mapping[str, Array],
        memory: str,
        clock: Clock,
        apart: float,
        workers: Workers,
        *,
        most: bool = False,
    ) -> None:
        self._arrays = {name: array for name, array in arrays.items() if isinstance(array, Inventory)}
        self._memory = memory
        self._workers = workers
        self._clock = clock
        self._apart = apart
        self._most = most
        self._away: dict[str, str] = {}
        self._lines: dict[str, Line] = {}
        self._absent: Sequence[str] = ()
        self._doubt = ""
        self._sightings = Sightings()

    @property
    def outcome(self) -> Outcome:
        """What is known by now, also of a report that was stopped half-way."""
        return Outcome(tuple(self._lines.values()), self._absent, self._doubt, dict(self._away))

    async def run(self, source: Source | None, wanted: Sequence[str]) -> Outcome:
        """Look, judge, remember what was seen, and delete what is ``wanted`` and may be. ConfigurationError for a list
        that cannot be used."""
        listed = await source() if source else None
        self._sightings = await self._recall()
        everything = await self._look(listed)
        moment = self._clock()
        before = {item.key: self._sightings.of(item.key, item.item.incarnation) for item in everything}
        self._doubt = self._doubt_about(listed, everything)
        for item in everything:
            known = before[item.key]
            line = Line(item, known.age(moment) if known else None)
            self._lines[item.key] = replace(line, result=_STOPPED, failed=True) if item.key in wanted else line
        self._absent = tuple(key for key in wanted if key not in self._lines and not self._is_away(key))
        if listed is not None and not self._doubt:
            await self._remember(everything, moment, listed.made)
        for key in wanted:
            if key in self._lines and source and listed:
                refusal = self._refusal(self._lines[key], before[key], listed, moment)
                refusal = refusal or await self._look_at_list_again(source, listed, everything, key)
                self._lines[key] = await self._delete(self._lines[key], refusal)
        await self._look_again([line.judged for line in self._lines.values() if line.result == "deleted"])
        return self.outcome

    async def _look(self, listed: InUseList | None) -> Sequence[Judged]:
        """What is on the arrays that answer, sorted by key; of one that does not answer whole, nothing is judged."""
        in_use = listed.in_use if listed else None
        objects = await self._list(self._arrays)
        found = [
            judge(name, item, in_use, self._sightings.known_ids) for name, items in objects.items() for item in items
        ]
        return sorted(found, key=lambda item: item.key)

    async def _list(self, arrays: Mapping[str, Inventory]) -> Mapping[str, Sequence[ArrayObject]]:
        """What is on each; who does not answer is away."""

        async def list_one(name: str, array: Inventory) -> None:
            try:
                found[name] = await array.list_objects()
            except DriverError as error:
                self._away[name] = str(error)

        found: dict[str, Sequence[ArrayObject]] = {}
        async with asyncio.TaskGroup() as group:
            for name, array in arrays.items():
                group.create_task(list_one(name, array))
        return found

    def _doubt_about(self, listed: InUseList | None, everything: Sequence[Judged]) -> str:
        return why_list_is_doubtful(listed.in_use, everything, most=self._most) if listed else ""

    def _is_away(self, key: str) -> bool:
        return "" in self._away or key.partition(":")[0] in self._away

    def _refusal(self, line: Line, known: Sighting | None, listed: InUseList, moment: Now) -> str:
        lists_apart = listed.made - known.list_time if known else None
        return (
            self._doubt
            or why_stale(listed.made, moment.wall)
            or why_not_deleted(line.judged, line.age, self._apart, lists_apart)
        )

    async def _look_at_list_again(
        self, source: Source, listed: InUseList, everything: Sequence[Judged], key: str
    ) -> str:
        """Why the list, as it is right now, does not let it be deleted any more; "" when it does."""
        try:
            again = await source()
        except DriverError as error:
            return f"the list of what is in use cannot be read any more: {error.message}"
        stale = why_stale(again.made, self._clock().wall)
        if stale or again.in_use == listed.in_use:
            return stale
        judged = [judge(item.array, item.item, again.in_use, self._sightings.known_ids) for item in everything]
        (mine,) = [item for item in judged if item.key == key]
        if mine.verdict is not Verdict.ORPHAN:
            return f"the list has changed, and it is {mine.verdict}: {mine.reason}"
        return self._doubt_about(again, judged)

    async def _delete(self, line: Line, refusal: str) -> Line:
        judged = line.judged
        if refusal:
            return replace(line, result=f"kept: {refusal}", failed=True)
        try:
            await finish(self._deletion(line))
        except DriverError as error:
            return replace(line, result=f"failed: {error}", failed=True)
        log.warning("deleted the orphan %s (%s)", judged.key, judged.item.path)
        return self._lines[judged.key]

    async def _deletion(self, line: Line) -> None:
        """Also told when the command is stopped meanwhile: the deletion runs to its end."""
        judged = line.judged
        try:
            await self._arrays[judged.array].delete_object(replace(judged.item, object_id=judged.object_id))
        except DriverError as error:
            self._lines[judged.key] = replace(line, result=f"failed: {error}", failed=True)
            raise
        self._lines[judged.key] = replace(line, result="deleted", failed=False)

    async def _look_again(self, deleted: Sequence[Judged]) -> None:
        """What is there all the same was not deleted."""
        names = {item.array for item in deleted}
        found = await self._list({name: array for name, array in self._arrays.items() if name in names})
        for item in deleted:
            line = self._lines[item.key]
            if item.array not in found:
                why = f"failed: whether it is gone is not known: {self._away[item.array]}"
                self._lines[item.key] = replace(line, result=why, failed=True)
            elif any(_is_left(item.item, other) for other in found[item.array]):
                self._lines[item.key] = replace(line, result=f"failed: {item.item.path} is still there", failed=True)

    async def _recall(self) -> Sightings:
        if not self._memory:
            return Sightings()
        try:
            return await self._workers.run(partial(orphan_sightings.read, self._memory), timeout=FILE_SECONDS)
        except (OSError, ValueError, DriverError) as error:
            log.warning("%s counts as none, so that everything is seen for the first time: %s", self._memory, error)
            return Sightings()

    async def _remember(self, everything: Sequence[Judged], moment: Now, made: float) -> None:
        if not self._memory:
            return
        seen = {item.key: item.item.incarnation for item in everything if item.verdict is Verdict.ORPHAN}
        # Of what is here now, and of leftovers: the names of files do not tell their ids.
        ids = {item.object_id for item in everything if item.object_id}
        if self._away:
            ids |= self._sightings.known_ids
        updated = self._sightings.updated(seen, ids, moment, list_time=made, unseen=self._is_away)
        try:
            write = partial(orphan_sightings.write, self._memory, updated)
            await finish(self._workers.run(write, timeout=FILE_SECONDS))
        except (OSError, DriverError) as error:
            log.warning("this report is not remembered: %s cannot be written: %s", self._memory, error)


def _is_left(deleted: ArrayObject, found: ArrayObject) -> bool:
    """Whether ``found`` is what was deleted, or its file; a disk that was made anew meanwhile is neither."""
    return found.path == deleted.path and found.incarnation in ("", deleted.incarnation)
