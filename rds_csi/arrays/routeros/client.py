"""What array code sees of a device, whatever the transport: one small client; and what clients see of transports."""

from collections.abc import Mapping
from typing import Protocol

from rds_csi.arrays.routeros.commands import Anchors, Command, Outcome
from rds_csi.arrays.routeros.records import DeviceFacts, Disk, File, Subvolume


class Client(Protocol):
    """A RouterOS device.

    Every method has a deadline of its own. Errors (``errors.py``): Unsent, nothing was done; LostReply, it may have
    been done; Refused and NotPermitted, RouterOS said no to a look; GarbageReply, a look brought nonsense; NotTrusted.
    """

    async def execute(self, command: Command) -> Outcome:
        """Do the command. RouterOS's refusal of a step is no exception but ``Outcome.error``; whatever was sent and
        whose outcome is not known is LostReply: look, then decide."""
        ...

    async def find_disks(self, anchors: Anchors) -> tuple[Disk, ...]:
        """The disks that the anchors find, in the device's order."""
        ...

    async def list_disks(self) -> tuple[Disk, ...]:
        """Every disk of the device, pools and foreign ones included, by one exec or request."""
        ...

    async def list_files(self, directory: str) -> tuple[File, ...]:
        """Everything below ``directory`` (normalised), at every depth."""
        ...

    async def list_subvolumes(self) -> tuple[Subvolume, ...]:
        """Every btrfs subvolume of the device."""
        ...

    async def facts(self) -> DeviceFacts:
        """What the device is and may; works with every RouterOS 7, so that an old one can be told its version."""
        ...

    async def copy_file(self, source: str, destination: str, then: Command) -> str:
        """Start a job on the device that copies the file and, when that went well, does ``then``; the job's id.

        Nobody reads what the job says: look at the disks, and whether it still runs.
        """
        ...

    async def running_jobs(self) -> frozenset[str]:
        """The ids of the jobs that run on the device now."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


class Console(Protocol):
    """SSH, as the client sees it: one exec after the other, each a line of script."""

    async def run(self, script: str, *, timeout: float = ..., output_limit: int = ..., whole: bool = False) -> str:
        """What the device printed, lines ended by line feeds; ``timeout`` in seconds, ``output_limit`` in bytes.

        ``whole``: once it is sent, it has its ``timeout`` even when the caller's time is over sooner.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class Reply(Protocol):
    """What came back for a request: the parsed JSON (None for an empty body), or RouterOS's ``refusal`` ("": none)."""

    @property
    def status(self) -> int: ...

    @property
    def json(self) -> object: ...

    @property
    def refusal(self) -> str: ...


class Session(Protocol):
    """REST, as the client sees it. ``path`` begins with ``/rest/``."""

    async def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        """One request; a 400 or 404 of RouterOS's own is a reply with a refusal, everything else that fails raises."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...
