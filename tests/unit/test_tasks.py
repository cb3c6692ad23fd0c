"""Steps that a cancelled caller must not cut in two."""

import asyncio

import pytest

from rds_csi.tasks import finish
from tests.support.rpc import eventually


async def test_finish_gives_the_steps_result() -> None:
    async def step() -> int:
        await asyncio.sleep(0)
        return 7

    assert await finish(step()) == 7


async def test_finish_raises_the_steps_failure() -> None:
    async def step() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await finish(step())


class Step:
    """A step that waits until it is let go, and tells that it went to its end."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = False
        self._failure = failure

    async def run(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        self.ended = True
        if self._failure:
            raise self._failure
        return "done"


async def test_a_cancelled_caller_waits_for_the_end_of_the_step() -> None:
    step = Step()
    caller = asyncio.create_task(finish(step.run()))
    await step.begun.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert step.ended


async def test_a_failure_after_the_cancellation_is_no_unhandled_error() -> None:
    step = Step(OSError("too late"))
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    caller = asyncio.create_task(finish(step.run()))
    await step.begun.wait()
    caller.cancel()
    step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert step.ended
    assert told == []


async def test_a_step_that_is_cancelled_itself_ends_the_caller() -> None:
    step = Step()

    async def run() -> str:
        inner = asyncio.current_task()
        assert inner is not None
        asyncio.get_running_loop().call_soon(inner.cancel)
        return await step.run()

    with pytest.raises(asyncio.CancelledError):
        await finish(run())


async def test_a_timeout_around_the_step_comes_after_its_end() -> None:
    step = Step()
    asyncio.get_running_loop().call_later(0.02, step.go_on.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await finish(step.run())
    assert step.ended


async def test_a_caller_that_is_thrown_away_does_not_wait() -> None:
    step = Step()
    caller = finish(step.run())
    caller.send(None)
    caller.close()
    step.go_on.set()
    await eventually(lambda: step.ended, "the step ended")
