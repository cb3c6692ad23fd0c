"""The proof of blankness (design rule 11): two independent looks, and any doubt is an error, not an answer.

blkid's exit status 2 means "nothing found" and "could not read" alike (kubernetes#142243), and a device that was
away for a moment has been formatted over its data for that. So a zero read past the page cache has to agree.
"""

from collections.abc import Iterator

from rds_csi.errors import Unavailable
from rds_csi.filesystem.blockdev import ALIGNMENT, opened_direct, read_at, size_of
from rds_csi.filesystem.protocol import Content
from rds_csi.model.devices import Device
from rds_csi.model.sizes import GIB, KIB, MIB
from rds_csi.process import Completed, Runner
from rds_csi.workers import Workers

# Reads a few dozen places; longer means that the device does not answer.
_BLKID_SECONDS = 30.0
# 4 + 1 MiB and at most 90 samples of 128 KiB: 16 MiB, which a slow link brings in a few seconds.
_ZERO_READ_SECONDS = 60.0

_HEAD_BYTES = 4 * MIB
_TAIL_BYTES = MIB
_SAMPLE_BYTES = 128 * KIB
_SPREAD_SAMPLES = 64

# Where filesystems keep copies of their superblock, so that a device whose head was wiped is not called blank:
# ext4 in block groups 1 and the powers of 3, 5 and 7 (of 128 MiB with 4 KiB blocks), btrfs at 64 MiB and 256 GiB.
# xfs has one at every allocation group, usually each quarter of the device: the spread samples meet those.
_COPIES = (64 * MIB, 256 * GIB, *(group * 128 * MIB for group in (1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625)))

# blkid(8), "EXIT STATUS".
_BLKID_FOUND = 0
_BLKID_NOTHING = 2
_BLKID_AMBIVALENT = 8

_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})


async def prove_blank(runner: Runner, workers: Workers, device: Device) -> Content:
    """What is on ``device``; blank only when blkid found no signature and every byte that was read is zero.

    What it cannot see: data without a signature that lies only between the samples. Such a device has no head,
    no tail and no copy of a superblock of anything known.
    """
    probe = await runner.run("blkid", "-p", "-o", "export", device.path, timeout=_BLKID_SECONDS)
    if probe.returncode == _BLKID_FOUND:
        return _found(probe)
    if probe.returncode == _BLKID_AMBIVALENT:
        return Content(fs_type="", uuid="", blank=False, detail="signatures of several kinds at once (blkid)")
    if probe.returncode != _BLKID_NOTHING:
        raise Unavailable(f"blkid could not probe {device.path}: {probe.last_line}")
    offset = await workers.run(
        lambda: first_nonzero(device), timeout=_ZERO_READ_SECONDS, key=f"zero read of {device.path}"
    )
    if offset is not None:
        return Content(fs_type="", uuid="", blank=False, detail=f"data without a known signature at byte {offset}")
    return Content(fs_type="", uuid="", blank=True, detail="")


def first_nonzero(device: Device) -> int | None:
    """Blocking. Where the first piece begins that is not all zero; None when head, tail and samples are zero.

    Unavailable for an I/O error, a short read, or a size that is not ``device.size`` before and after.
    """
    with opened_direct(device) as descriptor:
        _check_size(device, size_of(descriptor))
        for offset, length in pieces(device.size):
            data = read_at(descriptor, offset, length)
            if len(data) < min(length, device.size - offset):
                raise Unavailable(f"{device.path} gave {len(data)} bytes of {length} at byte {offset}")
            if data.count(0) != len(data):
                return offset
        _check_size(device, size_of(descriptor))
    return None


def pieces(size: int) -> Iterator[tuple[int, int]]:
    """What is read of a device of ``size`` bytes: (offset, length), aligned, each within the device but for the
    last, which may reach beyond the end."""
    tail = max(0, (size - _TAIL_BYTES) // ALIGNMENT * ALIGNMENT)
    yield from _chunks(0, min(_HEAD_BYTES, size))
    yield from _chunks(tail, size)
    spread = (size * step // _SPREAD_SAMPLES for step in range(1, _SPREAD_SAMPLES))
    for place in sorted({*spread, *_COPIES}):
        # From a little before the place, since allocation groups are rounded to blocks and stripes.
        start = (place - _SAMPLE_BYTES // 2) // ALIGNMENT * ALIGNMENT
        if start >= _HEAD_BYTES and start + _SAMPLE_BYTES <= tail:
            yield start, _SAMPLE_BYTES


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    for offset in range(start, end, MIB):
        yield offset, -(-min(MIB, end - offset) // ALIGNMENT) * ALIGNMENT


def _check_size(device: Device, size: int) -> None:
    if size != device.size or size <= 0:
        raise Unavailable(f"{device.path} has {size} bytes now, not {device.size}")


def _found(probe: Completed) -> Content:
    """From blkid's ``KEY=value`` lines (-o export)."""
    tags = dict(line.split("=", 1) for line in probe.stdout.splitlines() if "=" in line)
    kind = tags.get("TYPE", "")
    if tags.get("USAGE", "filesystem") == "filesystem" and kind in _FILESYSTEMS:
        return Content(fs_type=kind, uuid=tags.get("UUID", "").lower(), blank=False, detail="")
    if kind:
        return Content(fs_type="", uuid="", blank=False, detail=f"{kind} ({tags.get('USAGE', 'signature')})")
    if "PTTYPE" in tags:
        return Content(fs_type="", uuid="", blank=False, detail=f"a partition table ({tags['PTTYPE']})")
    return Content(fs_type="", uuid="", blank=False, detail="a signature that blkid knows")
