"""This machine's filesystems: the ``Filesystems`` that a node runs with."""

import contextlib
import os
from collections.abc import Callable, Sequence

from rds_csi.errors import DriverError, FailedPrecondition
from rds_csi.filesystem import block, mountapi, mountinfo, targets, tools
from rds_csi.filesystem.blank import prove_blank
from rds_csi.filesystem.flags import check_flags, superblock_options
from rds_csi.filesystem.formatting import make_filesystem
from rds_csi.filesystem.group import give_to_group
from rds_csi.filesystem.growing import grow
from rds_csi.filesystem.looks import Looks
from rds_csi.filesystem.mounting import mount_device, unmount
from rds_csi.filesystem.protocol import Content, Mount, MountTable, Usage
from rds_csi.filesystem.superblock import identify
from rds_csi.filesystem.usage import read_usage
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import as_driver_error
from rds_csi.model.volumes import Finding
from rds_csi.process import Runner
from rds_csi.tasks import finish
from rds_csi.workers import Workers

# procfs does no I/O; a table of some thousand mounts on a busy node takes part of a second.
_TABLE_SECONDS = 20.0
# One or two reads from a device.
_LOOK_SECONDS = 30.0
# Names in the kubelet's directory, on the node's own disk.
_PATH_SECONDS = 30.0
# statvfs of a healthy filesystem is immediate.
_USAGE_SECONDS = 10.0
# A large tree takes longer than the kubelet waits: the walk goes on, and the repeated call finds it done.
_GROUP_SECONDS = 100.0


class HostFilesystems:
    """``Filesystems`` of this machine: programs through ``runner``, blocking calls through ``workers``.

    Paths and devices are used as given; of ``host`` only /proc and /sys are read.
    """

    def __init__(
        self,
        runner: Runner,
        workers: Workers,
        host: HostPaths,
        *,
        find_program: Callable[[str], str | None] = tools.find_program,
    ) -> None:
        self._runner = runner
        self._workers = workers
        self._host = host
        self._usages = Looks[Usage](workers, "usage of", _USAGE_SECONDS)
        self._nodes = Looks[DeviceNumber | None](workers, "look at", _PATH_SECONDS)
        self._find_program = find_program

    async def mount_table(self) -> MountTable:
        return await self._workers.run(self._read_table, timeout=_TABLE_SECONDS)

    async def mounts_of(self, device: Device) -> Sequence[Mount]:
        def look() -> tuple[Mount, ...]:
            return tuple(mount for mount in self._read_table().mounts if _is_mount_of(mount, device))

        return await self._workers.run(look, timeout=_TABLE_SECONDS)

    async def identify(self, device: Device) -> Content:
        return await self._workers.run(lambda: identify(device), timeout=_LOOK_SECONDS, key=device.path)

    async def prove_blank(self, device: Device) -> Content:
        return await prove_blank(self._runner, self._workers, device)

    async def format(self, device: Device, fs_type: str, uuid: str, options: Sequence[str]) -> None:
        await make_filesystem(self._runner, self._workers, self._host.proc, device, fs_type, uuid, options)

    async def mount(self, device: Device, path: str, fs_type: str, flags: Sequence[str]) -> None:
        options = superblock_options(flags, fs_type)
        made = await self._prepare(path)
        try:
            await mount_device(self._runner, device, path, fs_type, options)
        except BaseException:
            if made:
                await self._take_back(path)
            raise

    async def bind(self, source: str, path: str, *, read_only: bool, flags: Sequence[str]) -> None:
        wanted = (*check_flags(flags), *(["ro"] if read_only else []))
        made = await self._prepare(path)
        try:
            # To its end: an abandoned thread could attach the mount after a later call has looked.
            await finish(
                self._workers.run(
                    lambda: mountapi.bind(source, path, wanted), timeout=_PATH_SECONDS, key=f"mount at {path}"
                )
            )
        except BaseException:
            if made:
                await self._take_back(path)
            raise

    async def unmount(self, path: str) -> None:
        await unmount(self._runner, self._workers, self.mount_table, self._host.proc, path)

    async def place_block_node(self, device: Device, path: str, *, read_only: bool) -> None:
        await finish(
            self._workers.run(
                lambda: block.place(device, path, read_only=read_only), timeout=_LOOK_SECONDS, key=f"node at {path}"
            )
        )

    async def block_node_at(self, path: str) -> DeviceNumber | None:
        return await self._nodes.look(path, lambda: block.node_at(path))

    async def remove_target(self, path: str) -> None:
        if (await self.mount_table()).at(path):
            raise FailedPrecondition(f"{path} is still mounted, so it is not removed")
        # A dead device must not keep its node from being removed.
        with contextlib.suppress(DriverError):
            await finish(
                self._workers.run(lambda: block.release(path), timeout=_PATH_SECONDS, key=f"release of {path}")
            )
        await finish(self._workers.run(lambda: targets.remove(path), timeout=_PATH_SECONDS, key=f"node at {path}"))

    async def grow(self, device: Device, path: str, fs_type: str) -> None:
        await grow(self._runner, self._workers, device, path, fs_type)

    async def set_group(self, path: str, group: int) -> None:
        await self._workers.run(lambda: give_to_group(path, group), timeout=_GROUP_SECONDS, key=f"group of {path}")

    async def usage(self, path: str) -> Usage:
        return await self._usages.look(path, lambda: read_usage(path, self._host.sys))

    async def check(self) -> Sequence[Finding]:
        return (*tools.check_tools(self._find_program), tools.check_kernel())

    def _read_table(self) -> MountTable:
        path = os.path.join(self._host.proc, "self", "mountinfo")
        try:
            with open(path, "rb") as stream:
                return mountinfo.parse(stream.read())
        except OSError as error:
            raise as_driver_error(f"{path} cannot be read", error) from error

    async def _prepare(self, path: str) -> bool:
        """A directory at ``path`` with nothing mounted on it yet; True when this call made it.

        Callers have looked before; a second look is cheap, and stacked mounts have cost nodes (lessons I8, L3).
        """
        if (await self.mount_table()).at(path):
            raise FailedPrecondition(f"something is mounted at {path} already", remedy="Unmount it first.")
        return await finish(
            self._workers.run(lambda: targets.ensure_directory(path), timeout=_PATH_SECONDS, key=f"node at {path}")
        )

    async def _take_back(self, path: str) -> None:
        """Remove the directory that this call made; one that became a mount after all stays, and is found again."""
        with contextlib.suppress(DriverError):
            await finish(self._workers.run(lambda: targets.remove(path), timeout=_PATH_SECONDS, key=f"node at {path}"))


def _is_mount_of(mount: Mount, device: Device) -> bool:
    if mount.number == device.number:
        return True
    if mount.fs_type != "btrfs":
        return False
    # btrfs has a made-up number; its source is the path under which the device was seen by whoever mounted it.
    if mount.source in (device.path, "/dev/" + os.path.basename(device.path)):
        return True
    try:
        return DeviceNumber.of(os.stat(mount.source).st_rdev) == device.number
    except OSError:
        return False
