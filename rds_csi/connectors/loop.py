"""The ``loop`` connector: an image file on this machine becomes a loop device (losetup(8)), and back."""

import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rds_csi.connectors import contexts
from rds_csi.connectors.loop_devices import Bound, LoopDevice, LoopStatus, bound_to, read_loop_device
from rds_csi.connectors.nodes import BlockNodes
from rds_csi.connectors.protocol import Connected, ConnectorOptions
from rds_csi.connectors.usage import why_in_use
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, NotFound, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.targets import FileTarget, Target
from rds_csi.model.volumes import Finding
from rds_csi.process import Completed
from rds_csi.retry import Clock, poll
from rds_csi.tasks import finish

T = TypeVar("T")

_log = logging.getLogger(__name__)

NAME = "loop"

# losetup takes milliseconds; what has not come back after this long is stuck in the kernel.
LOSETUP_SECONDS = 10.0
# A look into sysfs, with one open and one ioctl of a device.
_LOOK_SECONDS = 5.0
# A detached device goes when its last user (udev's probe, at most a second) has closed it.
DETACH_SECONDS = 5.0
# The kernel knows a new size as soon as losetup -c has ended.
_GROW_SECONDS = 5.0


class LoopConnector:
    """Image files through loop devices: one program a connect, one a disconnect, every look in process."""

    def __init__(
        self,
        options: ConnectorOptions,
        *,
        status: LoopStatus | None = None,
        nodes: BlockNodes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``status``, ``nodes`` and ``clock`` are the real ones unless a test brings its own."""
        self._options = options
        self._host = options.host
        self._status = status or LoopStatus()
        self._nodes = nodes or BlockNodes()
        self._clock = clock or Clock()

    @property
    def name(self) -> str:
        return NAME

    @property
    def host_nqn(self) -> str:
        return ""

    def volume_context(self, target: Target, config: ConnectionConfig) -> dict[str, str]:
        return contexts.write_context(contexts.expect(target, FileTarget, NAME), config)

    def read_context(self, context: Mapping[str, str]) -> tuple[Target, ConnectionConfig]:
        target, config = contexts.read_context(context)
        return contexts.expect(target, FileTarget, NAME), config

    async def connect(self, target: Target, config: ConnectionConfig) -> Connected:  # noqa: ARG002 - a loop device has no connection
        path = contexts.expect(target, FileTarget, NAME).path
        await self._look(partial(_check_file, path))
        existing = await self._settled(path)
        if existing is not None:
            return Connected(await self._with_node(existing), created=False)
        try:
            # To its end: a losetup killed half-way may have bound the device, and takes milliseconds.
            return Connected(await finish(self._attach(path)), created=True)
        except BaseException:
            await finish(self._undo(path))
            raise

    async def find(self, target: Target) -> Device | None:
        found = (await self._bound(contexts.expect(target, FileTarget, NAME).path)).all
        return self._device(found[0]) if found else None

    async def target_of(self, number: DeviceNumber) -> Target | None:
        directory = f"{self._host.sys}/dev/block/{number}"

        def look() -> LoopDevice | None:
            return read_loop_device(self._host, os.path.basename(os.path.realpath(directory)))

        loop = await self._look(look)
        if loop is None or loop.number != number or not loop.backing_file.startswith("/"):
            return None
        return FileTarget(loop.path)

    async def disconnect(self, target: Target) -> None:
        path = contexts.expect(target, FileTarget, NAME).path
        found = (await self._bound(path)).all
        for loop in found:
            reason = await self._look(partial(self._why_in_use, loop))
            if reason:
                raise FailedPrecondition(
                    f"{self._device(loop).path} stays attached to {path}: {reason}",
                    remedy="Unmount or stop that first.",
                )
        await self._detach(found)

    async def rescan(self, target: Target, size: int) -> Device:
        path = contexts.expect(target, FileTarget, NAME).path
        found = (await self._bound(path)).all
        if not found:
            raise NotFound(f"no loop device is attached to {path}")
        device = self._device(found[0])
        if device.size >= size:
            return device
        completed = await self._losetup("--set-capacity", device.path)
        if completed.returncode != 0:
            raise Unavailable(f"losetup could not set the capacity of {device.path}: {completed.last_line}")

        async def grown() -> Device | None:
            loop = await self._look(partial(read_loop_device, self._host, found[0].name))
            return self._device(loop) if loop is not None and loop.size >= size else None

        seen = await poll(grown, timeout=_GROW_SECONDS, clock=self._clock)
        if seen is None:
            raise DeadlineExceeded(
                f"{device.path} did not grow to {size} bytes",
                remedy=f"Look whether {path} itself has grown, then repeat.",
            )
        return seen

    async def health(self, target: Target) -> str:
        path = contexts.expect(target, FileTarget, NAME).path
        bound = await self._bound(path)
        if not bound.all:
            return f"no loop device is attached to {path}"
        if not bound.current:
            return f"the image file {path} was deleted under {self._device(bound.all[0]).path}"
        return ""

    async def check(self) -> Sequence[Finding]:
        return (await self._check_tool(), await self._check_control())

    async def _check_tool(self) -> Finding:
        try:
            completed = await self._options.runner.run("losetup", "--version", timeout=LOSETUP_SECONDS)
        except DriverError as error:
            return Finding("losetup", False, error.message, error.remedy or "Install util-linux.")
        return Finding("losetup", completed.returncode == 0, completed.last_line, "Install util-linux.")

    async def _check_control(self) -> Finding:
        control = f"{self._host.dev}/loop-control"
        try:
            there = await self._look(partial(os.path.exists, control))
        except DriverError as error:
            return Finding("loop devices", False, error.message)
        message = f"{control} is there" if there else f"{control} is missing"
        return Finding("loop devices", there, message, "" if there else "Run modprobe loop on the host.")

    async def _look(self, function: Callable[[], T]) -> T:
        return await self._options.workers.run(function, timeout=_LOOK_SECONDS)

    async def _bound(self, path: str) -> Bound:
        return await self._look(partial(bound_to, self._host, path, self._status))

    async def _settled(self, path: str) -> LoopDevice | None:
        """The device bound to the file, for use; None when there is none. One that is about to go (autoclear) is
        waited for: it would vanish under its new user."""

        async def stable() -> tuple[LoopDevice, ...] | None:
            found = (await self._bound(path)).current
            return None if any(loop.autoclear for loop in found) else found

        found = await poll(stable, timeout=DETACH_SECONDS, clock=self._clock)
        if found is None:
            raise FailedPrecondition(
                f"a loop device for {path} is being detached, but somebody still has it open",
                remedy=f"Find the user with: losetup -j {path}; fuser -v DEVICE.",
            )
        return found[0] if found else None

    async def _attach(self, path: str) -> Device:
        # Direct I/O keeps the data once in the page cache instead of twice. Not every filesystem takes it.
        for flags in (("--direct-io=on",), ()):
            completed = await self._losetup("--find", "--show", *flags, path)
            name = os.path.basename(completed.stdout.strip())
            for loop in (await self._bound(path)).current:
                # losetup may complain about direct I/O after the device was bound: then it prints no name.
                if not name or loop.name == name:
                    return await self._with_node(loop)
        raise Unavailable(f"losetup could not attach {path} to a loop device: {completed.last_line}")

    async def _undo(self, path: str) -> None:
        """Detach what a failed ``_attach`` left: nothing was bound to the file when it began."""
        try:
            for loop in (await self._bound(path)).current:
                if not await self._look(partial(self._why_in_use, loop)):
                    await self._detach((loop,))
        except DriverError as error:
            _log.warning("a loop device for %s may be left: %s", path, error)

    async def _with_node(self, loop: LoopDevice) -> Device:
        device = self._device(loop)

        async def there() -> DeviceNumber | None:
            number = await self._look(partial(self._nodes.number_of, device.path))
            return number if number == loop.number else None

        if await poll(there, timeout=_LOOK_SECONDS, clock=self._clock) is None:
            raise Unavailable(
                f"{device.path} is not the block device {loop.number}", remedy="Is /dev the host's devtmpfs?"
            )
        return device

    async def _detach(self, loops: Sequence[LoopDevice]) -> None:
        if not loops:
            return
        names = [self._device(loop).path for loop in loops]
        completed = await finish(self._losetup("--detach", *names))
        bound = {(loop.name, loop.path) for loop in loops}

        def left() -> bool:
            now = [read_loop_device(self._host, loop.name) for loop in loops]
            return any(loop is not None and (loop.name, loop.path) in bound for loop in now)

        async def gone() -> bool | None:
            return None if await self._look(left) else True

        if await poll(gone, timeout=DETACH_SECONDS, clock=self._clock) is None:
            raise FailedPrecondition(
                f"{', '.join(names)} did not go away (losetup: {completed.last_line})",
                remedy=f"Somebody has it open; find out who with: fuser -v {' '.join(names)}.",
            )

    async def _losetup(self, *arguments: str) -> Completed:
        return await self._options.runner.run("losetup", *arguments, timeout=LOSETUP_SECONDS)

    def _why_in_use(self, loop: LoopDevice) -> str:
        return why_in_use(self._host, loop.name, self._device(loop).path, self._nodes)

    def _device(self, loop: LoopDevice) -> Device:
        return Device(f"{self._host.dev}/{loop.name}", loop.number, loop.size)


def _check_file(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.isdir(os.path.dirname(path)):
            raise NotFound(
                f"the image file {path} does not exist",
                remedy="The volume was deleted, or its file was removed by hand.",
            ) from None
        raise FailedPrecondition(
            f"the directory of the image file {path} does not exist",
            remedy="Mount it, or give this node the directory of the array.",
        ) from None
    except OSError as error:
        raise Unavailable(f"the image file {path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise FailedPrecondition(f"{path} is not a regular file", remedy="The loop connector takes image files only.")


def open_connector(options: ConnectorOptions) -> LoopConnector:
    """The entry point ``loop``."""
    return LoopConnector(options)
