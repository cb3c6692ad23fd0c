"""Making a filesystem: only with the caller's proof, only on a device that nothing holds, and looked at afterwards."""

import errno
import os
from collections.abc import Sequence

from rds_csi.errors import Aborted, FailedPrecondition, FormatRefused, Unavailable
from rds_csi.filesystem.blockdev import opened
from rds_csi.filesystem.holders import who_writes
from rds_csi.filesystem.mkfs import arguments, check_format
from rds_csi.filesystem.superblock import read_superblocks
from rds_csi.model.devices import Device
from rds_csi.process import Runner
from rds_csi.tasks import finish
from rds_csi.workers import Workers

# mkfs writes a few MiB; this is for an array under a storm of others. Nothing is lost when it is over: the repeated
# call finds the device busy, or half-made with our UUID.
_MKFS_SECONDS = 600.0
# Opening does no I/O; reading a head is one request.
_LOOK_SECONDS = 30.0
# A probe and a few writes.
_WIPE_SECONDS = 60.0
# Writing back what mkfs left in the page cache.
_SYNC_SECONDS = 300.0


async def make_filesystem(
    runner: Runner, workers: Workers, proc: str, device: Device, fs_type: str, uuid: str, options: Sequence[str]
) -> None:
    """A filesystem ``fs_type`` with ``uuid`` on ``device``; runs to its end when the caller is cancelled.

    Aborted while a program or a mount has the device; ``proc`` is the /proc in which programs are looked for.
    """
    check_format(fs_type, device.size, options)
    await finish(_make(runner, workers, proc, device, fs_type, uuid, options))


async def _who_has(workers: Workers, proc: str, device: Device) -> str:
    """What has the device for itself (a mount of any namespace, dm, md, a running mkfs) or writes to it; "" when
    nothing does."""
    return await workers.run(lambda: _look(proc, device), timeout=_LOOK_SECONDS, key=f"open of {device.path}")


async def _make(
    runner: Runner, workers: Workers, proc: str, device: Device, fs_type: str, uuid: str, options: Sequence[str]
) -> None:
    holder = await _who_has(workers, proc, device)
    if holder:
        # A mkfs that a killed predecessor started may still run: it must end before anybody looks again.
        raise Aborted(f"{device.path} is held by {holder}, so it is not formatted now")
    if await _is_half_made(workers, device, uuid):
        await _wipe(runner, device)
    command = arguments(device.path, fs_type, uuid, options)
    completed = await runner.run_to_end(*command, timeout=_MKFS_SECONDS)
    if completed.returncode != 0:
        holder = await _who_has(workers, proc, device)
        if holder:
            raise Aborted(f"{device.path} was taken by {holder} before {command[0]}: {completed.last_line}")
        raise FailedPrecondition(
            f"{command[0]} of {device.path} failed: {completed.last_line}",
            remedy="Look at the volume's mkfsOptions and at the kernel's log of this node.",
        )
    await workers.run(lambda: _sync(device), timeout=_SYNC_SECONDS, key=f"fsync of {device.path}")
    await _verify(workers, device, fs_type, uuid)


async def _is_half_made(workers: Workers, device: Device, uuid: str) -> bool:
    """Whether a killed mkfs of this very UUID was here. A filesystem of another UUID is never written over,
    whatever proof the caller believes to have."""
    found = await workers.run(lambda: read_superblocks(device), timeout=_LOOK_SECONDS, key=device.path)
    for superblock in found:
        if superblock.uuid != uuid:
            raise FormatRefused(
                f"{device.path} holds {superblock.fs_type} {superblock.uuid}, so it is not formatted",
                remedy="If its data is not needed, wipe the volume (wipefs) or make a new one.",
            )
    return bool(found)


async def _wipe(runner: Runner, device: Device) -> None:
    """Take away the signature of what a killed mkfs of ours made, so that mkfs need not be forced; mkfs.btrfs
    refuses a UUID that is in use even with force, on the very same device."""
    completed = await runner.run_to_end("wipefs", "-q", "-a", device.path, timeout=_WIPE_SECONDS)
    if completed.returncode:
        raise FailedPrecondition(f"what a killed mkfs left on {device.path} stays: {completed.last_line}")


async def _verify(workers: Workers, device: Device, fs_type: str, uuid: str) -> None:
    found = await workers.run(lambda: read_superblocks(device), timeout=_LOOK_SECONDS, key=device.path)
    if [(superblock.fs_type, superblock.uuid) for superblock in found] != [(fs_type, uuid)]:
        seen = ", ".join(f"{superblock.fs_type} {superblock.uuid}" for superblock in found) or "nothing"
        raise Unavailable(f"after mkfs {device.path} should hold {fs_type} {uuid}, but {seen} was read back")


def _look(proc: str, device: Device) -> str:
    try:
        # On a block device O_EXCL without O_CREAT fails while it is claimed (open(2)).
        with opened(device, os.O_RDONLY | os.O_EXCL):
            pass
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "another program or a mount"
        raise
    # mkfs.btrfs claims nothing: it is only seen to write.
    return who_writes(proc, device)


def _sync(device: Device) -> None:
    with opened(device, os.O_RDWR) as descriptor:
        os.fsync(descriptor)
