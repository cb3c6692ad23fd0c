"""Looks are shared: one at a time, and an answer is never older than its question."""

import asyncio

import pytest

from rds_csi.arrays.routeros.commands import Anchors
from rds_csi.arrays.routeros.errors import LostReply
from rds_csi.arrays.routeros.lookups import FEW, Lookups
from rds_csi.arrays.routeros.records import Disk
from rds_csi.errors import Unavailable
from tests.support.clock import FakeClock
from tests.support.routeros_memory import DROPPED, UNSENT, MemoryClient, MemoryDevice


class SlowClient(MemoryClient):
    """A client whose looks wait for ``go``."""

    def __init__(self, device: MemoryDevice) -> None:
        super().__init__(device)
        self.go = asyncio.Event()

    async def find_disks(self, anchors: Anchors) -> tuple[Disk, ...]:
        found = await super().find_disks(anchors)
        await self.go.wait()
        return found

    async def list_disks(self) -> tuple[Disk, ...]:
        found = await super().list_disks()
        await self.go.wait()
        return found


def device_with(count: int) -> MemoryDevice:
    device = MemoryDevice()
    for index in range(count):
        device.put(slot=f"disk-{index}", type="file")
    return device


def slots(disks: tuple[Disk, ...]) -> list[str]:
    return [disk.slot for disk in disks]


def finder(lookups: Lookups, slot: str) -> "asyncio.Task[tuple[Disk, ...]]":
    return asyncio.ensure_future(lookups.find(Anchors(slots=(slot,))))


async def test_questions_during_a_look_are_answered_together_by_the_next_one() -> None:
    device = device_with(10)
    client = SlowClient(device)
    lookups = Lookups(client, FakeClock().clock)
    first = finder(lookups, "disk-0")
    await asyncio.sleep(0)
    later = [finder(lookups, f"disk-{index}") for index in range(10)]
    await asyncio.sleep(0)
    client.go.set()
    assert slots(await first) == ["disk-0"]
    assert [slots(found) for found in await asyncio.gather(*later)] == [[f"disk-{index}"] for index in range(10)]
    assert device.calls == ["find_disks", "find_disks"]


async def test_many_questions_are_answered_by_one_listing() -> None:
    device = device_with(FEW + 1)
    lookups = Lookups(MemoryClient(device), FakeClock().clock)
    found = await asyncio.gather(*(finder(lookups, f"disk-{index}") for index in range(FEW + 1)), finder(lookups, "no"))
    assert [len(disks) for disks in found] == [1] * (FEW + 1) + [0]
    assert device.calls == ["list_disks"]


async def test_an_answer_is_not_older_than_its_question() -> None:
    device = device_with(0)
    client = SlowClient(device)
    lookups = Lookups(client, FakeClock().clock)
    before = finder(lookups, "new")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    device.put(slot="new", type="file")
    after = finder(lookups, "new")
    client.go.set()
    assert slots(await before) == []
    assert slots(await after) == ["new"]


async def test_a_look_that_fails_is_unavailable_for_all_who_asked() -> None:
    device = MemoryDevice(away=True)
    lookups = Lookups(MemoryClient(device), FakeClock().clock)
    answers = await asyncio.gather(*(finder(lookups, f"disk-{index}") for index in range(3)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    device.away = False
    assert slots(await lookups.find(Anchors(slots=("raid10",)))) == ["raid10"]


async def test_one_lost_look_is_repeated_and_a_second_one_told() -> None:
    device = MemoryDevice(faulty_looks=True)
    lookups = Lookups(MemoryClient(device), FakeClock().clock)
    device.faults.append(DROPPED)
    assert len(await lookups.all()) == 1
    device.faults.extend([DROPPED, UNSENT])
    with pytest.raises(LostReply):
        await lookups.all()


async def test_who_gives_up_does_not_take_the_answer_from_the_others() -> None:
    client = SlowClient(device_with(2))
    lookups = Lookups(client, FakeClock().clock)
    gone, stays = finder(lookups, "disk-0"), finder(lookups, "disk-1")
    await asyncio.sleep(0)
    gone.cancel()
    client.go.set()
    assert slots(await stays) == ["disk-1"]
    assert gone.cancelled()


async def test_closing_answers_who_still_waits() -> None:
    client = SlowClient(device_with(1))
    lookups = Lookups(client, FakeClock().clock)
    asked = finder(lookups, "disk-0")
    await asyncio.sleep(0)
    waits = finder(lookups, "disk-0")
    await asyncio.sleep(0)
    await lookups.close()
    for question in (asked, waits):
        with pytest.raises(Unavailable):
            await question
