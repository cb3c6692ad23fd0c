"""The objects that the driver reads, as frozen values, and their paths (Kubernetes API reference, v1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from rds_csi.kubernetes.values import Json, Object, at, items, text
from rds_csi.model.targets import NQN_KEY

VOLUMES = "/api/v1/persistentvolumes"
NODES = "/api/v1/nodes"
VOLUME_ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


def volume_path(name: str) -> str:
    """Of a PersistentVolume."""
    return f"{VOLUMES}/{quote(name, safe='')}"


def node_path(name: str) -> str:
    """Of a Node."""
    return f"{NODES}/{quote(name, safe='')}"


def claim_path(namespace: str, name: str) -> str:
    """Of a PersistentVolumeClaim."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/persistentvolumeclaims/{quote(name, safe='')}"


def events_path(namespace: str) -> str:
    """Of the Events of a namespace."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/events"


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that events are about. ``namespace`` is "" for objects of the whole cluster."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class PersistentVolume:
    """A PersistentVolume of a CSI driver, and the claim that it is bound to. ``nqn`` is "" without one."""

    name: str
    uid: str
    driver: str
    volume_id: str
    nqn: str
    claim: Reference | None

    @classmethod
    def of(cls, value: Object) -> "PersistentVolume":
        """Of the object as the API tells it."""
        name, namespace = text(value, "spec", "claimRef", "name"), text(value, "spec", "claimRef", "namespace")
        uid = text(value, "spec", "claimRef", "uid")
        return cls(
            name=text(value, "metadata", "name"),
            uid=text(value, "metadata", "uid"),
            driver=text(value, "spec", "csi", "driver"),
            volume_id=text(value, "spec", "csi", "volumeHandle"),
            nqn=text(value, "spec", "csi", "volumeAttributes", NQN_KEY),
            claim=Reference("PersistentVolumeClaim", name, namespace, uid) if name and namespace else None,
        )

    @property
    def reference(self) -> Reference:
        """For events."""
        return Reference("PersistentVolume", self.name, uid=self.uid)


@dataclass(frozen=True, slots=True)
class VolumeAttachment:
    """A wish to have ``volume`` (a PersistentVolume's name) attached to ``node``, and whether it is."""

    uid: str
    attacher: str
    volume: str
    node: str
    attached: bool

    @classmethod
    def of(cls, value: Object) -> "VolumeAttachment":
        """Of the object as the API tells it."""
        return cls(
            uid=text(value, "metadata", "uid"),
            attacher=text(value, "spec", "attacher"),
            volume=text(value, "spec", "source", "persistentVolumeName"),
            node=text(value, "spec", "nodeName"),
            attached=at(value, "status", "attached") is True,
        )


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a Node; ``value`` is all of it, as a patch has to repeat it."""

    key: str
    effect: str
    value: Json


@dataclass(frozen=True, slots=True)
class Node:
    """A Node: whether it takes new pods, and its taints."""

    unschedulable: bool
    taints: tuple[Taint, ...]

    @classmethod
    def of(cls, value: Object) -> "Node":
        """Of the object as the API tells it."""
        return cls(
            unschedulable=at(value, "spec", "unschedulable") is True,
            taints=tuple(
                Taint(text(item, "key"), text(item, "effect"), item)
                for item in items(value, "spec", "taints")
                if isinstance(item, Mapping)
            ),
        )
