"""The caller's deadline, handed down: whoever waits on something outside can ask how long waiting makes sense."""

import time
from contextvars import ContextVar

# A moment of time.monotonic(), or None while nobody waits for an answer by a certain time.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def set_deadline(moment: float | None) -> None:
    """Set the deadline of this task and of the tasks that it starts: a moment of ``time.monotonic()``."""
    _deadline.set(moment)


def remaining() -> float | None:
    """Seconds until the caller gives up, never below 0; None when the caller set no deadline."""
    moment = _deadline.get()
    return None if moment is None else max(0.0, moment - time.monotonic())


def within(seconds: float) -> float:
    """``seconds``, or what is left until the caller's deadline when that is less."""
    left = remaining()
    return seconds if left is None else min(seconds, left)
