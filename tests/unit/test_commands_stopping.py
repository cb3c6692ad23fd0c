"""Signals to a command that must clean up: the first stops it, the others change nothing, and all is told."""

import asyncio
import signal

import pytest

from rds_csi.commands.stopping import Stopping
from rds_csi.tasks import finish


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_work_that_is_stopped_cleans_up_to_its_end_however_often_it_is_told(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    begun, cleaning, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def clean() -> None:
        cleaning.set()
        await cleaned.wait()
        told.append("clean")

    async def work() -> str:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await finish(clean())
        return "whole"

    async def send() -> None:
        await begun.wait()
        signal.raise_signal(number)
        await cleaning.wait()
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(again)
            await asyncio.sleep(0)
        assert told == []
        cleaned.set()

    with Stopping() as stopping:
        sender = asyncio.create_task(send())
        assert await stopping.run(work(), "removing x, please wait") is None
        await sender
    assert told == ["clean"]
    assert (stopping.is_stopped, stopping.status) == (True, 128 + number)
    assert capsys.readouterr().err.splitlines() == ["rds-csi: removing x, please wait"] * 3


async def test_work_that_is_not_stopped_returns_what_it_has_and_its_errors() -> None:
    async def fail() -> None:
        raise ValueError("x")

    async def work() -> str:
        return "whole"

    with Stopping() as stopping:
        assert await stopping.run(work(), "wait") == "whole"
        with pytest.raises(ValueError, match="x"):
            await stopping.run(fail(), "wait")
    assert not stopping.is_stopped


async def test_a_signal_ends_the_innermost_work_and_what_follows_is_not_begun() -> None:
    told: list[str] = []

    async def inner() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.Event().wait()

    with Stopping() as stopping:

        async def outer() -> str:
            await stopping.run(inner(), "removing, please wait")
            told.append("after the inner one")
            return "whole"

        async def next_one() -> None:
            told.append("the next one")

        assert await stopping.run(outer(), "") == "whole"
        await stopping.run(next_one(), "")
    assert told == ["after the inner one"]
    assert stopping.status == 128 + signal.SIGTERM


async def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def work() -> str:
        signal.raise_signal(signal.SIGHUP)
        return "whole"

    try:
        with Stopping() as stopping:
            assert await stopping.run(work(), "wait") == "whole"
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not stopping.is_stopped


async def test_what_is_cancelled_by_others_is_cancelled() -> None:
    async def work() -> None:
        with Stopping() as stopping:
            await stopping.run(asyncio.Event().wait(), "wait")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
