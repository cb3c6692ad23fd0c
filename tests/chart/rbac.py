"""Why each verb of the chart's roles is granted, and when: read by the tests, and by whoever reviews the rights.

The sidecars' needs were read in their sources at the versions that the chart pins: an informer lists and watches, an
event recorder creates and patches, leader election gets, creates and updates its Lease.
"""

from dataclasses import dataclass
from enum import Enum, auto


class When(Enum):
    """What must be switched on for a grant to be there."""

    ALWAYS = auto()
    DRIVER = auto()  # kubernetesApi
    TAINT = auto()  # kubernetesApi and node.removeStartupTaint
    CAPACITY = auto()  # capacity.enabled
    SNAPSHOTS = auto()  # snapshots.enabled
    GROUPS = auto()  # snapshots.groups


@dataclass(frozen=True, slots=True)
class Grant:
    """One verb on one resource. ``role`` is ``controller``, ``controller (namespace)`` or ``node``."""

    role: str
    group: str
    resource: str
    verb: str


@dataclass(frozen=True, slots=True)
class Why:
    """Who needs it for what. ``when`` is the least that must be switched on."""

    who: str
    when: When = When.ALWAYS


_SNAPSHOT = "snapshot.storage.k8s.io"
_GROUP = "groupsnapshot.storage.k8s.io"
_STORAGE = "storage.k8s.io"


def _grants(role: str, group: str, resource: str, verbs: dict[str, str], when: When = When.ALWAYS) -> dict[Grant, Why]:
    return {Grant(role, group, resource, verb): Why(who, when) for verb, who in verbs.items()}


def _watched(who: str) -> dict[str, str]:
    return {"list": f"{who}: informer", "watch": f"{who}: informer"}


CONTROLLER: dict[Grant, Why] = {
    **_grants(
        "controller",
        "",
        "persistentvolumes",
        {
            **_watched("provisioner, attacher, resizer"),
            "get": "provisioner: the source of a clone; driver: which volume an event is about",
            "create": "provisioner: the PersistentVolume of a new volume",
            "patch": "provisioner, attacher: finalizers; resizer: the new size",
            "delete": "provisioner: after the volume is deleted",
        },
    ),
    **_grants(
        "controller",
        "",
        "persistentvolumeclaims",
        {
            **_watched("provisioner, resizer"),
            "update": "provisioner: the finalizer that protects a clone's source, and another node for a claim",
        },
    ),
    **_grants(
        "controller", "", "persistentvolumeclaims", {"get": "driver: the claim that an event is about"}, When.DRIVER
    ),
    **_grants(
        "controller",
        "",
        "persistentvolumeclaims/status",
        {"patch": "resizer: conditions, allocated size, VolumeAttributesClass in force"},
    ),
    **_grants(
        "controller",
        "",
        "events",
        {"create": "provisioner, resizer, snapshotter, driver", "patch": "the same: an event that is repeated"},
    ),
    **_grants("controller", "", "nodes", _watched("provisioner: topology")),
    **_grants("controller", _STORAGE, "csinodes", _watched("provisioner: topology; attacher: node ids")),
    **_grants("controller", _STORAGE, "storageclasses", _watched("provisioner")),
    **_grants(
        "controller",
        _STORAGE,
        "volumeattachments",
        {**_watched("provisioner: deletion waits for them; attacher"), "patch": "attacher: finalizers, node ids"},
    ),
    **_grants("controller", _STORAGE, "volumeattachments/status", {"patch": "attacher: attached, errors"}),
    **_grants(
        "controller",
        _STORAGE,
        "volumeattributesclasses",
        {**_watched("resizer"), "get": "provisioner: the class of a new claim"},
    ),
    **_grants(
        "controller",
        _SNAPSHOT,
        "volumesnapshots",
        {
            **_watched("provisioner: finalizers that were left behind"),
            "get": "provisioner: the source of a restore",
            "update": "provisioner: the finalizer that protects it",
        },
        When.SNAPSHOTS,
    ),
    **_grants("controller", _SNAPSHOT, "volumesnapshotclasses", _watched("snapshotter"), When.SNAPSHOTS),
    **_grants(
        "controller",
        _SNAPSHOT,
        "volumesnapshotcontents",
        {
            **_watched("snapshotter"),
            "get": "provisioner: the snapshot's handle; snapshotter: before it writes the status",
            "patch": "snapshotter: annotations and finalizers",
        },
        When.SNAPSHOTS,
    ),
    **_grants(
        "controller",
        _SNAPSHOT,
        "volumesnapshotcontents/status",
        {"update": "snapshotter: handle, size, readiness", "patch": "snapshotter: errors"},
        When.SNAPSHOTS,
    ),
    **_grants("controller", _GROUP, "volumegroupsnapshotclasses", _watched("snapshotter"), When.GROUPS),
    **_grants(
        "controller",
        _GROUP,
        "volumegroupsnapshotcontents",
        {
            **_watched("snapshotter"),
            "get": "snapshotter: before it writes the status",
            "patch": "snapshotter: annotations and finalizers",
        },
        When.GROUPS,
    ),
    **_grants(
        "controller",
        _GROUP,
        "volumegroupsnapshotcontents/status",
        {"update": "snapshotter: handles, readiness", "patch": "snapshotter: errors"},
        When.GROUPS,
    ),
}

NAMESPACE: dict[Grant, Why] = {
    **_grants(
        "controller (namespace)",
        "coordination.k8s.io",
        "leases",
        dict.fromkeys(("get", "create", "update"), "every sidecar: leader election"),
    ),
    **_grants(
        "controller (namespace)",
        _STORAGE,
        "csistoragecapacities",
        {
            **_watched("provisioner: capacity"),
            **dict.fromkeys(("create", "update", "delete"), "provisioner: one for each class and topology"),
        },
        When.CAPACITY,
    ),
    **_grants(
        "controller (namespace)", "", "pods", {"get": "provisioner: the owner of capacity objects"}, When.CAPACITY
    ),
    **_grants(
        "controller (namespace)",
        "apps",
        "replicasets",
        {"get": "provisioner: the owner of that owner, the Deployment"},
        When.CAPACITY,
    ),
}

NODE: dict[Grant, Why] = {
    **_grants("node", "", "nodes", {"get": "driver: is there a start-up taint, is the node drained"}, When.DRIVER),
    **_grants("node", "", "nodes", {"patch": "driver: removes the start-up taint"}, When.TAINT),
    **_grants(
        "node",
        "",
        "persistentvolumes",
        {
            "get": "driver: which volume an event or an attachment is about",
            "list": "driver: the same, of a volume that was not made by the provisioner",
        },
        When.DRIVER,
    ),
    **_grants(
        "node",
        "",
        "events",
        {"create": "driver: what a person must know", "patch": "driver: an event that is repeated"},
        When.DRIVER,
    ),
    **_grants(
        "node",
        _STORAGE,
        "volumeattachments",
        {"list": "driver: volumes that have moved to other nodes; the end of a drain"},
        When.DRIVER,
    ),
}

GRANTS: dict[Grant, Why] = {**CONTROLLER, **NAMESPACE, **NODE}
