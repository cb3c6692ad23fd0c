"""A small client of the Kubernetes API: objects are dictionaries, as their manifests are."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.control_plane import SERVER

# What the API reference (v1.36) says of an object: JSON, read with ``field``.
Object = dict[str, Any]

# Group and version, plural, whether it is in a namespace.
_KINDS = {
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "ControllerRevision": ("apis/apps/v1", "controllerrevisions", True),
    "CSIDriver": ("apis/storage.k8s.io/v1", "csidrivers", False),
    "CSINode": ("apis/storage.k8s.io/v1", "csinodes", False),
    "CSIStorageCapacity": ("apis/storage.k8s.io/v1", "csistoragecapacities", True),
    "DaemonSet": ("apis/apps/v1", "daemonsets", True),
    "Deployment": ("apis/apps/v1", "deployments", True),
    "Event": ("api/v1", "events", True),
    "Lease": ("apis/coordination.k8s.io/v1", "leases", True),
    "Namespace": ("api/v1", "namespaces", False),
    "Node": ("api/v1", "nodes", False),
    "PersistentVolume": ("api/v1", "persistentvolumes", False),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims", True),
    "Pod": ("api/v1", "pods", True),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "Secret": ("api/v1", "secrets", True),
    "ServiceAccount": ("api/v1", "serviceaccounts", True),
    "StorageClass": ("apis/storage.k8s.io/v1", "storageclasses", False),
    "VolumeAttachment": ("apis/storage.k8s.io/v1", "volumeattachments", False),
    "VolumeAttributesClass": ("apis/storage.k8s.io/v1", "volumeattributesclasses", False),
    "VolumeSnapshot": ("apis/snapshot.storage.k8s.io/v1", "volumesnapshots", True),
    "VolumeSnapshotClass": ("apis/snapshot.storage.k8s.io/v1", "volumesnapshotclasses", False),
    "VolumeSnapshotContent": ("apis/snapshot.storage.k8s.io/v1", "volumesnapshotcontents", False),
}

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_REQUEST_SECONDS = 30.0


def field(obj: Mapping[str, Any], path: str) -> Any:
    """``field(pod, "status.phase")``; None when it is not there."""
    value: Any = obj
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def name_of(obj: Mapping[str, Any]) -> str:
    """The object's name."""
    return str(field(obj, "metadata.name"))


class Api:
    """The API as the administrator sees it."""

    def __init__(self, pki: Path) -> None:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._client = httpx.Client(base_url=SERVER, verify=context, timeout=_REQUEST_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ready(self) -> bool:
        """Whether the API server says so."""
        try:
            return self._client.get("/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def kubelet_answers(self, node: str) -> bool:
        """Whether the API server reaches the node's kubelet, and that is well."""
        return self._client.get(f"/api/v1/nodes/{node}/proxy/healthz").status_code == httpx.codes.OK

    def apply(self, manifest: Object) -> Object:
        """Create or change an object (server-side apply)."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        return self._patch(path, manifest, _APPLY, fieldManager="rds-csi-lane", force="true")

    def merge(self, kind: str, name: str, patch: Object, namespace: str = "") -> Object:
        """Change some fields of an object."""
        return self._patch(_path(kind, namespace, name), patch, _MERGE)

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """One object; None when it is not there."""
        answer = self._client.get(_path(kind, namespace, name))
        return None if answer.status_code == httpx.codes.NOT_FOUND else _object(answer)

    def list(self, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        """All objects of a kind, of one namespace or of all; ``labelSelector=…``, ``fieldSelector=…``."""
        answer = self._client.get(_path(kind, namespace), params=selectors)
        return list(_object(answer).get("items") or [])

    def delete(self, kind: str, name: str, namespace: str = "", grace: int | None = None) -> None:
        """Begin the deletion; nothing happens when it is gone. ``grace`` in seconds; 0 does not wait for the node."""
        params = {} if grace is None else {"gracePeriodSeconds": str(grace)}
        if kind == "Deployment":
            # It is gone when its pods are; else its ReplicaSet would go on making some.
            params["propagationPolicy"] = "Foreground"
        answer = self._client.delete(_path(kind, namespace, name), params=params)
        if answer.status_code != httpx.codes.NOT_FOUND:
            _object(answer)

    def text(self, path: str, **params: str) -> str:
        """What a path answers, as text: logs, metrics."""
        answer = self._client.get(path, params=params)
        _raise(answer)
        return answer.text

    def _patch(self, path: str, body: Object, media_type: str, **params: str) -> Object:
        return _object(self._client.patch(path, params=params, json=body, headers={"Content-Type": media_type}))


def _path(kind: str, namespace: str, name: str = "") -> str:
    group, plural, namespaced = _KINDS[kind]
    inside = f"/namespaces/{namespace}" if namespaced and namespace else ""
    return f"/{group}{inside}/{plural}" + (f"/{name}" if name else "")


def _object(answer: httpx.Response) -> Object:
    _raise(answer)
    content: Object = answer.json()
    return content


def _raise(answer: httpx.Response) -> None:
    if answer.is_error:
        raise AssertionError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:1000]}")
