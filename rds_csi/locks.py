"""One operation per volume at a time: a set of what is running, no map that grows (design, rule 6)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rds_csi.errors import Aborted


class OperationLocks:
    """Which keys (volume ids) are being worked on. A second caller is turned away at once, never queued."""

    def __init__(self) -> None:
        self._running: dict[str, str] = {}

    @contextmanager
    def hold(self, operation: str, *keys: str) -> Iterator[None]:
        """Hold every key for the block; Aborted, naming the running operation, when one is held already."""
        for key in keys:
            if key in self._running:
                raise Aborted(
                    f"{self._running[key]} is running for {key}, so {operation} has to wait",
                    remedy="The call is repeated by itself; nothing needs to be done.",
                )
        held = dict.fromkeys(keys, operation)
        self._running.update(held)
        try:
            yield
        finally:
            for key in held:
                del self._running[key]

    def is_held(self, key: str) -> bool:
        """Whether an operation on ``key`` is running."""
        return key in self._running

    def running(self) -> Sequence[tuple[str, str]]:
        """What is running now: (key, operation)."""
        return tuple(self._running.items())
