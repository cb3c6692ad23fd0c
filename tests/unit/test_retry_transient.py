"""Retries and polls: how often, at what pace, and what ends them."""

import asyncio

import pytest

from rds_csi.errors import Unavailable
from rds_csi.retry import Failure, Pace, RetryPolicy, Transient, poll, retry_transient
from tests.support.clock import FakeClock

# The pauses are real: millionths of a second instead of seconds.
QUICK = RetryPolicy(first_delay=1e-6)


class Step:
    """Fails as often as told, then gives "done"."""

    def __init__(self, failures: int, error: type[Exception] = Transient) -> None:
        self.failures = failures
        self.error = error
        self.attempts = 0
        self.tried = asyncio.Event()

    async def __call__(self) -> str:
        self.attempts += 1
        self.tried.set()
        if self.attempts <= self.failures:
            raise self.error(f"failure {self.attempts}")
        return "done"


def test_the_policy_is_five_attempts_from_one_second_doubled() -> None:
    assert RetryPolicy() == RetryPolicy(attempts=5, first_delay=1.0, factor=2.0, jitter=0.1)


async def test_a_transient_failure_is_tried_again() -> None:
    step = Step(4)
    assert await retry_transient(step, QUICK) == "done"
    assert step.attempts == 5


async def test_the_last_failure_is_raised_after_the_attempts() -> None:
    step = Step(9)
    with pytest.raises(Transient, match="failure 5"):
        await retry_transient(step, QUICK)
    assert step.attempts == 5


async def test_any_other_failure_ends_it_at_once() -> None:
    step = Step(9, Unavailable)
    with pytest.raises(Unavailable, match="failure 1"):
        await retry_transient(step, QUICK)
    assert step.attempts == 1


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_pauses_double_and_have_a_tenth_of_jitter(chance: float) -> None:
    told: list[Failure] = []
    await retry_transient(Step(4), QUICK, chance=lambda: chance, notify=told.append)
    wanted = [1e-6 * 2**n * (1 + 0.1 * chance) for n in range(4)]
    assert [failure.delay for failure in told] == pytest.approx(wanted)
    assert [failure.attempt for failure in told] == [1, 2, 3, 4]
    assert [failure.error.message for failure in told] == [f"failure {n}" for n in range(1, 5)]


async def test_a_cancelled_retry_makes_no_further_attempt() -> None:
    step = Step(9)
    call = asyncio.create_task(retry_transient(step, RetryPolicy(first_delay=60.0)))
    await step.tried.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert step.attempts == 1


async def test_a_poll_looks_at_once_then_at_doubled_pauses() -> None:
    clock = FakeClock()

    async def look() -> float | None:
        return clock.seconds if clock.seconds >= 2 else None

    assert await poll(look, timeout=30, clock=clock.clock, pace=Pace(0.25, 1.0)) == 2.75
    assert clock.pauses == [0.25, 0.5, 1.0, 1.0]


async def test_a_poll_that_sees_it_at_once_does_not_pause() -> None:
    clock = FakeClock()

    async def look() -> str | None:
        return "there"

    assert await poll(look, timeout=30, clock=clock.clock) == "there"
    assert clock.pauses == []


async def test_a_poll_ends_at_its_deadline_with_a_last_look() -> None:
    clock = FakeClock()
    looks: list[float] = []

    async def look() -> str | None:
        looks.append(clock.seconds)
        return None

    assert await poll(look, timeout=1.0, clock=clock.clock) is None
    assert looks[-1] == pytest.approx(1.0)
