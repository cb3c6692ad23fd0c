"""Trying again and waiting: bounded retries of transient failures, and polls with a deadline."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import backoff

from rds_csi.errors import Unavailable

T = TypeVar("T")

Sleep = Callable[[float], Awaitable[None]]


class Transient(Unavailable):
    """Unavailable, and well worth another attempt within seconds: refused, unreachable, timed out."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and at what pace a transient failure is tried again (design, section 5).

    ``first_delay`` in seconds is multiplied by ``factor`` at each failure; ``jitter`` is the share of it that
    is added at most, so that the nodes of a cluster do not knock in step after the array's restart.
    """

    attempts: int = 5
    first_delay: float = 1.0
    factor: float = 2.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt that is tried again: its number from 1, its error, the pause in seconds before the next."""

    attempt: int
    error: Transient
    delay: float


def _ignore(_: Failure) -> None:
    return


async def retry_transient(
    step: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    chance: Callable[[], float] = random.random,
    notify: Callable[[Failure], None] = _ignore,
) -> T:
    """The result of ``step()``, tried again after a ``Transient`` as ``policy`` says.

    The last attempt's error is raised as it is; any other error at once. ``chance`` gives numbers in [0, 1).
    ``notify`` is told of every failure that is tried again. Cancellable at every moment.
    """

    def jittered(delay: float) -> float:
        return delay * (1 + policy.jitter * chance())

    async def attempt() -> T:
        return await step()

    trying = backoff.on_exception(
        backoff.expo,
        Transient,
        max_tries=policy.attempts,
        jitter=jittered,
        logger=None,
        on_backoff=lambda details: notify(Failure(details["tries"], details["exception"], details["wait"])),
        base=policy.factor,
        factor=policy.first_delay,
    )(attempt)
    return await trying()


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as waits see it: seconds that only grow, and a pause. Injected, so that tests do not wait."""

    now: Callable[[], float] = time.monotonic
    sleep: Sleep = field(default=asyncio.sleep)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a poll looks: after ``first`` seconds, then doubling up to ``largest``."""

    first: float = 0.02
    largest: float = 0.5


async def poll(
    look: Callable[[], Awaitable[T | None]], *, timeout: float, clock: Clock, pace: Pace = Pace()
) -> T | None:
    """The first answer of ``look()`` that is not None; None when ``timeout`` seconds brought none.

    Looks at once, and a last time when the time is over, so that a stalled process does not miss what is there.
    """
    deadline = clock.now() + timeout
    delay = pace.first
    while True:
        answer = await look()
        left = deadline - clock.now()
        if answer is not None or left <= 0:
            return answer
        await clock.sleep(min(delay, left))
        delay = min(2 * delay, pace.largest)
