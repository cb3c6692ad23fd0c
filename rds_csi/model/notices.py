"""Notices: what a person must know of a volume or a node, for whoever tells people (Kubernetes: Events)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

# Parameters of CreateVolume that external-provisioner adds with --extra-create-metadata.
CLAIM_NAME_KEY = "csi.storage.k8s.io/pvc/name"
CLAIM_NAMESPACE_KEY = "csi.storage.k8s.io/pvc/namespace"


class Reason(StrEnum):
    """What a notice is about, in the CamelCase of Kubernetes' event reasons."""

    # A device holds, or may hold, data that mkfs would destroy.
    FORMAT_REFUSED = "FormatRefused"
    # Another failure of a stage, publish or growth on a node that only a person can mend.
    VOLUME_REFUSED = "VolumeRefused"
    SESSION_LOST = "SessionLost"
    SESSION_RECOVERED = "SessionRecovered"
    ORPHAN_DISCONNECTED = "OrphanDisconnected"
    ARRAY_FULL = "ArrayFull"
    # Several nodes show arrays the same host NQN.
    DUPLICATE_HOST_IDENTITY = "DuplicateHostIdentity"

    @property
    def is_of_node(self) -> bool:
        """Whether it is told of a node, and not of a volume."""
        return self in (Reason.ORPHAN_DISCONNECTED, Reason.DUPLICATE_HOST_IDENTITY)

    @property
    def happens_on_a_node(self) -> bool:
        """Whether it is of a volume, and of what one node does with it."""
        return self is not Reason.ARRAY_FULL and not self.is_of_node


@dataclass(frozen=True, slots=True)
class ClaimName:
    """A PersistentVolumeClaim by its name."""

    namespace: str
    name: str

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Self | None:
        """The claim that the parameters of CreateVolume name; None when they name none."""
        name, namespace = parameters.get(CLAIM_NAME_KEY, ""), parameters.get(CLAIM_NAMESPACE_KEY, "")
        return cls(namespace, name) if name and namespace else None


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that a person must know. Those that differ in their messages alone are one that happened several times.

    ``message`` is for people: what, and what to do next; no secret. The last one is told.
    Of a volume: ``volume_id``, or ``nqn`` where that is all that is known, or the ``claim`` of a volume to be.
    Of a node: ``node`` is the name of its Node object, "" for the node of this process.
    """

    reason: Reason
    message: str
    warning: bool
    volume_id: str = ""
    nqn: str = ""
    claim: ClaimName | None = None
    node: str = ""

    @property
    def identity(self) -> Self:
        """What it is of: the same, without the message, which may tell figures and device names of each time."""
        return replace(self, message="")


# Tells a notice to whoever wants to know. Never blocks, never raises.
Announce = Callable[[Notice], None]


def announce_nothing(notice: Notice) -> None:
    """Nobody is told."""
