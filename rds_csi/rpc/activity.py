"""What a running server tells about itself on its status socket: operations, and sessions that do not come back."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rds_csi.locks import OperationLocks, Running
from rds_csi.rpc.http import Document

# The path of the document.
OPERATIONS = "/operations"

_SOCKET_NAME = "status.sock"

# What is wrong with a session, in one sentence, by its NQN.
Troubles = Callable[[], Awaitable[Mapping[str, str]]]


def status_socket(state_dir: str) -> str:
    """Where the server of a node listens for ``rds-csi status``: beside what it keeps, for root alone."""
    return os.path.join(state_dir, _SOCKET_NAME)


async def no_troubles() -> Mapping[str, str]:
    """Nobody keeps sessions."""
    return {}


def activity_of(locks: Sequence[OperationLocks], troubles: Troubles = no_troubles) -> Document:
    """The document OPERATIONS: ``{"operations": [{key, operation, subject, seconds, step, attempt}, …],
    "troubles": {nqn: sentence}}``, the operation that has run longest first."""

    async def document() -> object:
        running = [item for some in locks for item in some.running()]
        # One that holds several keys is told once, with the first.
        operations = {(id(item.progress), item.operation): item for item in reversed(running)}
        told = [_told(item) for item in sorted(operations.values(), key=lambda item: item.progress.began)]
        return {"operations": told, "troubles": dict(await troubles())}

    return document


def _told(running: Running) -> dict[str, object]:
    progress = running.progress
    return {
        "key": running.key,
        "operation": running.operation,
        "subject": progress.subject,
        "seconds": round(progress.seconds, 3),
        "step": progress.step,
        "attempt": progress.attempt,
    }
