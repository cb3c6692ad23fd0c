"""Pauses after failed connections: who asks meanwhile is told the same failure at once, instead of queueing."""

from rds_csi.errors import DriverError
from rds_csi.retry import Clock, Pace

# Seconds after the first failure, and at most: callers must not wait out one dial after the other (lessons, L12).
DIAL_PACE = Pace(first=1.0, largest=30.0)


def again(error: DriverError) -> DriverError:
    """The same failure for another caller: an exception that is raised twice drags along both tracebacks."""
    copy = type(error)(error.message, remedy=error.remedy)
    copy.__cause__ = error.__cause__
    return copy


class Pauses:
    """One pause after each failure in a row, each twice as long as the one before."""

    def __init__(self, clock: Clock, pace: Pace = DIAL_PACE) -> None:
        self._clock = clock
        self._pace = pace
        self._failure: DriverError | None = None
        self._next = pace.first
        self._until = 0.0

    def check(self) -> None:
        """Raise the last failure again while its pause lasts."""
        if self._failure is not None and self._clock.now() < self._until:
            raise again(self._failure)

    def failed(self, error: DriverError) -> None:
        """Begin a pause because of ``error``."""
        self._failure = error
        self._until = self._clock.now() + self._next
        self._next = min(2 * self._next, self._pace.largest)

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failure = None
        self._next = self._pace.first
