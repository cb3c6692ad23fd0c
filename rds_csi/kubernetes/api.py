"""A small client of the Kubernetes API: get, list, create and patch, with the pod's own ServiceAccount."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

from rds_csi import __version__
from rds_csi.errors import ConfigurationError, DeadlineExceeded
from rds_csi.kubernetes.access import Access, Credentials
from rds_csi.kubernetes.errors import ApiAway, Expired
from rds_csi.kubernetes.exchange import Reply, Request, value_of
from rds_csi.kubernetes.values import Json, Object, items, text
from rds_csi.retry import Clock
from rds_csi.workers import Workers

if TYPE_CHECKING:
    from rds_csi.kubernetes.transport import Transport

T = TypeVar("T")

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"

# Objects in a page: what client-go asks for.
PAGE_OBJECTS = 500
# How often a list is begun that turned out too old to go on.
_LISTS = 3
# Seconds after which the files are read again; the kubelet renews a token long before it ends.
FRESH_SECONDS = 30.0
# To read them, httpx loaded the first time.
_FILES_SECONDS = 10.0


class Api:
    """The API server. Every method raises the errors of ``kubernetes.errors``; a request takes 10 s at most."""

    def __init__(self, access: Access, workers: Workers, *, clock: Clock | None = None) -> None:
        self.label = access.label
        self._access = access
        self._workers = workers
        self._clock = clock or Clock()
        self._opened: tuple[Transport, Credentials] | None = None
        # Replaced, and kept until the next one is: a request may still be on it.
        self._retired: Transport | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def get(self, path: str) -> Object:
        """The object at ``path``. NoSuchObject."""
        return await self._ask(Request("GET", path))

    async def collect(self, path: str, read: Callable[[Object], T | None]) -> list[T]:
        """What ``read`` makes of every object of the collection at one moment, without its Nones."""
        return await self._at_one_moment(path, read, most=None)

    async def find(self, path: str, read: Callable[[Object], T | None]) -> T | None:
        """The first object of the collection of which ``read`` makes something; None when there is none."""
        found = await self._at_one_moment(path, read, most=1)
        return found[0] if found else None

    async def create(self, path: str, body: Object) -> Object:
        """Create an object in the collection. Conflict when it is there already."""
        return await self._ask(Request("POST", path, json.dumps(body).encode()))

    async def patch(self, path: str, body: Json, content_type: str) -> Object:
        """Change the object at ``path``. NoSuchObject, Conflict; Invalid when a test of a JSON patch fails."""
        return await self._ask(Request("PATCH", path, json.dumps(body).encode(), content_type))

    async def close(self) -> None:
        """Close the connections."""
        opened, self._opened = self._opened, None
        await self._retire(opened[0] if opened is not None else None)
        await self._retire(None)

    async def _at_one_moment(self, path: str, read: Callable[[Object], T | None], most: int | None) -> list[T]:
        for _ in range(_LISTS):
            try:
                return await self._read_pages(path, read, most)
            except Expired:
                # A page that was asked for too late; the pages of another moment do not go with those read.
                continue
        raise ApiAway(f"the API server at {self.label} forgets its list of {path} before it is read")

    async def _read_pages(self, path: str, read: Callable[[Object], T | None], most: int | None) -> list[T]:
        found: list[T] = []
        async with aclosing(self._pages(path)) as pages:
            async for page in pages:
                found += [value for item in page if isinstance(item, Mapping) and (value := read(item)) is not None]
                if most is not None and len(found) >= most:
                    break
        return found

    async def _pages(self, path: str) -> AsyncGenerator[list[Json], None]:
        query = {"limit": str(PAGE_OBJECTS)}
        while True:
            page = await self._ask(Request("GET", f"{path}?{urlencode(query)}"))
            if not text(page, "kind").endswith("List"):
                # Of a proxy, say. A page that is missing would look as if its objects were not there.
                raise ApiAway(f"the API server at {self.label} answers GET {path} with something that is no list")
            yield items(page, "items")
            token = text(page, "metadata", "continue")
            if not token:
                return
            query["continue"] = token

    async def _ask(self, request: Request) -> Object:
        transport, credentials = await self._open()
        reply = await transport.send(request, credentials.token)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            reply = await self._ask_renewed(request, reply, credentials)
        return value_of(request, reply, self.label)

    async def _ask_renewed(self, request: Request, refusal: Reply, refused: Credentials) -> Reply:
        """The token has ended, or its ServiceAccount was made anew: the file may hold another one by now."""
        transport, credentials = await self._open(refused)
        return refusal if credentials == refused else await transport.send(request, credentials.token)

    async def _open(self, refused: Credentials | None = None) -> "tuple[Transport, Credentials]":
        """The connections and the credentials, which are read again when they are old, or were refused."""
        async with self._reading:
            now = self._clock.now()
            if self._opened is None or self._opened[1] is refused or now - self._read_at >= FRESH_SECONDS:
                self._opened = await self._read(self._opened)
                self._read_at = now
            return self._opened

    async def _read(self, before: "tuple[Transport, Credentials] | None") -> "tuple[Transport, Credentials]":
        def read() -> "tuple[Transport, Credentials]":
            credentials = self._access.read()
            if before is not None and before[1].ca == credentials.ca:
                return before[0], credentials
            # Here, in a worker: it takes a while, and outside a cluster nobody pays for it.
            from rds_csi.kubernetes.transport import Transport  # noqa: PLC0415

            return Transport(self._access, credentials.ca, f"rds-csi/{__version__}"), credentials

        try:
            opened = await self._workers.run(read, timeout=_FILES_SECONDS)
        except (ConfigurationError, DeadlineExceeded) as error:
            raise ApiAway(f"the API server at {self.label} cannot be asked: {error.message}") from None
        if before is not None and before[0] is not opened[0]:
            await self._retire(before[0])
        return opened

    async def _retire(self, transport: "Transport | None") -> None:
        retired, self._retired = self._retired, transport
        if retired is not None:
            await retired.close()
