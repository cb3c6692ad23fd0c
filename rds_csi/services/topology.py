"""Topology: from where volumes and snapshots of one array can be reached.

An array is reached either from everywhere or from nowhere in a segment, so all of its volumes have the same
accessible topology: the segments with which the services are started.
"""

from collections.abc import Mapping, Sequence

from rds_csi.csi.v1 import Topology, TopologyRequirement
from rds_csi.errors import OutOfReach

Segments = Mapping[str, str]


def messages(segments: Segments) -> list[Topology]:
    """The ``accessible_topology`` of every volume; empty when there are no segments."""
    return [Topology(segments=dict(segments))] if segments else []


def is_within(topology: Topology, segments: Segments) -> bool:
    """Whether what is reachable in ``segments`` is reachable in ``topology``.

    A topology that names fewer keys is the larger area; one with a key that this driver does not have is
    another driver's.
    """
    return all(segments.get(key) == value for key, value in topology.segments.items())


def names_only(requirement: TopologyRequirement, segments: Segments) -> bool:
    """Whether the requisite topologies are exactly the array's own, so that the asker knows where it is."""
    return bool(requirement.requisite) and all(item.segments == dict(segments) for item in requirement.requisite)


def fits(requirement: TopologyRequirement, segments: Segments) -> bool:
    """Whether the array's volumes can be reached in one of the requisite topologies, or none is asked for.

    ``preferred`` is a wish, and there is nothing to choose from.
    """
    requisite: Sequence[Topology] = requirement.requisite
    return not segments or not requisite or any(is_within(topology, segments) for topology in requisite)


def check_requirement(requirement: TopologyRequirement, segments: Segments, what: str) -> None:
    """OutOfReach when none of the requisite topologies is one of the array's."""
    if fits(requirement, segments):
        return
    asked = requirement.requisite[:8]
    wanted = "; ".join(", ".join(f"{key}={value}" for key, value in item.segments.items()) for item in asked)
    here = ", ".join(f"{key}={value}" for key, value in segments.items())
    raise OutOfReach(
        f"{what} can be reached from {here} only, not from {wanted[:512]}",
        remedy="Run the pod in that topology, or use a StorageClass of an array there.",
    )
