"""What every connector can be asked. Backends are found by name in the entry points ``rds_csi.connectors``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import Target
from rds_csi.model.volumes import Finding
from rds_csi.process import Runner
from rds_csi.workers import Workers


@dataclass(frozen=True, slots=True)
class Connected:
    """The outcome of ``connect``: the device, and whether this very call made the session (and may undo it)."""

    device: Device
    created: bool


@dataclass(frozen=True, slots=True)
class ConnectorOptions:
    """What the composition root hands to every connector's ``open_connector(options)``, its entry point.

    ``state_dir`` is where what must survive a restart is kept (the derived host identity). ``max_connects`` is how
    many connects may run at once.
    """

    runner: Runner
    workers: Workers
    host: HostPaths
    state_dir: str
    metrics: Metrics = field(default_factory=Metrics)
    max_connects: int = 8


class Connector(Protocol):
    """The node's way to a volume; the controller asks it about parameters and contexts only.

    The kernel is the truth: every answer about sessions and devices is read from it anew. No method holds a
    lock that another volume needs; every wait has a deadline and can be cancelled.
    """

    @property
    def name(self) -> str:
        """The name in the entry points: ``nvme-cli``, ``loop``, ``memory``…"""
        ...

    @property
    def host_nqn(self) -> str:
        """By which name arrays know this host; "" when this connector does not show one."""
        ...

    def volume_context(self, target: Target, config: ConnectionConfig) -> dict[str, str]:
        """The VolumeContext entries for a volume at ``target``; InvalidArgument when this connector cannot
        reach such a target or cannot honour such a config."""
        ...

    def read_context(self, context: Mapping[str, str]) -> tuple[Target, ConnectionConfig]:
        """What ``volume_context`` wrote, checked again by the same rules."""
        ...

    async def connect(self, target: Target, config: ConnectionConfig) -> Connected:
        """Make sure that the volume is a local block device, and tell which.

        Unavailable when the target cannot be reached; FailedPrecondition when what is there is not the volume
        (another namespace UUID). A cancelled or failed call leaves no session that it made.
        """
        ...

    async def find(self, target: Target) -> Device | None:
        """The device of ``target`` if there is one now; no side effects."""
        ...

    async def target_of(self, number: DeviceNumber) -> Target | None:
        """The target behind a block device; None when the device is not one of this connector."""
        ...

    async def disconnect(self, target: Target) -> None:
        """Make sure that nothing of this host is connected to ``target``, and see it gone; an absent session
        is fine. FailedPrecondition while the device is in use."""
        ...

    async def rescan(self, target: Target, size: int) -> Device:
        """The device after the kernel saw the volume's growth to at least ``size`` bytes; DeadlineExceeded
        when it does not. With ``size`` 0 the kernel is made to look anew, and what it sees is the answer.
        Unavailable when it is not connected: that says nothing about the volume."""
        ...

    async def health(self, target: Target) -> str:
        """What is wrong with the session in one sentence; empty when it is well."""
        ...

    async def check(self) -> Sequence[Finding]:
        """Look whether the tools and kernel modules are there; every problem with its remedy. Never raises."""
        ...

    def close(self) -> None:
        """Give back what is open on this machine (sockets); connected volumes stay connected."""
        ...
