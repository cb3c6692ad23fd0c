"""Pages of a listing, with tokens that stay good while entries come and go.

A token names the last entry given, not a position: what is deleted between two pages neither hides nor
repeats another entry (CSI 1.13, ListVolumes).
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from rds_csi.errors import Aborted, InvalidArgument
from rds_csi.model.names import is_id

T = TypeVar("T")

# How long the pages of a listing are taken from one look at the array.
KEPT_SECONDS = 30.0


def check_max_entries(max_entries: int) -> int:
    """``max_entries`` itself (0: no limit); InvalidArgument when it is negative."""
    if max_entries < 0:
        raise InvalidArgument(f"max_entries is negative: {max_entries}")
    return max_entries


def token_after(kind: str, last_id: str) -> str:
    """The token of the page that starts after ``last_id`` in the listing ``kind``."""
    return base64.urlsafe_b64encode(f"{kind}:{last_id}".encode("ascii")).decode("ascii")


def id_before(kind: str, token: str) -> str:
    """The last id given before ``token`` ("" for the first page); Aborted when ``token`` is not of this listing."""
    if not token:
        return ""
    try:
        text = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    token_kind, _, last_id = text.partition(":")
    if token_kind != kind or not is_id(last_id):
        raise Aborted(
            f"starting_token is not a token of this listing: {token[:64]!r}",
            remedy="Start again with an empty starting_token.",
        )
    return last_id


def paginate(
    entries: Sequence[T], key: Callable[[T], str], *, kind: str, max_entries: int, token: str
) -> tuple[list[T], str]:
    """One page of ``entries``, in the order of their ids, and the token of the next page ("" at the end)."""
    limit = check_max_entries(max_entries)
    last_id = id_before(kind, token)
    rest = sorted((entry for entry in entries if key(entry) > last_id), key=key)
    page = rest[:limit] if limit else rest
    return page, token_after(kind, key(page[-1])) if len(page) < len(rest) else ""


class KeptListing(Generic[T]):
    """One look at the array for all pages of a listing, instead of one for each.

    The first page always looks anew. CSI 1.13, ListVolumes: what is made or deleted while somebody pages may be
    missed. What was looked at is forgotten after the last page, or after KEPT_SECONDS.
    """

    def __init__(self, read: Callable[[], Awaitable[Sequence[T]]]) -> None:
        self._read = read
        self._kept: Sequence[T] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def entries(self, token: str) -> Sequence[T]:
        """All entries, for the page that ``token`` names ("" for the first one)."""
        if token and self._kept is not None:
            return self._kept
        entries = await self._read()
        self.forget()
        self._kept = entries
        self._timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.forget)
        return entries

    def forget(self) -> None:
        """Let go of what was looked at."""
        if self._timer is not None:
            self._timer.cancel()
        self._kept = self._timer = None
