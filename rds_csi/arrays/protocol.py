"""What every array can be asked. Backends are found by their URL scheme in the entry points ``rds_csi.arrays``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Protocol, runtime_checkable

from rds_csi.errors import FailedPrecondition
from rds_csi.model.host import HostPaths
from rds_csi.model.names import DEFAULT_DRIVER_NAME
from rds_csi.model.sizes import INT64_MAX, MIB
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    Finding,
    HealthProblem,
    Snapshot,
    SnapshotGroup,
    Volume,
    VolumeSpec,
)
from rds_csi.process import Runner
from rds_csi.workers import Workers


class NotOurs(FailedPrecondition):
    """In the place of what was asked for is something that is provably another's: of ``owner`` (see ``Place``)."""

    def __init__(self, message: str, *, owner: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.owner = owner


@dataclass(frozen=True, slots=True)
class Place:
    """The device that an array is on, and the owner by which its volumes there are told from those of other arrays."""

    device: str
    owner: str


@runtime_checkable
class Placed(Protocol):
    """An array that may share a device with others."""

    @property
    def place(self) -> Place:
        """Where it is."""
        ...


class Feature(Flag):
    """What an array may be unable to do; the services advertise only what is there."""

    SNAPSHOTS = auto()
    CLONES = auto()
    GROUP_SNAPSHOTS = auto()
    EXPANSION = auto()
    CAPACITY = auto()
    HEALTH = auto()
    ALL = SNAPSHOTS | CLONES | GROUP_SNAPSHOTS | EXPANSION | CAPACITY | HEALTH


@dataclass(frozen=True, slots=True)
class ArrayTraits:
    """What is fixed about an array: its name for people, what it can do, and its sizes in bytes."""

    name: str
    features: Feature = Feature.ALL
    granularity: int = MIB
    minimum_volume_size: int = MIB
    maximum_volume_size: int = INT64_MAX // MIB * MIB
    # Whether an attachment needs the node's host NQN, because the array lets in only the hosts it was told.
    needs_host_nqn: bool = False


@dataclass(frozen=True, slots=True)
class ArrayOptions:
    """What the composition root hands to every array's ``open_array(url, options)``, its entry point."""

    runner: Runner
    workers: Workers
    host: HostPaths
    nqn_prefix: str
    driver_name: str = DEFAULT_DRIVER_NAME


class Array(Protocol):
    """A storage server.

    Every method is idempotent by looking, has a deadline of its own, and leaves either what it found or what
    was asked for; killed half-way it leaves something that the repeated call completes. Errors: NotFound only
    for what is known to be absent, Unavailable when the array cannot be asked, ResourceExhausted when it is
    full. Callers hold a lock per volume, so two calls never work on one volume at a time; the array itself
    guards what volumes share.
    """

    @property
    def traits(self) -> ArrayTraits:
        """What is fixed about this array."""
        ...

    async def start(self) -> None:
        """Open the array: finish or undo what a killed predecessor left, restore exports. ConfigurationError
        when its URL cannot work at all; an array that is merely away does not fail here."""
        ...

    async def close(self) -> None:
        """Let go of connections and locks; volumes stay."""
        ...

    async def check(self) -> Sequence[Finding]:
        """Look whether the array can be used now; every problem with its remedy. Never raises."""
        ...

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        """Make the volume, or return the one of that id as it is: the caller compares.

        NotFound when the content source is absent; ResourceExhausted when there is no room;
        InvalidArgument for a pool that the array does not have.
        """
        ...

    async def delete_volume(self, volume_id: str) -> None:
        """Remove the volume and its export; an absent one is fine. Its snapshots and clones live on.
        FailedPrecondition while it has attachments."""
        ...

    async def get_volume(self, volume_id: str) -> Volume:
        """The volume; NotFound when it is known to be absent."""
        ...

    async def list_volumes(self) -> Sequence[Volume]:
        """All volumes of this driver, sorted by id."""
        ...

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        """Grow to at least ``size`` bytes; a larger volume stays as it is. Never shrinks."""
        ...

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        """Replace the mutable parameters."""
        ...

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        """Let the node in, and record the attachment in place of an older one of the same node."""
        ...

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        """Shut the node out and forget its attachment ("" means every node); absent ones are fine."""
        ...

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        """Take a snapshot, or return the one of that id as it is. NotFound for an unknown volume."""
        ...

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove the snapshot; an absent one is fine; volumes made from it live on."""
        ...

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """The snapshot; NotFound when it is known to be absent."""
        ...

    async def list_snapshots(self) -> Sequence[Snapshot]:
        """All snapshots of this driver, sorted by id."""
        ...

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        """Snapshot all volumes at one moment, or return the group of that id as it is."""
        ...

    async def delete_group(self, group_id: str) -> None:
        """Remove the group with its snapshots; an absent one is fine."""
        ...

    async def get_group(self, group_id: str) -> SnapshotGroup:
        """The group; NotFound when it is known to be absent."""
        ...

    async def capacity(self, pool: str) -> Capacity:
        """What can still be given, in ``pool`` or ("") in all."""
        ...

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        """What is wrong with the volume, seen from the array; empty when it is well. NotFound if absent."""
        ...
