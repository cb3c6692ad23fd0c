"""The chart, installed and removed by Helm as an administrator does it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster import images, programs
from tests.cluster.api import Object, field, name_of
from tests.cluster.cluster import Cluster
from tests.image.build import REFERENCE as DRIVER_IMAGE

CHART = Path(__file__).parents[2] / "charts" / "rds-csi"
DRIVER_NAME = "rds.csi.rds-csi.io"
NAMESPACE = "rds-csi"

_HELM_SECONDS = 180.0
_WAIT_SECONDS = 120
_REGISTER_SECONDS = 30.0


class Release:
    """One installation of the chart. ``helm`` is the program."""

    def __init__(
        self,
        cluster: Cluster,
        helm: str,
        name: str = "rds-csi",
        namespace: str = NAMESPACE,
        driver_name: str = DRIVER_NAME,
    ) -> None:
        self.cluster = cluster
        self.helm = helm
        self.name = name
        self.namespace = namespace
        self.driver_name = driver_name

    def install(self, values: Mapping[str, object], *, wait: bool = True) -> None:
        """Install it, or change what is installed; with ``wait`` its pods are ready afterwards."""
        path = self.cluster.directory / f"{self.name}-values.json"
        path.write_text(json.dumps(values))
        self._run(
            *("upgrade", "--install", self.name, str(CHART), f"--values={path}", "--create-namespace"),
            *(("--wait", f"--timeout={_WAIT_SECONDS}s") if wait else ()),
        )

    def uninstall(self) -> None:
        """Remove it; its pods are gone afterwards."""
        self._run("uninstall", self.name, "--wait", f"--timeout={_WAIT_SECONDS}s")
        self.cluster.processes.wait_until(lambda: not self.pods(), "the driver's pods are gone", _WAIT_SECONDS)

    def await_registered(self) -> None:
        """Every node's kubelet knows the driver."""
        nodes = [node.name for node in self.cluster.nodes]
        self.cluster.processes.wait_until(
            lambda: all(self.is_registered(node) for node in nodes),
            f"{self.driver_name} is registered",
            _REGISTER_SECONDS,
        )

    def is_registered(self, node: str) -> bool:
        """Whether the node's CSINode names the driver."""
        found = self.cluster.api.get("CSINode", node)
        return found is not None and any(
            item["name"] == self.driver_name for item in field(found, "spec.drivers") or []
        )

    def pods(self, component: str = "") -> list[Object]:
        """Its pods: of the ``controller``, of the ``node``, or all."""
        labels = f"app.kubernetes.io/instance={self.name}"
        labels += f",app.kubernetes.io/component={component}" if component else ""
        return self.cluster.api.list("Pod", self.namespace, labelSelector=labels)

    def logs(self, characters: int = 6000) -> str:
        """The end of the logs of every container."""
        texts = []
        for pod in self.pods():
            for container in pod["spec"]["containers"]:
                path = f"/api/v1/namespaces/{self.namespace}/pods/{name_of(pod)}/log"
                try:
                    text = self.cluster.api.text(path, container=container["name"])
                except AssertionError as error:
                    text = str(error)
                texts.append(f"--- {name_of(pod)} {container['name']}\n{text[-characters:]}")
        return "\n".join(texts)

    def _run(self, *words: str) -> None:
        argv = [self.helm, f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_HELM_SECONDS)
        if done.returncode:
            events = "\n".join(
                f"{event['involvedObject']['name']}: {event.get('message', '')}"
                for event in self.cluster.api.list("Event", self.namespace)
            )
            raise AssertionError(f"helm {' '.join(words)}: {done.stderr or done.stdout}\n{events}\n{self.logs()}")


def local_values(array: Path, url: str = "") -> dict[str, object]:
    """Values for image files in a directory of this machine."""
    return {
        **images_values(),
        "array": {"url": url or f"local://{array}", "local": {"hostPath": str(array)}},
        "logLevel": "debug",
        "node": node_values(),
        # The image files are on its node.
        "controller": {"nodeSelector": {"kubernetes.io/hostname": "node-a"}},
        "capacity": {"enabled": True, "pollInterval": "5s"},
        "snapshots": {"enabled": True, "classes": [{"name": "fast", "default": True}]},
        "storageClasses": [
            {"name": "fast", "default": True, "volumeBindingMode": "Immediate"},
            {"name": "xfs", "fsType": "xfs", "volumeBindingMode": "Immediate"},
            {"name": "waiting", "volumeBindingMode": "WaitForFirstConsumer"},
            {"name": "wrong", "volumeBindingMode": "Immediate", "parameters": {"queueSize": "8"}},
        ],
        "volumeAttributesClasses": [{"name": "patient", "parameters": {"ctrlLossTmo": "600"}}],
    }


def images_values() -> dict[str, object]:
    """Values that every release of the lane has: the images that the nodes have already."""
    repository, _, tag = DRIVER_IMAGE.rpartition(":")
    sidecars: dict[str, object] = {"pullPolicy": "Never"}
    for name in programs.SIDECARS:
        where, _, version = images.sidecar(name).rpartition(":")
        sidecars[name.removeprefix("csi-")] = {"image": {"repository": where, "tag": version}}
    return {"image": {"repository": repository, "tag": tag, "pullPolicy": "Never"}, "sidecars": sidecars}


def node_values() -> dict[str, object]:
    """Values of the node plugin on this machine: a kernel without modules has no directory of them."""
    return {"hostPaths": {"modules": "/lib/modules" if Path("/lib/modules").is_dir() else ""}}
