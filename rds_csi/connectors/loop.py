"""The ``loop`` connector: an image file on this machine becomes a loop device, and back."""

import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.blockdev.usage import why_in_use
from rds_csi.connectors import contexts
from rds_csi.connectors.protocol import Connected, ConnectorOptions
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, NotFound, Unavailable
from rds_csi.loopdev.devices import Bound, LoopDevice, LoopDevices
from rds_csi.loopdev.ioctls import LoopIoctls
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.oserrors import as_look_error
from rds_csi.model.targets import FileTarget, Target
from rds_csi.model.volumes import Finding
from rds_csi.retry import Clock, poll
from rds_csi.tasks import finish

T = TypeVar("T")

_log = logging.getLogger(__name__)

NAME = "loop"

# Making or unmaking a device is a millisecond; what has not come back after this long is stuck in the kernel.
CHANGE_SECONDS = 10.0
# A look into sysfs, with one open and one ioctl of a device.
_LOOK_SECONDS = 5.0
# A detached device goes when its last user (udev's probe, at most a second) has closed it.
DETACH_SECONDS = 5.0
# The kernel shows a new size as soon as it was told to look.
_GROW_SECONDS = 5.0


class LoopConnector:
    """Image files through loop devices: no program is started, every call into the kernel is made by a worker."""

    def __init__(
        self,
        options: ConnectorOptions,
        *,
        ioctls: LoopIoctls | None = None,
        nodes: BlockNodes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``ioctls``, ``nodes`` and ``clock`` are the real ones unless a test brings its own."""
        self._workers = options.workers
        self._host = options.host
        self._loops = LoopDevices(options.host, ioctls)
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
        existing = await self._settled(path)
        if existing is not None:
            return Connected(await self._with_node(existing), created=False)
        try:
            # To its end: a worker cannot be stopped, and what it makes must be known here.
            return Connected(await finish(self._attach(path)), created=True)
        except BaseException:
            await finish(self._undo(path))
            raise

    async def find(self, target: Target) -> Device | None:
        found = (await self._bound(contexts.expect(target, FileTarget, NAME).path)).all
        return self._device(found[0]) if found else None

    async def target_of(self, number: DeviceNumber) -> Target | None:
        directory = f"{self._host.sys}/dev/block/{number}"

        def look() -> Target | None:
            loop = self._loops.read(os.path.basename(os.path.realpath(directory)))
            if loop is None or loop.number != number or not loop.backing_file.startswith("/"):
                return None
            return FileTarget(loop.path())

        return await self._look(look)

    async def disconnect(self, target: Target) -> None:
        path = contexts.expect(target, FileTarget, NAME).path

        def look() -> tuple[LoopDevice, ...]:
            found = self._loops.bound(path).all
            for loop in found:
                reason = self._why_in_use(loop)
                if reason:
                    raise FailedPrecondition(
                        f"{self._loops.node(loop.name)} stays attached to {path}: {reason}",
                        remedy="Unmount or stop that first.",
                    )
            return found

        await self._detach(path, await self._look(look))

    async def rescan(self, target: Target, size: int) -> Device:
        path = contexts.expect(target, FileTarget, NAME).path
        found = (await self._bound(path)).all
        if not found:
            raise Unavailable(f"no loop device is attached to {path}", remedy="Stage the volume anew.")
        device = self._device(found[0])
        # Without a size, only a look anew tells whether the file has grown.
        if 0 < size <= device.size:
            return device
        await self._change(path, partial(self._loops.set_capacity, found[0].name))

        async def grown() -> Device | None:
            loop = await self._look(partial(self._loops.read, found[0].name))
            if loop is None:
                raise Unavailable(f"{device.path} of {path} was detached while it was looked at anew")
            return self._device(loop) if loop.size >= size else None

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
        return (await self._check_control(),)

    def close(self) -> None:
        return

    async def _check_control(self) -> Finding:
        control = self._loops.control
        try:
            await self._workers.run(partial(_open_for_writing, control), timeout=_LOOK_SECONDS)
        except FileNotFoundError:
            return Finding("loop devices", False, f"{control} is missing", "Run modprobe loop on the host.")
        except OSError as error:
            message = f"{control} cannot be opened: {error.strerror}"
            return Finding("loop devices", False, message, "Run as root, with the host's devices.")
        except DriverError as error:
            return Finding("loop devices", False, error.message)
        return Finding("loop devices", True, f"{control} can be opened")

    async def _look(self, function: Callable[[], T]) -> T:
        try:
            return await self._workers.run(function, timeout=_LOOK_SECONDS)
        except OSError as error:
            raise as_look_error("the loop devices cannot be looked at", error) from error

    async def _change(self, path: str, function: Callable[[], T]) -> T:
        """Make, grow or unmake a device of the file; while one such step is stuck in the kernel, no other is begun."""
        what = f"the loop device of {path}"
        try:
            return await self._workers.run(function, timeout=CHANGE_SECONDS, key=what)
        except OSError as error:
            raise Unavailable(f"{what} cannot be changed: {error}") from error

    async def _bound(self, path: str) -> Bound:
        return await self._look(partial(self._loops.bound, path))

    async def _settled(self, path: str) -> LoopDevice | None:
        """The device bound to the file, for use; None when there is none. One that is about to go (autoclear) is
        waited for: it would vanish under its new user."""

        def look() -> tuple[LoopDevice, ...]:
            _check_file(path)
            return self._loops.bound(path).current

        async def stable() -> tuple[LoopDevice, ...] | None:
            found = await self._look(look)
            return None if any(loop.autoclear for loop in found) else found

        found = await poll(stable, timeout=DETACH_SECONDS, clock=self._clock)
        if found is None:
            raise FailedPrecondition(
                f"a loop device for {path} is being detached, but somebody still has it open",
                remedy=f"Find the user with: losetup -j {path}; fuser -v DEVICE.",
            )
        return found[0] if found else None

    async def _attach(self, path: str) -> Device:
        # Direct I/O keeps the data once in the page cache instead of twice.
        loop = await self._change(path, partial(self._loops.attach, path, direct_io=True))
        return await self._with_node(loop)

    async def _undo(self, path: str) -> None:
        """Detach what a failed ``_attach`` left: nothing was bound to the file when it began."""

        def look() -> tuple[LoopDevice, ...]:
            return tuple(loop for loop in self._loops.bound(path).current if not self._why_in_use(loop))

        try:
            await self._detach(path, await self._look(look))
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

    async def _detach(self, path: str, loops: Sequence[LoopDevice]) -> None:
        if not loops:
            return

        def left() -> bool:
            now = [self._loops.read(loop.name) for loop in loops]
            # Once it is gone, somebody else may have bound it to another file.
            return any(new is not None and new.path() == old.path() for old, new in zip(loops, now, strict=True))

        def clear() -> bool:
            for loop in loops:
                self._loops.clear(loop.name)
            return left()

        async def gone() -> bool | None:
            return None if await self._look(left) else True

        # To its end: of several devices, all are asked to go.
        if not await finish(self._change(path, clear)):
            return
        if await poll(gone, timeout=DETACH_SECONDS, clock=self._clock) is None:
            names = " ".join(self._loops.node(loop.name) for loop in loops)
            raise FailedPrecondition(
                f"{names} did not go away", remedy=f"Somebody has it open; find out who with: fuser -v {names}."
            )

    def _why_in_use(self, loop: LoopDevice) -> str:
        return why_in_use(self._host, loop.name, self._loops.node(loop.name), self._nodes)

    def _device(self, loop: LoopDevice) -> Device:
        return Device(self._loops.node(loop.name), loop.number, loop.size)


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


def _open_for_writing(path: str) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def open_connector(options: ConnectorOptions) -> LoopConnector:
    """The entry point ``loop``."""
    return LoopConnector(options)
