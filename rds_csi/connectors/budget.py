"""How long a step may take, so that the caller hears the reason before its own deadline."""

from rds_csi.deadline import remaining

# Seconds kept back for taking away what a failed call has made, and for the answer's way.
ANSWER_SECONDS = 1.0


def budget(seconds: float) -> float:
    """``seconds``, or what the caller's deadline leaves for work when that is less; never below 0."""
    left = remaining()
    return seconds if left is None else max(0.0, min(seconds, left - ANSWER_SECONDS))
