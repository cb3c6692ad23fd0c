"""Waiting for what the kernel does on its own, with a deadline."""

import time
from collections.abc import Callable

POLL_SECONDS = 0.02
# Far above what the kernel takes, in an emulated machine too.
DEFAULT_SECONDS = 30.0


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = DEFAULT_SECONDS) -> float:
    """Return when ``condition()`` holds, with the seconds that it took.

    AssertionError naming ``what`` after the time.
    """
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"after {seconds:g} s still not so: {what}")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - begun
