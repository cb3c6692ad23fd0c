"""The users that requests are made as: RouterOS works on one request of a user at a time, so each serves one."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

from rds_csi.arrays.routeros.secrets import Credentials


class UserPool:
    """Hands out free users, first come first served. Its users may change at any time (rotated files)."""

    def __init__(self) -> None:
        self._known: dict[str, Credentials] = {}
        self._free: deque[str] = deque()
        self._busy: set[str] = set()
        self._waiting: deque[asyncio.Future[Credentials]] = deque()

    def update(self, credentials: Sequence[Credentials]) -> None:
        """Make these the users: new ones serve at once, others end with what they are busy with."""
        self._known = {item.user: item for item in credentials}
        self._free = deque(user for user in self._free if user in self._known)
        for user in self._known:
            if user not in self._busy and user not in self._free:
                self._free.append(user)
        self._serve()

    async def take(self, timeout: float) -> Credentials:
        """A user for one request; TimeoutError after ``timeout`` seconds."""
        place: asyncio.Future[Credentials] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._serve()
        try:
            async with asyncio.timeout(timeout):
                return await place
        except BaseException:
            if place.done() and not place.cancelled():
                # It was given a user in the very moment in which it gave up.
                self.give_back(place.result().user)
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(place)

    def give_back(self, user: str) -> None:
        """The user's request has ended."""
        self._busy.discard(user)
        if user in self._known:
            self._free.append(user)
        self._serve()

    def _serve(self) -> None:
        while self._free and self._waiting:
            place = self._waiting.popleft()
            if place.done():
                # Its caller has gone.
                continue
            user = self._free.popleft()
            self._busy.add(user)
            place.set_result(self._known[user])
