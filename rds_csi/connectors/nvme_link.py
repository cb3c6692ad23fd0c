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


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool said last to a disconnect, for errors; whether that was obeyed is seen in sysfs only.

    ``killed``: a signal ended the tool, so that it may not have asked for everything.
    """

    line: str
    killed: bool = False


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

        DeadlineExceeded when it is unknown whether the kernel has made a session; OSError, or Unavailable because
        of one, when no process could be started; any other error when repeating cannot help. Cancelled: no child
        of it runs on.
        """
        ...

    async def disconnect(self, session: Session, *, whole: bool = False) -> Told:
        """Ask the kernel, once, to remove the controllers that ``session`` names, and none of another NQN.

        ``session`` was looked at just now: the kernel gives a controller's name to another subsystem as soon as it
        is free. ``whole``: these are all the controllers of the NQN, which may go by that. Runs to its end also
        when the caller is cancelled.
        """
        ...

    async def check(self) -> Sequence[Finding]:
        """Look whether what this way needs is there. Never raises."""
        ...
