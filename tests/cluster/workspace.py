"""A namespace of the cluster with the claims and pods of one test."""

import json
from collections.abc import Callable, Mapping
from functools import partial

from tests.cluster.api import Object, field, name_of
from tests.cluster.cluster import Cluster, condition
from tests.cluster.images import BUSYBOX

# Far above what each takes here (1 to 5 s), on a loaded machine too.
POD_SECONDS = 90.0
CLAIM_SECONDS = 60.0
GONE_SECONDS = 90.0
EVENT_SECONDS = 60.0

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"
DEVICE = "/dev/volume"

# Ends at once when it is told to, as a process with number 1 does only on its own wish.
_WAIT = "trap 'exit 0' TERM; sleep 2147483647 & wait"


class Workspace:
    """Makes objects in one namespace and waits for them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.namespace = namespace
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float) -> float:
        """As ``Processes.wait_until``."""
        return self.cluster.processes.wait_until(holds, what, seconds)

    # ---- making

    def claim(
        self,
        name: str,
        *,
        storage_class: str = "fast",
        size: str = "64Mi",
        mode: str = "Filesystem",
        access: str = "ReadWriteOnce",
        source: Object | None = None,
        attributes_class: str = "",
    ) -> None:
        """Make a PersistentVolumeClaim."""
        spec: Object = {
            "storageClassName": storage_class,
            "accessModes": [access],
            "volumeMode": mode,
            "resources": {"requests": {"storage": size}},
        }
        spec |= {"dataSource": source} if source else {}
        spec |= {"volumeAttributesClassName": attributes_class} if attributes_class else {}
        self._apply("v1", "PersistentVolumeClaim", name, spec)

    def snapshot(self, name: str, claim: str, snapshot_class: str = "fast") -> None:
        """Make a VolumeSnapshot and wait until it can be used."""
        spec = {"volumeSnapshotClassName": snapshot_class, "source": {"persistentVolumeClaimName": claim}}
        self._apply(f"{SNAPSHOT_GROUP}/v1", "VolumeSnapshot", name, spec)
        self.wait_until(
            lambda: field(self.get("VolumeSnapshot", name), "status.readyToUse") is True,
            f"the snapshot {name} can be used",
            CLAIM_SECONDS,
        )

    def pod(self, name: str, claims: Mapping[str, str], *, node: str = "", block: bool = False) -> None:
        """Make a pod that has each claim at a path; ``{"/data": "claim"}``, or ``{DEVICE: "claim"}`` with ``block``."""
        self.pod_with(name, _of_claims(claims), node=node, block=block)

    def pod_with(self, name: str, volumes: Mapping[str, Object], *, node: str = "", block: bool = False) -> None:
        """Make a pod with any volumes, by the paths where they are in its container."""
        self._apply("v1", "Pod", name, _pod_spec(volumes, node, block))

    def deploy(self, name: str, claims: Mapping[str, str]) -> None:
        """Make a Deployment of one such pod: where it was deleted, another one is made."""
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": _pod_spec(_of_claims(claims), "", block=False)}
        spec = {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": template,
        }
        self._apply("apps/v1", "Deployment", name, spec)

    def grow(self, claim: str, size: str) -> None:
        """Ask for a larger volume."""
        change = {"spec": {"resources": {"requests": {"storage": size}}}}
        self.api.merge("PersistentVolumeClaim", claim, change, self.namespace)

    # ---- looking

    def get(self, kind: str, name: str) -> Object:
        """An object of this namespace; AssertionError when it is not there."""
        found = self.api.get(kind, name, self.namespace)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def volume(self, claim: str) -> Object:
        """The PersistentVolume of a bound claim."""
        found = self.api.get("PersistentVolume", field(self.get("PersistentVolumeClaim", claim), "spec.volumeName"))
        assert found is not None, f"the claim {claim} has no volume"
        return found

    def run(self, pod: str, *argv: str) -> str:
        """What a command in the pod's container prints, without the blanks at both ends."""
        return self.cluster.kubectl("exec", f"--namespace={self.namespace}", pod, "--", *argv).strip()

    def messages(self, name: str) -> list[str]:
        """The messages of the events of an object of this namespace."""
        events = self.api.list("Event", self.namespace, fieldSelector=f"involvedObject.name={name}")
        return [f"{event['reason']}: {event.get('message', '')}" for event in events]

    # ---- waiting

    def await_bound(self, claim: str) -> None:
        """The claim has its volume."""
        self.wait_until(
            lambda: field(self.get("PersistentVolumeClaim", claim), "status.phase") == "Bound",
            f"the claim {claim} is bound",
            CLAIM_SECONDS,
        )

    def await_ready(self, *pods: str) -> None:
        """The pods run."""
        for pod in pods:
            self.wait_until(partial(self.is_ready, pod), f"the pod {pod} runs", POD_SECONDS)

    def is_ready(self, pod: str) -> bool:
        """Whether the pod runs."""
        return condition(self.get("Pod", pod), "Ready") == "True"

    def await_message(self, name: str, *words: str) -> None:
        """An event of the object has all the words in its message."""
        self.wait_until(
            lambda: any(all(word in message for word in words) for message in self.messages(name)),
            f"an event of {name} says {words}",
            EVENT_SECONDS,
        )

    # ---- ending

    def delete(self, kind: str, *names: str, grace: int | None = None) -> None:
        """Delete objects and wait until they are gone."""
        for name in names:
            self.api.delete(kind, name, self.namespace, grace=grace)
        for name in names:
            self.await_gone(kind, name)

    def await_gone(self, kind: str, name: str) -> None:
        """The object is not there any more."""
        self.wait_until(
            lambda: self.api.get(kind, name, self.namespace) is None, f"the {kind} {name} is gone", GONE_SECONDS
        )

    def close(self) -> None:
        """Delete everything, and the namespace."""
        self.empty()
        self.api.delete("Namespace", self.namespace)

    def empty(self) -> None:
        """Delete everything; the volumes are gone too."""
        self._delete_all("Deployment")
        self._delete_all("Pod")
        # A volume that is still attached is not deleted, and tried again only after a pause that gets longer.
        volumes = set(map(name_of, self._volumes()))
        self.wait_until(lambda: not volumes & self._attached(), "no volume is attached any more", GONE_SECONDS)
        # Together: a snapshot stays for as long as a claim waits to be made of it.
        self._delete_all("VolumeSnapshot", "PersistentVolumeClaim")
        self.wait_until(lambda: not self._volumes(), f"the volumes of {self.namespace} are gone", GONE_SECONDS)

    def describe(self) -> str:
        """What a person wants to see of a failed test."""
        lines = [f"namespace {self.namespace}"]
        for kind in ("Pod", "PersistentVolumeClaim", "VolumeSnapshot"):
            for found in self.api.list(kind, self.namespace):
                lines.append(f"{kind} {name_of(found)}: {json.dumps(found.get('status', {}))[:1500]}")
                lines.extend(f"    {message}" for message in self.messages(name_of(found)))
        return "\n".join(lines)

    def _delete_all(self, *kinds: str) -> None:
        found = [(kind, name_of(item)) for kind in kinds for item in self.api.list(kind, self.namespace)]
        for kind, name in found:
            self.api.delete(kind, name, self.namespace)
        for kind, name in found:
            self.await_gone(kind, name)

    def _attached(self) -> set[str]:
        attachments = self.api.list("VolumeAttachment")
        return {str(field(attachment, "spec.source.persistentVolumeName")) for attachment in attachments}

    def _volumes(self) -> list[Object]:
        volumes = self.api.list("PersistentVolume")
        return [volume for volume in volumes if field(volume, "spec.claimRef.namespace") == self.namespace]

    def _apply(self, version: str, kind: str, name: str, spec: Mapping[str, object]) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        self.api.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": dict(spec)})


def kilobytes(work: Workspace, pod: str) -> int:
    """The size of the filesystem at a pod's /data, in KiB."""
    return int(work.run(pod, "sh", "-c", "df -k /data | tail -n 1").split()[1])


def _of_claims(claims: Mapping[str, str]) -> dict[str, Object]:
    """A pod's volumes by their paths."""
    return {
        path: {"name": f"v{index}", "persistentVolumeClaim": {"claimName": claim}}
        for index, (path, claim) in enumerate(claims.items())
    }


def _pod_spec(volumes: Mapping[str, Object], node: str, block: bool) -> Object:
    kind, place = ("volumeDevices", "devicePath") if block else ("volumeMounts", "mountPath")
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", _WAIT],
        kind: [{"name": volume["name"], place: path} for path, volume in volumes.items()],
    }
    return {
        "containers": [container],
        "volumes": list(volumes.values()),
        "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
        "terminationGracePeriodSeconds": 5,
    }
