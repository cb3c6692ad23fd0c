"""The ``memory`` connector: no device at all, for control-flow tests and for a machine without root."""

import os
from collections.abc import Mapping, Sequence

from rds_csi.connectors import contexts
from rds_csi.connectors.protocol import Connected, ConnectorOptions
from rds_csi.errors import DeadlineExceeded, DriverError, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import FileTarget, Target
from rds_csi.model.volumes import Finding
from rds_csi.workers import Workers

NAME = "memory"
# Major 0 is never a block device (admin-guide/devices.txt): nobody can take an invented device for a real one.
_MAJOR = 0
# A stat(2) of an image file comes back at once, unless its filesystem is gone.
_STAT_SECONDS = 5.0


class MemoryConnector:
    """Connects any target to an invented device, and remembers it.

    Tests set ``failures`` (method name → error raised by its next call), ``sizes`` (target → bytes of its
    device; for any other the size of its image file, else ``default_size``) and ``problems`` (target → what
    ``health`` says), and read ``connected`` and ``configs``.
    """

    def __init__(self, workers: Workers | None = None, *, host_nqn: str = "", default_size: int = GIB) -> None:
        self._workers = workers or Workers()
        self.default_size = default_size
        self.sizes: dict[Target, int] = {}
        self.failures: dict[str, DriverError] = {}
        self.problems: dict[Target, str] = {}
        self.configs: dict[Target, ConnectionConfig] = {}
        self._devices: dict[Target, Device] = {}
        self._host_nqn = host_nqn
        self._next_minor = 1

    @property
    def name(self) -> str:
        return NAME

    @property
    def host_nqn(self) -> str:
        return self._host_nqn

    @property
    def connected(self) -> Mapping[Target, Device]:
        """What is connected now."""
        return dict(self._devices)

    def volume_context(self, target: Target, config: ConnectionConfig) -> dict[str, str]:
        self._fail("volume_context")
        return contexts.write_context(target, config)

    def read_context(self, context: Mapping[str, str]) -> tuple[Target, ConnectionConfig]:
        self._fail("read_context")
        return contexts.read_context(context)

    async def connect(self, target: Target, config: ConnectionConfig) -> Connected:
        self._fail("connect")
        created = target not in self._devices
        if created:
            size = await self._size_of(target)
            minor, self._next_minor = self._next_minor, self._next_minor + 1
            self._devices[target] = Device(f"/dev/memory/{minor}", DeviceNumber(_MAJOR, minor), size)
            self.configs[target] = config
        return Connected(self._devices[target], created)

    async def find(self, target: Target) -> Device | None:
        self._fail("find")
        return self._devices.get(target)

    async def target_of(self, number: DeviceNumber) -> Target | None:
        self._fail("target_of")
        return next((target for target, device in self._devices.items() if device.number == number), None)

    async def disconnect(self, target: Target) -> None:
        self._fail("disconnect")
        self._devices.pop(target, None)
        self.configs.pop(target, None)

    async def rescan(self, target: Target, size: int) -> Device:
        self._fail("rescan")
        if target not in self._devices:
            raise Unavailable("the volume is not connected in memory")
        old = self._devices[target]
        device = Device(old.path, old.number, max(old.size, await self._size_of(target)))
        self._devices[target] = device
        if device.size < size:
            raise DeadlineExceeded(f"{device.path} has {device.size} bytes, {size} were waited for")
        return device

    async def health(self, target: Target) -> str:
        self._fail("health")
        return self.problems.get(target, "" if target in self._devices else "the volume is not connected in memory")

    async def check(self) -> Sequence[Finding]:
        return (Finding(NAME, True, "devices are made up in memory; nothing is needed"),)

    def close(self) -> None:
        return

    async def _size_of(self, target: Target) -> int:
        if target in self.sizes or not isinstance(target, FileTarget):
            return self.sizes.get(target, self.default_size)
        path = target.path
        try:
            return await self._workers.run(lambda: os.stat(path).st_size, timeout=_STAT_SECONDS, key=path)
        except FileNotFoundError:
            return self.default_size

    def _fail(self, method: str) -> None:
        if method in self.failures:
            raise self.failures.pop(method)


def open_connector(options: ConnectorOptions) -> MemoryConnector:
    """The entry point ``memory``."""
    return MemoryConnector(options.workers)
