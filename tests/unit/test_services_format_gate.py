"""The format gate: what may be given a filesystem, and what never."""

from dataclasses import replace

import pytest

from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.filesystem.memory import MemoryFilesystems
from rds_csi.filesystem.protocol import Content
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import FileTarget
from rds_csi.services.formatting import FormatGate, Plan
from rds_csi.services.wishes import StageWish

DEVICE = Device("/dev/loop7", DeviceNumber(7, 7), GIB)
TARGET = FileTarget("/images/v")
OURS = "11111111-1111-4111-8111-111111111111"
FRESH = "22222222-2222-4222-8222-222222222222"
WISH = StageWish(
    volume_id="v",
    path="/staging",
    target=TARGET,
    config=ConnectionConfig(),
    size=GIB,
    attachment="token",
    mkfs_options=(),
    block=False,
    fs_type="ext4",
    flags=(),
    read_only=False,
    shared=False,
    group=None,
)
RECORD = StageRecord("v", "/staging", TARGET, ConnectionConfig(), GIB, "token", "boot", fs_type="ext4", fs_uuid=OURS)
FORMATTING = replace(RECORD, format_state=FormatState.FORMATTING)
FORMATTED = replace(RECORD, format_state=FormatState.FORMATTED)
GARBAGE = Content(fs_type="", uuid="", blank=False, detail="data at byte 4096")


async def decide(content: Content | None, record: StageRecord | None, wish: StageWish = WISH) -> Plan:
    filesystems = MemoryFilesystems()
    if content is not None:
        filesystems.contents[DEVICE.path] = content
    return await FormatGate(filesystems, lambda: FRESH).decide(DEVICE, wish, record)


@pytest.mark.parametrize("record", [None, RECORD, FORMATTING])
async def test_a_blank_device_is_formatted(record: StageRecord | None) -> None:
    plan = await decide(None, record)
    assert plan.format
    assert plan.fs_uuid in (FRESH, OURS)


async def test_a_known_filesystem_is_mounted_and_never_formatted() -> None:
    for record in (None, RECORD, FORMATTING, FORMATTED):
        assert await decide(Content("ext4", "u", False, ""), record) == Plan(False, "u")


async def test_another_filesystem_than_asked_for_is_told_and_kept() -> None:
    with pytest.raises(FailedPrecondition, match=r"holds xfs, and ext4 is asked for.*never formatted"):
        await decide(Content("xfs", "u", False, ""), None)


@pytest.mark.parametrize("record", [None, RECORD, FORMATTED, replace(FORMATTING, attachment="older")])
async def test_unknown_data_is_never_formatted(record: StageRecord | None) -> None:
    with pytest.raises(FailedPrecondition, match="wipefs"):
        await decide(GARBAGE, record)


async def test_what_our_own_interrupted_mkfs_left_is_formatted_again_with_the_same_uuid() -> None:
    assert await decide(GARBAGE, FORMATTING) == Plan(True, OURS)
    assert await decide(Content("ext4", OURS, False, "mkfs.ext4 has not ended"), FORMATTING) == Plan(True, OURS)


async def test_an_unfinished_filesystem_of_somebody_else_is_kept() -> None:
    with pytest.raises(FailedPrecondition):
        await decide(Content("ext4", "foreign", False, "mkfs.ext4 has not ended"), FORMATTING)


async def test_a_record_of_another_target_proves_nothing() -> None:
    with pytest.raises(FailedPrecondition):
        await decide(GARBAGE, replace(FORMATTING, target=FileTarget("/images/other")))


async def test_without_an_attachment_nothing_proves_that_no_other_node_wrote() -> None:
    for record in (replace(FORMATTING, attachment=""), FORMATTING):
        with pytest.raises(FailedPrecondition):
            await decide(GARBAGE, record, replace(WISH, attachment=""))


async def test_the_filesystem_of_our_own_mkfs_that_was_not_noted_as_ended_is_made_again() -> None:
    """After a power cut its superblock can be there and the rest lost; it was never mounted."""
    assert await decide(Content("ext4", OURS, False, ""), FORMATTING) == Plan(True, OURS)
    later = replace(WISH, attachment="later")
    assert await decide(Content("ext4", OURS, False, ""), FORMATTING, later) == Plan(False, OURS)


async def test_a_volume_that_had_a_filesystem_and_reads_as_blank_is_not_formatted() -> None:
    """Lessons I12: a device that was not readable yet after a reboot looked empty, and lost its data."""
    with pytest.raises(FailedPrecondition, match="reads as blank"):
        await decide(None, FORMATTED)


async def test_a_read_only_volume_is_never_formatted() -> None:
    for content in (None, GARBAGE, Content("ext4", OURS, False, "mkfs.ext4 has not ended")):
        with pytest.raises(FailedPrecondition):
            await decide(content, FORMATTING, replace(WISH, read_only=True))


async def test_a_device_that_cannot_be_read_is_unavailable_and_not_blank() -> None:
    filesystems = MemoryFilesystems()
    filesystems.fail("prove_blank", Unavailable("short read"))
    with pytest.raises(Unavailable):
        await FormatGate(filesystems, lambda: FRESH).decide(DEVICE, WISH, None)
