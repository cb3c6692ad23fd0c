"""What the NVMe connectors differ in: how one portal is connected and controllers are disconnected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rds_csi.connectors.nvme_failures import Reason
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.sessions import Session


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one connect: made when there is no ``reason``; ``line`` is the tool's own word for it.

    ALREADY says only that somebody told so: to be verified in sysfs, never believed.
    """

    reason: Reason | None = None
    line: str = ""


class Link(Protocol):
    """One way to tell the kernel. Truth is read from sysfs by the caller, before and after."""

    @property
    def name(self) -> str:
        """The connector's name in the entry points."""
        ...

    async def connect(
        self, target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity
    ) -> Answer:
        """Connect one portal (``address`` is an IP address). One attempt, with a deadline.

        DeadlineExceeded when it is unknown whether the kernel has made a session; OSError when no process could be
        started; any other error when repeating cannot help. Cancelled: no child of it runs on.
        """
        ...

    async def disconnect(self, session: Session) -> str:
        """Ask the kernel to remove the controllers that ``session`` names, and no other; what the tool said
        last, for errors. Runs to its end also when the caller is cancelled."""
        ...

    async def check(self) -> Sequence[Finding]:
        """Look whether what this way needs is there. Never raises."""
        ...
