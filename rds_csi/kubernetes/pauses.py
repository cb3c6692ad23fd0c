"""How long to leave the API server alone after it has failed."""

from random import Random

from rds_csi.kubernetes.errors import ApiAway

# Seconds before the first repetition; doubled at each up to the largest.
FIRST_SECONDS = 1.0
LARGEST_SECONDS = 60.0
# The share that is added at most: the nodes of a cluster must not come back in step.
JITTER = 0.3


class Pauses:
    """The pauses of one series of failures."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = FIRST_SECONDS

    def after(self, error: Exception) -> float:
        """Seconds to wait after ``error``; what the server itself asks for when that is more."""
        seconds, self._next = self._next, min(2 * self._next, LARGEST_SECONDS)
        asked = error.retry_after if isinstance(error, ApiAway) else 0.0
        return max(seconds, min(asked, LARGEST_SECONDS)) * (1 + JITTER * self._random.random())

    def reset(self) -> None:
        """The series has ended."""
        self._next = FIRST_SECONDS
