"""Blocking calls in bounded threads."""

import asyncio
import errno
import threading
from collections.abc import Iterator

import pytest

from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.logging import request_id
from rds_csi.workers import Workers


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """A call that waits for it is stuck, as on a dead device, until the test's end."""
    gate = threading.Event()
    yield gate
    gate.set()


async def all_back(workers: Workers, gate: threading.Event, *keys: str) -> None:
    gate.set()
    for key in keys:
        async with asyncio.timeout(5):
            while True:
                try:
                    await workers.run(int, timeout=5, key=key)
                    break
                except Unavailable:
                    await asyncio.sleep(0)


async def test_the_result_and_the_failure_come_back() -> None:
    workers = Workers()
    assert await workers.run(lambda: 3, timeout=5) == 3
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0, timeout=5)


async def test_a_stuck_call_ends_at_its_deadline_and_is_not_poked_again(gate: threading.Event) -> None:
    workers = Workers()
    with pytest.raises(DeadlineExceeded, match="/mnt/a did not come back within"):
        await workers.run(gate.wait, timeout=0.005, key="/mnt/a")
    with pytest.raises(Unavailable, match="stuck in the kernel"):
        await workers.run(gate.wait, timeout=5, key="/mnt/a")
    assert await workers.run(lambda: "other", timeout=5, key="/mnt/b") == "other"
    await all_back(workers, gate, "/mnt/a")


async def test_looks_at_the_same_key_may_overlap_while_none_is_stuck(gate: threading.Event) -> None:
    """Stats and health of one volume come at the same moment, and neither is wrong."""
    workers = Workers()
    first = asyncio.create_task(workers.run(gate.wait, timeout=5, key="a"))
    await asyncio.sleep(0)
    assert await workers.run(lambda: 2, timeout=5, key="a") == 2
    gate.set()
    assert await first


async def test_a_call_that_got_no_place_in_time_gives_its_key_back(gate: threading.Event) -> None:
    workers = Workers(limit=1)
    first = asyncio.create_task(workers.run(gate.wait, timeout=5, key="a"))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await workers.run(lambda: 1, timeout=0.005, key="b")
    gate.set()
    await first
    assert await workers.run(lambda: 1, timeout=5, key="b") == 1


async def test_a_cancelled_caller_leaves_the_thread_its_place_and_key(gate: threading.Event) -> None:
    workers = Workers(limit=1)
    call = asyncio.create_task(workers.run(gate.wait, timeout=5, key="a"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(DeadlineExceeded):
        await workers.run(lambda: 1, timeout=0.005)
    await all_back(workers, gate, "a")


async def test_a_timeout_of_the_function_itself_is_its_own_failure() -> None:
    def stat() -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await Workers().run(stat, timeout=5, key="/mnt/a")


async def test_a_stop_iteration_does_not_hang_the_caller() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await Workers().run(lambda: next(iter(())), timeout=5)


async def test_the_thread_knows_for_which_request_it_works() -> None:
    request_id.set("r-1")
    assert await Workers().run(request_id.get, timeout=5) == "r-1"


async def test_a_thread_is_used_again_and_not_while_it_is_stuck(gate: threading.Event) -> None:
    workers = Workers()
    first = await workers.run(threading.get_ident, timeout=5)
    assert await workers.run(threading.get_ident, timeout=5) == first
    with pytest.raises(DeadlineExceeded):
        await workers.run(gate.wait, timeout=0.005)
    assert await workers.run(threading.get_ident, timeout=5) != first
