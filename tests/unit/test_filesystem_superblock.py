"""The everyday probe: superblocks read in process."""

import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import Unavailable
from rds_csi.filesystem.superblock import HEAD_BYTES, identify, read_mounted_ext, recognise
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.sizes import GIB, KIB, MIB

UUID = uuid.UUID("0f3a9a5e-7c1b-4d6e-8f00-112233445566")


def ext(*, compat: int = 0, incompat: int = 0, ro_compat: int = 0, blocks: int = 1024, log_size: int = 2) -> bytes:
    head = bytearray(HEAD_BYTES)
    struct.pack_into("<I", head, KIB + 4, blocks & 0xFFFFFFFF)
    struct.pack_into("<I", head, KIB + 24, log_size)
    struct.pack_into("<H", head, KIB + 56, 0xEF53)
    struct.pack_into("<III", head, KIB + 92, compat, incompat, ro_compat)
    head[KIB + 104 : KIB + 120] = UUID.bytes
    struct.pack_into("<I", head, KIB + 0x150, blocks >> 32)
    return bytes(head)


def xfs(*, in_progress: int = 0) -> bytes:
    head = bytearray(HEAD_BYTES)
    struct.pack_into(">4sIQ", head, 0, b"XFSB", 4096, 102400)
    head[32:48] = UUID.bytes
    head[126] = in_progress
    return bytes(head)


def btrfs() -> bytes:
    head = bytearray(HEAD_BYTES)
    head[64 * KIB + 0x20 : 64 * KIB + 0x30] = UUID.bytes
    head[64 * KIB + 0x40 : 64 * KIB + 0x48] = b"_BHRfS_M"
    struct.pack_into("<Q", head, 64 * KIB + 0xD1, GIB)
    return bytes(head)


def image(directory: Path, head: bytes, size: int = MIB) -> Device:
    """A regular file in place of a device: its number is 0:0."""
    path = directory / "image"
    path.write_bytes(head.ljust(size, b"\0")[:size])
    return Device(str(path), DeviceNumber(0, 0), size)


@pytest.mark.parametrize(
    ("head", "fs_type"),
    [
        (ext(), "ext2"),
        (ext(incompat=0x2, ro_compat=0x3), "ext2"),
        (ext(compat=0x4, incompat=0x2), "ext3"),
        (ext(compat=0x4, incompat=0x6), "ext3"),  # the journal needs recovery
        (ext(compat=0x4, incompat=0x40), "ext4"),  # extents
        (ext(ro_compat=0x8), "ext4"),  # huge_file, without a journal
        (xfs(), "xfs"),
        (btrfs(), "btrfs"),
    ],
)
def test_each_filesystem_is_told_with_its_uuid(tmp_path: Path, head: bytes, fs_type: str) -> None:
    content = identify(image(tmp_path, head))
    assert (content.fs_type, content.uuid) == (fs_type, str(UUID))
    assert not content.blank


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (ext(blocks=1024, log_size=2), 4 * MIB),
        (ext(incompat=0x80, blocks=1 << 33, log_size=2), 1 << 45),
        (ext(blocks=1 << 33, log_size=2), 0),  # without 64bit the upper half is no block count
        (xfs(), 400 * MIB),
        (btrfs(), GIB),
    ],
)
def test_the_recorded_size_is_read(head: bytes, size: int) -> None:
    (superblock,) = recognise(head)
    assert superblock.size == size


def test_an_unfinished_mkfs_is_not_called_a_filesystem(tmp_path: Path) -> None:
    content = identify(image(tmp_path, xfs(in_progress=1)))
    assert content.fs_type == ""
    assert "mkfs has not ended" in content.detail


def test_an_external_journal_is_not_a_filesystem(tmp_path: Path) -> None:
    assert identify(image(tmp_path, ext(incompat=0x8))).fs_type == ""


def test_two_superblocks_at_once_are_no_answer(tmp_path: Path) -> None:
    both = bytes(a | b for a, b in zip(ext(compat=4, incompat=0x40), btrfs(), strict=True))
    content = identify(image(tmp_path, both))
    assert content.fs_type == ""
    assert content.detail == "superblocks of ext4 and btrfs at once"


def test_of_a_mounted_ext_only_the_page_of_its_superblock_is_read(tmp_path: Path) -> None:
    both = bytes(left | right for left, right in zip(ext(blocks=512), btrfs(), strict=True))
    assert read_mounted_ext(image(tmp_path, both)) == recognise(ext(blocks=512))


def test_nothing_known_is_never_called_blank_by_the_everyday_probe(tmp_path: Path) -> None:
    content = identify(image(tmp_path, b""))
    assert (content.fs_type, content.blank) == ("", False)


@given(st.binary(max_size=3 * KIB))
def test_no_bytes_upset_the_probe(head: bytes) -> None:
    recognise(head)


@given(st.binary(min_size=1, max_size=KIB), st.sampled_from([ext(), xfs(), btrfs()]), st.integers(0, 67 * KIB))
def test_a_damaged_superblock_never_upsets_the_probe(noise: bytes, head: bytes, offset: int) -> None:
    recognise(head[:offset] + noise + head[offset + len(noise) :])


def test_a_device_that_went_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        identify(Device(str(tmp_path / "gone"), DeviceNumber(0, 0), MIB))


def test_another_device_under_the_same_name_is_unavailable(tmp_path: Path) -> None:
    device = image(tmp_path, xfs())
    with pytest.raises(Unavailable, match="is now device 0:0, not 259:3"):
        identify(Device(device.path, DeviceNumber(259, 3), device.size))


def test_a_device_without_content_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="gave 0 bytes"):
        identify(image(tmp_path, b"", size=0))
