"""Notices become Events: queued in no time, written in the background, repeats counted on the same Event."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from rds_csi.errors import DriverError, Unavailable
from rds_csi.kubernetes.api import MERGE_PATCH, Api
from rds_csi.kubernetes.errors import Conflict, NoSuchObject
from rds_csi.kubernetes.objects import Objects
from rds_csi.kubernetes.pauses import Pauses
from rds_csi.kubernetes.resources import Reference, events_path
from rds_csi.kubernetes.series import (
    NEWS_SECONDS,
    Allowance,
    Saying,
    Series,
    clean,
    event_body,
    event_name,
    event_namespace,
    timestamp,
)
from rds_csi.kubernetes.values import Object
from rds_csi.model.notices import Notice
from rds_csi.retry import Clock

log = logging.getLogger(__name__)

# Different notices that wait to be told.
QUEUED = 256
# Events, and objects with events, that are remembered; the ones used longest ago are forgotten.
_REMEMBERED = 1024


@dataclass(slots=True)
class _Waiting:
    """How often a notice came, and when first (a moment that only grows) and last (Unix time). ``notice`` is the
    last."""

    notice: Notice
    times: int
    since: float
    wall: float


class EventRecorder:
    """Tells notices as Events of ``component`` (the driver) on ``host`` (the node)."""

    def __init__(
        self,
        api: Api,
        objects: Objects,
        *,
        component: str,
        host: str,
        clock: Clock,
        wall_clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._api = api
        self._objects = objects
        self._component = component
        self._host = host
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._pauses = Pauses(random)
        # By the notices' identities.
        self._waiting: dict[Notice, _Waiting] = {}
        self._series: OrderedDict[Saying, Series] = OrderedDict()
        self._allowances: OrderedDict[Reference, Allowance] = OrderedDict()
        self._bell = asyncio.Event()
        # Whether a drop was told since the API server last answered.
        self._told = False

    def announce(self, notice: Notice) -> None:
        """Have it told. Never waits, never raises."""
        identity = notice.identity
        waiting = self._waiting.get(identity)
        if waiting is not None:
            waiting.notice = notice
            waiting.times += 1
            waiting.wall = self._wall_clock()
        elif len(self._waiting) < QUEUED:
            self._waiting[identity] = _Waiting(notice, 1, self._clock.now(), self._wall_clock())
        else:
            self._drop(notice.message, f"{QUEUED} others are waiting")
        self._bell.set()

    async def run(self) -> None:
        """For ever: tell what is announced. While the API server is away it is tried less and less often."""
        while True:
            self._bell.clear()
            try:
                await self.deliver()
                self._pauses.reset()
                pause = self._until_due()
            except Exception as error:
                if not isinstance(error, DriverError):
                    log.exception("events could not be written")
                await self._clock.sleep(self._pauses.after(error))
                self.forget_old()
                continue
            await self._sleep(pause)

    async def deliver(self) -> None:
        """Write what is due. Unavailable (also ``ApiAway``) when the API server does not take it now: what was not
        written is kept; what it refuses for good is dropped."""
        try:
            await self._take_up()
        except Unavailable:
            # One notice whose objects cannot be looked up must not keep what is known already.
            await self._write_due()
            raise
        await self._write_due()

    async def _take_up(self) -> None:
        """Find the objects of what waits, and count it on their Events to be."""
        for identity in list(self._waiting):
            # Kept until its objects are known; whatever comes meanwhile is counted with it.
            abouts = await self._of(identity)
            waiting = self._waiting.pop(identity)
            notice = waiting.notice
            # kubectl describe shows no host, and "this node" must be one.
            where = f"node {self._host}: " if notice.reason.happens_on_a_node else ""
            message = clean(where + notice.message)
            for about in abouts:
                series = self._series_of(Saying(about, notice.reason.value, notice.warning, notice.nqn))
                series.add(message, waiting.times, waiting.since, waiting.wall)

    async def _write_due(self) -> None:
        for saying, series in list(self._series.items()):
            if series.pending and series.due <= self._clock.now():
                await self._write(saying, series)

    def forget_old(self) -> None:
        """Drop what could not be told for so long that it is no news any more."""
        now = self._clock.now()
        for identity, waiting in list(self._waiting.items()):
            if now - waiting.since > NEWS_SECONDS:
                del self._waiting[identity]
                self._drop(waiting.notice.message, f"the API server was away for {NEWS_SECONDS:g} s")
        for series in self._series.values():
            if series.pending and series.is_old(now):
                series.pending = 0
                self._drop(series.message, f"the API server was away for {NEWS_SECONDS:g} s")

    async def _of(self, identity: Notice) -> tuple[Reference, ...]:
        """The objects of a notice that waits."""
        try:
            return await self._objects.of(identity)
        except Unavailable:
            # The next round begins with the others: it may be this one alone that cannot be looked up.
            self._waiting[identity] = self._waiting.pop(identity)
            raise
        except DriverError as error:
            self._drop(self._waiting[identity].notice.message, str(error))
            return ()

    async def _write(self, saying: Saying, series: Series) -> None:
        try:
            if series.count and await self._repeat(saying, series):
                return
            if not series.name and not self._may_create(saying.about):
                series.pending = 0
                self._drop(series.message, f"{saying.about.kind} {saying.about.name} has many events already")
                return
            await self._create(saying, series)
        except Unavailable:
            # The next round begins with the others: it may be this one alone that is not taken.
            self._series.move_to_end(saying)
            raise
        except DriverError as error:
            series.pending = 0
            self._drop(series.message, str(error))

    async def _create(self, saying: Saying, series: Series) -> None:
        # Kept for the repetition after a lost reply: one Event is enough.
        series.name = series.name or event_name(saying.about, self._random.getrandbits(64))
        count = series.pending
        body = event_body(saying, series, series.name, count, component=self._component, host=self._host)
        try:
            await self._api.create(events_path(event_namespace(saying.about)), body)
        except Conflict:
            await self._repeat(saying, series)
            return
        self._wrote(series, count)

    async def _repeat(self, saying: Saying, series: Series) -> bool:
        """Have the Event show all times; False when it is not there any more."""
        count = series.count + series.pending
        path = f"{events_path(event_namespace(saying.about))}/{series.name}"
        change: Object = {"count": count, "lastTimestamp": timestamp(series.last_wall), "message": series.message}
        try:
            await self._api.patch(path, change, MERGE_PATCH)
        except NoSuchObject:
            series.lost()
            return False
        self._wrote(series, count)
        return True

    def _wrote(self, series: Series, count: int) -> None:
        series.wrote(count, self._clock.now())
        self._told = False

    def _series_of(self, saying: Saying) -> Series:
        series = self._series.setdefault(saying, Series())
        self._series.move_to_end(saying)
        while len(self._series) > _REMEMBERED:
            self._series.popitem(last=False)
        return series

    def _may_create(self, about: Reference) -> bool:
        allowance = self._allowances.setdefault(about, Allowance(at=self._clock.now()))
        self._allowances.move_to_end(about)
        while len(self._allowances) > _REMEMBERED:
            self._allowances.popitem(last=False)
        return allowance.take(self._clock.now())

    def _drop(self, message: str, why: str) -> None:
        """Told once, until events can be written again."""
        log.log(logging.DEBUG if self._told else logging.WARNING, "not told as an event (%s): %s", why, message)
        self._told = True

    def _until_due(self) -> float | None:
        """Seconds until something has to be written; None when nothing waits."""
        due = [series.due for series in self._series.values() if series.pending]
        return max(0.0, min(due) - self._clock.now()) if due else None

    async def _sleep(self, seconds: float | None) -> None:
        """Until something is announced, or for so many seconds."""
        rung = asyncio.ensure_future(self._bell.wait())
        pauses = {rung} if seconds is None else {rung, asyncio.ensure_future(self._clock.sleep(seconds))}
        try:
            await asyncio.wait(pauses, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pause in pauses:
                pause.cancel()
            await asyncio.gather(*pauses, return_exceptions=True)
