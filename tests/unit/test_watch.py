"""A repeated check that tells each change once."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from rds_csi.model.volumes import Finding
from rds_csi.watch import Watch

WELL = Finding("tools", True, "all there")
AWAY = Finding("array", False, "does not answer", "Look at its cable.")


class Scripted:
    """A check that answers what the test says."""

    def __init__(self, *answers: Sequence[Finding]) -> None:
        self.answers = list(answers)
        self.looks = 0

    async def __call__(self) -> Sequence[Finding]:
        self.looks += 1
        return self.answers[min(self.looks, len(self.answers)) - 1]


async def test_the_first_question_waits_for_the_first_look() -> None:
    check = Scripted([WELL])
    watch = Watch("node", check)
    assert await watch.ready()
    assert await watch.ready()
    assert check.looks == 1


async def test_each_change_is_logged_once_and_every_look_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    reported: list[bool] = []
    watch = Watch("array x", Scripted([AWAY], [AWAY], [WELL], [WELL]), report=reported.append)
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            await watch.look()
    assert reported == [False, False, True, True]
    assert [record.getMessage() for record in caplog.records] == [
        "array x: array: does not answer. Look at its cable.",
        "array x is ready",
    ]


async def test_what_only_some_volumes_miss_is_told_once_and_keeps_nobody_from_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hint = Finding("mkfs.xfs", True, "is missing: volumes cannot be xfs", "Install xfsprogs.")
    watch = Watch("node n", Scripted([WELL, hint], [WELL, hint], [WELL], [WELL, hint]))
    with caplog.at_level(logging.INFO):
        assert [await watch.look() for _ in range(4)] == [True] * 4
    told = "node n: mkfs.xfs: is missing: volumes cannot be xfs. Install xfsprogs."
    assert [record.getMessage() for record in caplog.records] == [told, "node n is ready", told]


async def test_a_look_that_fails_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    looked_twice = asyncio.Event()
    looks = 0

    async def check() -> Sequence[Finding]:
        nonlocal looks
        looks += 1
        if looks == 2:
            looked_twice.set()
        raise RuntimeError("broken")

    task = asyncio.create_task(Watch("x", check, interval=0.001).run())
    async with asyncio.timeout(5):
        await looked_twice.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "x could not be checked" in caplog.text
