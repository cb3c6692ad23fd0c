"""What the mark of a source says of a copy that is being made of it (see ``copying``)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from rds_csi.arrays.routeros.mark import Kind
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.model.volumes import Attachment


class BeingCopied(Unavailable):
    """The disk is the source of a copy that runs, so it must stay as it is."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy: what it is to become, under which name, since when. ``job`` is "" while it is not known whether the
    device has begun."""

    kind: Kind
    object_id: str
    created: datetime
    name: str
    job: str = ""

    def encode(self) -> str:
        """The text for ``Mark.job``."""
        return f"{self.kind.value}/{self.object_id}/{self.job}/{self.created.isoformat()}/{self.name}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """What ``encode`` made."""
        kind, object_id, job, created, name = text.split("/", 4)
        return cls(Kind(kind), object_id, datetime.fromisoformat(created), name, job)

    @property
    def target(self) -> tuple[Kind, str]:
        """What it is to become: two copies with the same target are the same one, tried twice."""
        return self.kind, self.object_id

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.kind.name.lower()} {self.object_id}"


def copies_of(owners: Iterable[Owned]) -> list[tuple[Owned, Copy]]:
    """Every copy that a mark names, with its source."""
    return [(owned, Copy.decode(owned.mark.job)) for owned in owners if owned.mark.job]


def check_idle(owned: Owned) -> None:
    """BeingCopied when the disk's mark names a copy, which may be over."""
    if owned.mark.job:
        raise BeingCopied(f"disk {owned.disk.slot!r} is being copied to {Copy.decode(owned.mark.job).title}")


def writes(attachment: Attachment) -> bool:
    """Whether the node may write."""
    return not (attachment.readonly or attachment.access_mode.is_read_only)


def check_unwritten(owned: Owned) -> None:
    """FailedPrecondition, naming the nodes, when somebody may write to the volume meanwhile."""
    nodes = [item.node.node_id for item in owned.mark.attachments if writes(item)]
    if nodes:
        raise FailedPrecondition(
            f"volume {owned.object_id} is attached for writing to {', '.join(sorted(nodes))}: what is read from it now "
            "would not be of one moment",
            remedy="Stop the workload that writes to it, and wait until it is unpublished.",
        )
