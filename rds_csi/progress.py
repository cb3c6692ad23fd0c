"""How far a running operation is, told by whoever works on it: for ``rds-csi status`` and the log of slow calls."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """One operation. ``began`` is a moment of ``time.monotonic()``; ``subject`` is for whom (a volume id);
    ``step`` is what it is at, for people; ``attempt`` counts from 1, 0 for a step without attempts."""

    what: str
    began: float = field(default_factory=time.monotonic)
    subject: str = ""
    step: str = ""
    attempt: int = 0

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began

    def describe(self) -> str:
        """The step and its attempt in one phrase; "" when nothing was told."""
        return f"{self.step}, attempt {self.attempt}" if self.step and self.attempt else self.step


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def begin(what: str) -> Progress:
    """The progress of an operation that begins in this task; tasks that it starts tell theirs to the same one."""
    progress = Progress(what)
    _current.set(progress)
    return progress


def current() -> Progress | None:
    """The progress of the operation that this task works for."""
    return _current.get()


def note(step: str, *, attempt: int = 0) -> None:
    """Tell what the operation is at now; without one, nobody is told."""
    progress = _current.get()
    if progress is not None:
        progress.step, progress.attempt = step, attempt
