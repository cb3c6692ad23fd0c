"""Asks the server of this node, over its status socket, what it is doing now."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rds_csi.rpc.activity import OPERATIONS

# A healthy server answers at once; one that does not is not waited for.
_ASK_SECONDS = 3.0
# Far above what thousands of running operations take.
_ANSWER_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Operation:
    """One running operation: since how many ``seconds``, for whom (``subject``), at which ``step``; ``attempt``
    counts from 1, 0 for a step without attempts."""

    key: str
    operation: str
    subject: str
    seconds: float
    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What the server told; ``problem`` says why it did not, and is "" when it did.

    ``troubles``: by NQN, why the session of a staged volume is not back.
    """

    operations: tuple[Operation, ...] = ()
    troubles: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problem: str = ""


async def ask_server(path: str, *, seconds: float = _ASK_SECONDS) -> Activity:
    """What the server behind the socket at ``path`` is doing. Never raises: no server is an answer too."""
    try:
        async with asyncio.timeout(seconds):
            answer = await _exchange(path)
    except TimeoutError:
        return Activity(problem=f"the server at {path} did not answer within {seconds:g} s")
    except (FileNotFoundError, ConnectionRefusedError):
        return Activity(problem=f"no server answers at {path}")
    except OSError as error:
        return Activity(problem=f"the server at {path} cannot be asked: {error.strerror or error}")
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ValueError
        return _read(json.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Another version of the driver, or somebody else's socket.
        return Activity(problem=f"the server at {path} gave an answer that is not understood")


async def _exchange(path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(f"GET {OPERATIONS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await writer.drain()
        answer = bytearray()
        while len(answer) <= _ANSWER_BYTES and (chunk := await reader.read(_CHUNK_BYTES)):
            answer += chunk
        return bytes(answer)
    finally:
        writer.transport.abort()


def _read(document: Any) -> Activity:
    operations = tuple(
        Operation(
            key=str(item["key"]),
            operation=str(item["operation"]),
            subject=str(item["subject"]),
            seconds=float(item["seconds"]),
            step=str(item["step"]),
            attempt=int(item["attempt"]),
        )
        for item in document["operations"]
    )
    troubles = {str(nqn): str(trouble) for nqn, trouble in document["troubles"].items()}
    return Activity(operations, MappingProxyType(troubles))
