"""Looks at the array's disks, shared: one is under way at most, and who asks meanwhile is answered by the next one.

So everybody is answered by a look that began after the question, however many ask at once.
"""

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass

from rds_csi import deadline
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import Anchors
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, Unsent
from rds_csi.arrays.routeros.records import Disk
from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.retry import Clock

# Questions. Beyond these, one listing of everything is shorter than a search for each.
FEW = 16
# A read may be repeated freely; seconds before the second and last attempt.
ATTEMPTS = 2
PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class _Question:
    """``anchors`` None: everything."""

    anchors: Anchors | None
    answer: asyncio.Future[tuple[Disk, ...]]


class Lookups:
    """Answers which disks there are. ``looks`` counts what the array was asked."""

    def __init__(self, client: Client, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or Clock()
        self._questions: list[_Question] = []
        self._looking: asyncio.Task[None] | None = None
        self.looks = 0

    async def find(self, anchors: Anchors) -> tuple[Disk, ...]:
        """The disks that the anchors find. Unavailable (or what else the client raises) when it cannot be known;
        DeadlineExceeded when the caller's time is over before it is."""
        return await self._ask(anchors)

    async def all(self) -> tuple[Disk, ...]:
        """Every disk of the device."""
        return await self._ask(None)

    async def close(self) -> None:
        """Stop looking; who still waits is told that the array is closed."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        _fail(self._take(), Unavailable("the array is being closed"))

    async def _ask(self, anchors: Anchors | None) -> tuple[Disk, ...]:
        answer: asyncio.Future[tuple[Disk, ...]] = asyncio.get_running_loop().create_future()
        self._questions.append(_Question(anchors, answer))
        if self._looking is None:
            # In a context of its own: the deadline of the one who happened to ask first is not the others'.
            self._looking = asyncio.get_running_loop().create_task(self._answer(), context=contextvars.Context())
        try:
            async with asyncio.timeout(deadline.remaining()):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded("the array did not tell its disks before the caller's time was over") from None

    def _take(self) -> list[_Question]:
        questions, self._questions = self._questions, []
        return questions

    async def _answer(self) -> None:
        questions: list[_Question] = []
        try:
            while questions := [item for item in self._take() if not item.answer.done()]:
                await self._answer_these(questions)
        except asyncio.CancelledError:
            _fail(questions, Unavailable("the array is being closed"))
            raise
        finally:
            self._looking = None

    async def _answer_these(self, questions: Sequence[_Question]) -> None:
        try:
            disks = await self._look([item.anchors for item in questions])
        except Exception as error:  # told to everybody who asked
            _fail(questions, error)
            return
        index = _Index(disks)
        for item in questions:
            if not item.answer.done():
                item.answer.set_result(disks if item.anchors is None else index.find(item.anchors))

    async def _look(self, asked: Sequence[Anchors | None]) -> tuple[Disk, ...]:
        few = [anchors for anchors in asked if anchors is not None]
        attempt = 1
        while True:
            self.looks += 1
            try:
                if len(few) == len(asked) <= FEW:
                    return await self._client.find_disks(_merged(few))
                return await self._client.list_disks()
            except (Unsent, LostReply, GarbageReply):
                if attempt == ATTEMPTS:
                    raise
            attempt += 1
            await self._clock.sleep(PAUSE)


class _Index:
    """Disks by all that anchors ask for: a thousand questions to a list of ten thousand take no time."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = disks
        self._places: dict[tuple[str, str], list[int]] = {}
        for place, disk in enumerate(disks):
            for key in (("slot", disk.slot), ("nqn", disk.nqn), ("path", disk.file_path)):
                self._places.setdefault(key, []).append(place)

    def find(self, anchors: Anchors) -> tuple[Disk, ...]:
        """What the anchors find, in the device's order (as ``Anchors.match`` says)."""
        keys = [("slot", slot) for slot in anchors.slots]
        keys += [("nqn", nqn) for nqn in anchors.nqns]
        keys += [("path", path) for path in anchors.paths]
        return tuple(self._disks[place] for place in sorted({one for key in keys for one in self._places.get(key, ())}))


def _merged(asked: Sequence[Anchors]) -> Anchors:
    return Anchors(
        slots=tuple(dict.fromkeys(slot for anchors in asked for slot in anchors.slots)),
        nqns=tuple(dict.fromkeys(nqn for anchors in asked for nqn in anchors.nqns)),
        paths=tuple(dict.fromkeys(path for anchors in asked for path in anchors.paths)),
    )


def _fail(questions: Sequence[_Question], error: Exception) -> None:
    for item in questions:
        if not item.answer.done():
            item.answer.set_exception(error)
            # The one who asked may be gone; then nobody is to be told.
            item.answer.exception()
