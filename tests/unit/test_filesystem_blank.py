"""The proof of blankness: two looks, and any doubt is an error."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import Unavailable
from rds_csi.filesystem.blank import pieces, prove_blank
from rds_csi.filesystem.protocol import Content
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.sizes import GIB, KIB, MIB
from rds_csi.workers import Workers
from tests.support.runner import ScriptedRunner

SIZE = 64 * MIB
NOTHING = 2


def image(directory: Path, *, size: int = SIZE, data_at: int | None = None) -> Device:
    path = directory / "image"
    with open(path, "wb") as stream:
        stream.truncate(size)
        if data_at is not None:
            stream.seek(data_at)
            stream.write(b"\x01")
    return Device(str(path), DeviceNumber(0, 0), size)


async def prove(device: Device, *, returncode: int = NOTHING, stdout: str = "", stderr: str = "") -> Content:
    runner = ScriptedRunner().on("blkid", "-p", returncode=returncode, stdout=stdout, stderr=stderr)
    return await prove_blank(runner, Workers(), device)


async def test_a_zero_device_without_signature_is_blank(tmp_path: Path) -> None:
    content = await prove(image(tmp_path))
    assert content.blank
    assert content.fs_type == ""


@pytest.mark.parametrize("offset", [0, 511, 4 * MIB - 1, SIZE // 2, SIZE - MIB, SIZE - 1])
async def test_a_single_byte_where_it_is_looked_at_makes_it_not_blank(tmp_path: Path, offset: int) -> None:
    content = await prove(image(tmp_path, data_at=offset))
    assert not content.blank
    assert "data without a known signature" in content.detail


async def test_a_short_device_is_read_whole(tmp_path: Path) -> None:
    assert (await prove(image(tmp_path, size=3 * MIB + 512))).blank
    assert not (await prove(image(tmp_path, size=3 * MIB + 512, data_at=3 * MIB + 511))).blank


@pytest.mark.parametrize(
    ("stdout", "fs_type", "detail"),
    [
        ("TYPE=ext4\nUUID=ABCD\nUSAGE=filesystem\n", "ext4", ""),
        ("TYPE=vfat\nUSAGE=filesystem\n", "", "vfat (filesystem)"),
        ("TYPE=crypto_LUKS\nUSAGE=crypto\n", "", "crypto_LUKS (crypto)"),
        ("TYPE=LVM2_member\nUSAGE=raid\n", "", "LVM2_member (raid)"),
        ("PTTYPE=gpt\n", "", "a partition table (gpt)"),
        ("nonsense\n", "", "a signature that blkid knows"),
    ],
)
async def test_whatever_blkid_knows_is_not_blank(tmp_path: Path, stdout: str, fs_type: str, detail: str) -> None:
    content = await prove(image(tmp_path), returncode=0, stdout=stdout)
    assert (content.blank, content.fs_type, content.detail) == (False, fs_type, detail)


async def test_several_signatures_at_once_are_not_blank(tmp_path: Path) -> None:
    assert not (await prove(image(tmp_path), returncode=8)).blank


@pytest.mark.parametrize("returncode", [1, 4, 127, -9])
async def test_a_blkid_that_failed_proves_nothing(tmp_path: Path, returncode: int) -> None:
    with pytest.raises(Unavailable, match="blkid could not probe"):
        await prove(image(tmp_path), returncode=returncode, stderr="error: I/O")


@pytest.mark.parametrize("size", [SIZE // 2, 2 * SIZE])
async def test_a_device_of_another_size_proves_nothing(tmp_path: Path, size: int) -> None:
    device = image(tmp_path)
    with pytest.raises(Unavailable, match="bytes now, not"):
        await prove(Device(device.path, device.number, size))


async def test_an_unreadable_device_is_not_blank_though_blkid_found_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await prove(Device(str(tmp_path / "gone"), DeviceNumber(0, 0), SIZE))


@given(st.integers(1, 64 * 1024).map(lambda mebibytes: mebibytes * MIB) | st.integers(512, 10 * MIB))
def test_head_and_tail_are_always_read_and_nothing_beyond_the_end(size: int) -> None:
    read = list(pieces(size))
    assert all(offset % 4096 == 0 and length % 4096 == 0 and 0 <= offset < size for offset, length in read)
    assert all(offset + length < size + 4096 for offset, length in read)
    assert sum(length for _, length in read) < 20 * MIB
    for wanted in (0, min(size, 4 * MIB) - 1, max(0, size - MIB), size - 1):
        assert any(offset <= wanted < offset + length for offset, length in read)


@pytest.mark.parametrize("size", [GIB, 100 * GIB, 1024 * GIB])
def test_copies_of_superblocks_are_looked_at(size: int) -> None:
    read = list(pieces(size))
    copies = [64 * MIB + 4 * KIB, 128 * MIB, 3 * 128 * MIB, 256 * GIB + KIB, size // 4, size // 2, size // 4 * 3]
    for place in copies:
        if place < size:
            assert any(offset <= place < offset + length for offset, length in read)
