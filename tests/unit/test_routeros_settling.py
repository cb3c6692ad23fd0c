"""Writes whose fate is not known: looked at, and then repeated or taken for done; and RouterOS's words as errors."""

import time

import pytest

from rds_csi.arrays.routeros.commands import AddDisk, Anchors, Command, Deed, Expect, Outcome
from rds_csi.arrays.routeros.errors import LostReply, Unsent
from rds_csi.arrays.routeros.lookups import Lookups
from rds_csi.arrays.routeros.settling import SENDS, Settling, refusal
from rds_csi.deadline import set_deadline
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, ResourceExhausted, Unavailable
from rds_csi.retry import RetryPolicy
from tests.support.clock import FakeClock
from tests.support.routeros_memory import DROPPED, LOST, POOL, UNSENT, MemoryClient, MemoryDevice, Stored

PATH = f"{POOL}/x.img"
ADD = AddDisk({"type": "file", "slot": "x", "file-path": f"/{PATH}", "file-size": "1048576", "comment": "mine"})
COMMAND = Command(Anchors(slots=("x",), paths=(PATH,)), (Deed(Expect(disks=0, no_file=True), (ADD,)),))


async def execute(device: MemoryDevice, time_of: FakeClock | None = None) -> Outcome:
    client, clock = MemoryClient(device), (time_of or FakeClock()).clock
    policy = RetryPolicy(attempts=3, first_delay=0.0)
    return await Settling(client, Lookups(client, clock), clock=clock, policy=policy).execute(COMMAND)


async def test_what_did_not_reach_the_array_is_sent_again() -> None:
    device = MemoryDevice()
    device.faults.extend([UNSENT, UNSENT])
    assert (await execute(device)).done == 0
    assert device.calls == ["execute"] * 3
    device.away = True
    with pytest.raises(Unsent):
        await execute(device)


async def test_what_was_done_before_its_reply_was_lost_is_not_done_again() -> None:
    device = MemoryDevice()
    device.faults.append(LOST)
    outcome = await execute(device)
    assert [disk.comment for disk in outcome.disks] == ["mine"]
    assert outcome.done == -1
    assert not outcome.files_known
    assert device.calls == ["execute", "find_disks"]


async def test_what_was_not_done_is_repeated_after_a_look_and_not_for_ever() -> None:
    device = MemoryDevice()
    device.faults.append(DROPPED)
    assert (await execute(device)).done == 0
    assert device.calls == ["execute", "find_disks", "execute"]
    other = MemoryDevice()
    other.faults.extend([DROPPED] * 9)
    with pytest.raises(LostReply):
        await execute(other)
    assert other.calls.count("execute") == SENDS


async def test_a_file_that_appears_after_a_lost_reply_is_not_taken_for_somebody_elses() -> None:
    device = MemoryDevice()
    device.faults.append(DROPPED)
    clock = FakeClock()
    # The command whose reply was lost is still at work: it has made the file, and not the disk.
    clock.at_first_pause = lambda: device.files.update({PATH: Stored(1 << 20, "ours", 1 << 20)})
    with pytest.raises(LostReply):
        await execute(device, clock)
    assert device.calls == ["execute", "find_disks", "execute"]
    # With no reply lost, it is told as it is.
    outcome = await execute(device)
    assert (outcome.done, [file.name for file in outcome.files]) == (-1, [PATH])


async def test_nothing_is_sent_after_the_deadline() -> None:
    device = MemoryDevice()
    set_deadline(time.monotonic() - 1)
    try:
        with pytest.raises(DeadlineExceeded):
            await execute(device)
    finally:
        set_deadline(None)
    assert device.calls == []


@pytest.mark.parametrize(
    ("words", "missing", "expected"),
    [
        ("not enough permissions (9)", False, FailedPrecondition),
        ("failure: Not enough space", False, ResourceExhausted),
        ("failure: whatever", True, ResourceExhausted),
        ("failure: timeout", False, Unavailable),
        ("failure: whatever", False, FailedPrecondition),
    ],
)
def test_routeros_words_become_the_right_error(words: str, missing: bool, expected: type[DriverError]) -> None:
    error = refusal(words, "it failed", missing=missing)
    assert isinstance(error, expected)
    assert words in str(error)
