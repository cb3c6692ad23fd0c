"""Mounting a volume's filesystem and undoing mounts: mount(8) and umount(8) as killable children."""

from collections.abc import Awaitable, Callable, Sequence

from rds_csi.errors import Aborted, DeadlineExceeded, DriverError, FailedPrecondition, Unavailable
from rds_csi.filesystem.holders import who_holds
from rds_csi.filesystem.mountapi import unbind
from rds_csi.filesystem.protocol import MountTable
from rds_csi.model.devices import Device
from rds_csi.process import Completed, Runner
from rds_csi.workers import Workers

# Journal replay of a large filesystem after an outage; below the two minutes that the kubelet waits for a call.
_MOUNT_SECONDS = 100.0
# umount writes everything back first; over a slow link that takes a while, over a dead one it takes for ever.
_UMOUNT_SECONDS = 100.0
# Nothing is written back by it.
_UNBIND_SECONDS = 30.0
# e2fsck -p replays the journal and mends what is safe to mend. A killed one is repeated from the start.
_PREEN_SECONDS = 600.0
# Looking for a culprit is a courtesy.
_HOLDERS_SECONDS = 2.0
# Each round undoes every mount that the table showed; another is for what was mounted meanwhile.
_UNMOUNT_ROUNDS = 3

_EXT = frozenset({"ext2", "ext3", "ext4"})
# What libmount says for EUCLEAN and EINVAL, in which an ext journal or superblock shows that it needs e2fsck.
_REPAIRABLE = ("Structure needs cleaning", "corrupted filesystem", "bad superblock")


async def mount_device(runner: Runner, device: Device, path: str, fs_type: str, options: Sequence[str]) -> None:
    """Mount ``device`` at the directory ``path`` with checked ``options``.

    Starts one program, unless an ext journal needs repair: then the safe repairs of ``e2fsck -p`` are made and
    the mount is tried once more, but never for a read-only mount: that writes nothing. Never formats.

    No fsck before the first try: mounting replays the journal, which is what a volume needs after a crash, and
    a checker that forbids a mount has kept more volumes away than it saved (lessons, section 10, 20).
    """
    completed = await _mount(runner, device, path, fs_type, options)
    writable = fs_type in _EXT and "ro" not in options
    repairable = completed.returncode and writable and _says(completed, *_REPAIRABLE)
    if repairable and await _preen(runner, device):
        completed = await _mount(runner, device, path, fs_type, options)
    if completed.returncode:
        raise _mount_error(completed, device, path, fs_type)


async def unmount(
    runner: Runner, workers: Workers, read_table: Callable[[], Awaitable[MountTable]], proc: str, path: str
) -> None:
    """Undo every mount at ``path``, the visible one first; never lazy, since a lazy umount hides a volume that is
    still written to."""
    for _ in range(_UNMOUNT_ROUNDS):
        table = await read_table()
        stacked = table.at(path)
        if not stacked:
            return
        for mount in reversed(stacked):
            if table.is_mounted_elsewhere(mount) and await _unbind(workers, path):
                continue
            # Not canonicalized: looking at a mount whose device is gone can hang.
            completed = await runner.run("umount", "-i", "-n", "-c", path, timeout=_UMOUNT_SECONDS)
            if completed.returncode and _says(completed, "not mounted"):
                break
            if completed.returncode:
                raise await _umount_error(completed, workers, table, proc, path)
    if (await read_table()).at(path):
        raise Unavailable(f"{path} is mounted again and again by something else")


async def _unbind(workers: Workers, path: str) -> bool:
    """Undo a bind mount in a worker; False when the kernel refuses: umount(8) then finds out why."""
    try:
        await workers.run(lambda: unbind(path), timeout=_UNBIND_SECONDS, key=f"umount of {path}")
    except OSError:
        return False
    return True


async def _mount(runner: Runner, device: Device, path: str, fs_type: str, options: Sequence[str]) -> Completed:
    # -i -n: neither helpers nor /etc/mtab. -w: a write-protected device is an error, not a silent read-only mount.
    mode = () if "ro" in options else ("-w",)
    chosen = ("-o", ",".join(options)) if options else ()
    return await runner.run(
        "mount", "-i", "-n", *mode, "-t", fs_type, *chosen, device.path, path, timeout=_MOUNT_SECONDS
    )


async def _preen(runner: Runner, device: Device) -> bool:
    """Whether e2fsck mended something, so that another mount is worth a try (e2fsck(8), "EXIT CODE")."""
    try:
        completed = await runner.run_to_end("e2fsck", "-p", device.path, timeout=_PREEN_SECONDS)
    except DeadlineExceeded as error:
        raise FailedPrecondition(
            f"{error.message}: {device.path} needs a longer repair",
            remedy=f"Run e2fsck -f {device.path} on this node by hand; the volume is not formatted.",
        ) from error
    if completed.returncode & ~3:
        raise FailedPrecondition(
            f"{device.path} has damage that e2fsck -p does not mend: {completed.last_line}",
            remedy=f"Run e2fsck -f {device.path} on this node by hand, or restore a snapshot.",
        )
    return completed.returncode != 0


def _mount_error(completed: Completed, device: Device, path: str, fs_type: str) -> DriverError:
    text = f"{device.path} cannot be mounted at {path}: {_first_line(completed)}"
    if _says(completed, "busy"):
        return Aborted(f"{text}; a mkfs, fsck or mount of it may still be running")
    if _says(completed, "can't read superblock", "Input/output error"):
        return Unavailable(text, remedy="Look at the connection to the array; the volume is not formatted.")
    return FailedPrecondition(text, remedy=_remedy(completed, device, fs_type))


def _remedy(completed: Completed, device: Device, fs_type: str) -> str:
    if _says(completed, "unknown filesystem type"):
        return f"Load the kernel module {fs_type} on this node."
    if _says(completed, "write-protected"):
        return "The array exports the volume read-only: publish it read-only, or let the node write."
    if fs_type == "btrfs" and _says(completed, "File exists"):
        return (
            "A btrfs with the same fsid, its origin or another clone, is mounted on this node, and Linux before 6.7 "
            "cannot mount both: use them on different nodes, or unmount the other first."
        )
    if _says(completed, *_REPAIRABLE):
        check = {"xfs": "xfs_repair", "btrfs": "btrfs check"}.get(fs_type, "e2fsck -f")
        return f"Look at the mount flags and the kernel's log, then at {check} {device.path}; it is not formatted."
    return "Look at the mount flags and at the kernel's log of this node."


async def _umount_error(completed: Completed, workers: Workers, table: MountTable, proc: str, path: str) -> DriverError:
    if not _says(completed, "busy"):
        return Unavailable(f"{path} cannot be unmounted: {_first_line(completed)}")
    if below := table.below(path):
        return FailedPrecondition(f"{path} is busy: {', '.join(mount.path for mount in below[:3])} is mounted in it")
    try:
        who = await workers.run(lambda: who_holds(proc, path), timeout=_HOLDERS_SECONDS, key=f"holders of {path}")
    except DriverError:
        who = ""
    return FailedPrecondition(
        f"{path} is busy{f': {who} uses it' if who else ''}", remedy="End the program that uses the volume."
    )


def _says(completed: Completed, *texts: str) -> bool:
    return any(text in completed.stderr for text in texts)


def _first_line(completed: Completed) -> str:
    """mount(8) says what is wrong first, and then only where else to look."""
    lines = [line.strip() for line in completed.stderr.splitlines() if line.strip()]
    return lines[0][:500] if lines else completed.last_line
