"""Formatting and growing: which program is started when, and what is looked at afterwards. A file is the device."""

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.errors import Aborted, FailedPrecondition, InvalidArgument, OutOfRange, Unavailable
from rds_csi.filesystem.formatting import make_filesystem
from rds_csi.filesystem.growing import grow
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.sizes import KIB, MIB
from rds_csi.workers import Workers
from tests.support.runner import ScriptedRunner

UUID = "0f3a9a5e-7c1b-4d6e-8f00-112233445566"
OTHER = "11111111-7c1b-4d6e-8f00-112233445566"
SIZE = 400 * MIB
# Nobody has anything open.
NO_PROC = "/nonexistent"


@pytest.fixture
def device(tmp_path: Path) -> Device:
    path = tmp_path / "image"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    return Device(str(path), DeviceNumber(0, 0), SIZE)


def write_ext4(device: Device, fs_uuid: str, size: int = SIZE) -> None:
    block = bytearray(KIB)
    struct.pack_into("<I", block, 4, size // (4 * KIB))
    struct.pack_into("<I", block, 24, 2)
    struct.pack_into("<H", block, 56, 0xEF53)
    struct.pack_into("<I", block, 96, 0x40)
    block[104:120] = uuid.UUID(fs_uuid).bytes
    with open(device.path, "r+b") as stream:
        stream.seek(KIB)
        stream.write(block)


def write_xfs(device: Device, fs_uuid: str, *, in_progress: bool) -> None:
    block = bytearray(128)
    struct.pack_into(">4sIQ", block, 0, b"XFSB", 4096, SIZE // 4096)
    block[32:48] = uuid.UUID(fs_uuid).bytes
    block[126] = in_progress
    with open(device.path, "r+b") as stream:
        stream.write(block)


def writing(device: Device, fs_uuid: str = UUID, size: int = SIZE) -> Callable[[tuple[str, ...]], None]:
    return lambda argv: write_ext4(device, fs_uuid, size)


async def test_a_filesystem_is_made_and_read_back(device: Device) -> None:
    runner = ScriptedRunner().on("mkfs.ext4", effect=writing(device))
    await make_filesystem(runner, Workers(), NO_PROC, device, "ext4", UUID, ("-i", "65536"))
    assert len(runner.calls) == 1
    assert runner.calls[0][-3:] == ("-i", "65536", device.path)


def open_device(proc: Path, pid: int, device: Device, flags: str) -> None:
    """A made-up program that has the device open with the flags of open(2)."""
    process = proc / str(pid)
    for directory in ("fd", "fdinfo"):
        (process / directory).mkdir(parents=True)
    (process / "comm").write_text("mkfs.btrfs\n")
    (process / "fd" / "5").symlink_to(device.path)
    (process / "fdinfo" / "5").write_text(f"pos:\t0\nflags:\t{flags}\nmnt_id:\t30\n")


async def test_a_device_that_a_program_writes_to_is_not_formatted(device: Device, tmp_path: Path) -> None:
    open_device(tmp_path / "proc", 42, device, "0100002")
    runner = ScriptedRunner()
    with pytest.raises(Aborted, match=r"held by pid 42 \(mkfs.btrfs\)"):
        await make_filesystem(runner, Workers(), str(tmp_path / "proc"), device, "ext4", UUID, ())
    assert runner.calls == []


async def test_a_program_that_only_reads_does_not_keep_a_device_from_being_formatted(
    device: Device, tmp_path: Path
) -> None:
    open_device(tmp_path / "proc", 42, device, "0100000")
    runner = ScriptedRunner().on("mkfs.ext4", effect=writing(device))
    await make_filesystem(runner, Workers(), str(tmp_path / "proc"), device, "ext4", UUID, ())


async def test_a_mkfs_that_left_another_filesystem_is_no_success(device: Device) -> None:
    runner = ScriptedRunner().on("mkfs.ext4", effect=writing(device, OTHER))
    with pytest.raises(Unavailable, match=f"should hold ext4 {UUID}, but ext4 {OTHER} was read back"):
        await make_filesystem(runner, Workers(), NO_PROC, device, "ext4", UUID, ())


async def test_a_mkfs_that_left_nothing_is_no_success(device: Device) -> None:
    with pytest.raises(Unavailable, match="nothing was read back"):
        await make_filesystem(ScriptedRunner().on("mkfs.ext4"), Workers(), NO_PROC, device, "ext4", UUID, ())


async def test_a_failed_mkfs_tells_the_tools_last_line(device: Device) -> None:
    runner = ScriptedRunner().on("mkfs.ext4", returncode=1, stderr="mkfs.ext4: invalid blocks per group\n")
    with pytest.raises(FailedPrecondition, match="invalid blocks per group"):
        await make_filesystem(runner, Workers(), NO_PROC, device, "ext4", UUID, ())


async def test_a_foreign_filesystem_is_never_written_over(device: Device) -> None:
    write_ext4(device, OTHER)
    runner = ScriptedRunner()
    with pytest.raises(FailedPrecondition, match=f"holds ext4 {OTHER}"):
        await make_filesystem(runner, Workers(), NO_PROC, device, "xfs", UUID, ())
    assert runner.calls == []


async def test_what_a_killed_mkfs_of_ours_left_is_wiped_first(device: Device) -> None:
    write_xfs(device, UUID, in_progress=True)
    runner = (
        ScriptedRunner()
        .on("wipefs", "-q", "-a", device.path)
        .on("mkfs.xfs", effect=lambda argv: write_xfs(device, UUID, in_progress=False))
    )
    await make_filesystem(runner, Workers(), NO_PROC, device, "xfs", UUID, ())
    assert [call[0] for call in runner.calls] == ["wipefs", "mkfs.xfs"]


async def test_what_cannot_be_wiped_is_not_formatted(device: Device) -> None:
    write_ext4(device, UUID)
    runner = ScriptedRunner().on("wipefs", returncode=1, stderr="wipefs: error: probing initialization failed: busy")
    with pytest.raises(FailedPrecondition, match="busy"):
        await make_filesystem(runner, Workers(), NO_PROC, device, "ext4", UUID, ())


async def test_a_refused_option_or_a_small_device_starts_nothing(device: Device) -> None:
    runner = ScriptedRunner()
    with pytest.raises(InvalidArgument):
        await make_filesystem(runner, Workers(), NO_PROC, device, "ext4", UUID, ("-F",))
    with pytest.raises(OutOfRange):
        await make_filesystem(runner, Workers(), NO_PROC, Device(device.path, device.number, MIB), "xfs", UUID, ())
    assert runner.calls == []


async def test_a_filesystem_that_fills_its_device_grows_without_a_program(device: Device) -> None:
    write_ext4(device, UUID)
    runner = ScriptedRunner()
    await grow(runner, Workers(), device, "/staging", "ext4")
    await grow(runner, Workers(), device, "/staging", "ext3")
    assert runner.calls == []


async def test_growth_is_verified(device: Device) -> None:
    write_ext4(device, UUID, SIZE // 2)
    runner = ScriptedRunner().on("resize2fs", effect=writing(device), times=1).on("resize2fs")
    await grow(runner, Workers(), device, "/staging", "ext4")
    assert runner.calls == [("resize2fs", device.path)]
    write_ext4(device, UUID, SIZE // 2)
    with pytest.raises(Unavailable, match="ended well, but"):
        await grow(runner, Workers(), device, "/staging", "ext4")


async def test_a_missing_capability_is_named(device: Device) -> None:
    write_ext4(device, UUID, SIZE // 2)
    runner = ScriptedRunner().on("resize2fs", returncode=1, stderr="resize2fs: Permission denied to resize filesystem")
    with pytest.raises(FailedPrecondition, match="CAP_SYS_RESOURCE"):
        await grow(runner, Workers(), device, "/staging", "ext4")


async def test_a_device_that_lost_its_superblock_is_not_grown(device: Device) -> None:
    with pytest.raises(Unavailable, match="no ext4 superblock"):
        await grow(ScriptedRunner(), Workers(), device, "/staging", "ext4")
    with pytest.raises(InvalidArgument):
        await grow(ScriptedRunner(), Workers(), device, "/staging", "ntfs")
