"""What the NVMe connectors differ in: how one portal is connected and a subsystem disconnected."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import HostIdentity


class Outcome(Enum):
    """What a connect that did not fail has done."""

    MADE = "made"
    # Somebody says that there is a session already: to be verified in sysfs, never believed.
    ALREADY = "already"


class Link(Protocol):
    """One way to tell the kernel. Truth is read from sysfs by the caller, before and after."""

    @property
    def name(self) -> str:
        """The connector's name in the entry points."""
        ...

    async def connect(
        self, target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity
    ) -> Outcome:
        """Connect one portal (``address`` is an IP address). One attempt, with a deadline.

        Transient when another attempt may help; DeadlineExceeded when it is unknown whether the kernel has made
        a session; any other error when repeating cannot help.
        """
        ...

    async def disconnect(self, nqn: str) -> str:
        """Ask the kernel to remove every controller of ``nqn``; what the tool said last, for errors."""
        ...

    async def check(self) -> Sequence[Finding]:
        """Look whether what this way needs is there. Never raises."""
        ...
