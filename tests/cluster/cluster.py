"""The whole cluster: control plane and nodes, up and down."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.cluster import images, programs
from tests.cluster.api import Api, Object, field, name_of
from tests.cluster.control_plane import ControlPlane
from tests.cluster.machine import Machine
from tests.cluster.network import Network
from tests.cluster.node import Node
from tests.cluster.processes import Processes

_API_SECONDS = 90.0
_RUNTIME_SECONDS = 30.0
_NODE_SECONDS = 60.0
_KUBECTL_SECONDS = 60.0
_PODS_GONE_SECONDS = 30.0


class Cluster:
    """A running cluster; ``seconds`` tells how long each step of the start took."""

    def __init__(self, *nodes: str) -> None:
        # A unix socket's path below it may have no more than 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="rds-csi-", dir="/tmp")).resolve()
        self.directory.chmod(0o755)
        (self.directory / "logs").mkdir()
        self.seconds: dict[str, float] = {}
        self.processes = Processes(self.directory / "logs")
        pki = self.directory / "pki"
        self._control_plane = ControlPlane(self.directory, self.processes)
        self._network = Network()
        self.nodes = [
            Node(self.directory / name, pki, name, index, self.processes, self._network)
            for index, name in enumerate(nodes)
        ]
        self._machine = Machine(self.directory)
        self._api: Api | None = None
        # What ``stop`` does, the newest first; each step is done whatever becomes of the others.
        self._undo = ExitStack()
        self._kubeconfig = pki / "admin.conf"

    @property
    def api(self) -> Api:
        """The API, after ``start``."""
        assert self._api is not None
        return self._api

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._kubeconfig

    @property
    def audit_log(self) -> Path:
        """What ServiceAccounts asked of the API server (``audit_policy``)."""
        return self.directory / "audit.log"

    def start(self) -> None:
        """Everything runs and every node is ready."""
        begun = time.monotonic()
        self._undo.callback(shutil.rmtree, self.directory)
        self._undo.callback(self._machine.restore)
        self._undo.callback(self._network.down)
        self._network.up()
        self._undo.callback(self._stop_processes)
        self._control_plane.write_certificates([node.name for node in self.nodes])
        self._api = Api(self.directory / "pki")
        self._undo.callback(self._api.close)
        self._control_plane.start_api()
        for node in self.nodes:
            node.start_runtime()
        for node in self.nodes:
            self.processes.wait_until(node.runtime_answers, f"containerd of {node.name} answers", _RUNTIME_SECONDS)
            self._undo.callback(node.kill_containers)
            node.import_images(images.archive())
        self.seconds["container runtime with its images"] = time.monotonic() - begun
        self.processes.wait_until(self.api.ready, "the API server is ready", _API_SECONDS)
        self.seconds["API server ready"] = time.monotonic() - begun
        self._control_plane.start_controllers()
        self._undo.callback(self._stop_kubelets)
        for node in self.nodes:
            node.start_kubelet()
        self.kubectl("apply", *(f"--filename={path}" for path in programs.crds()))
        self._control_plane.start_snapshot_controller()
        for node in self.nodes:
            self.wait_for_node(node)
        self._undo.callback(self._delete_pods)
        self.seconds["nodes ready"] = time.monotonic() - begun

    def stop(self) -> None:
        """Nothing of it runs any more and nothing of it is left on the machine; also after a failed ``start``."""
        self._undo.close()

    def wait_for_node(self, node: Node) -> None:
        """The node is registered and ready."""
        self.processes.wait_until(lambda: self._is_ready(node), f"{node.name} is ready", _NODE_SECONDS)

    def kubectl(self, *words: str, stdin: str = "", timeout: float = _KUBECTL_SECONDS, check: bool = True) -> str:
        """Run kubectl as the administrator; its output. AssertionError with its words when it fails."""
        argv = [str(programs.program("kubectl")), f"--kubeconfig={self._kubeconfig}", *words]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr.strip()}\n{done.stdout}")
        return done.stdout if done.returncode == 0 else done.stderr

    def _is_ready(self, node: Node) -> bool:
        found = self.api.get("Node", node.name)
        # The condition of a kubelet that has just died is still there.
        return found is not None and condition(found, "Ready") == "True" and self.api.kubelet_answers(node.name)

    def _stop_kubelets(self) -> None:
        self.processes.stop(*self.processes.names("kubelet-"))

    def _stop_processes(self) -> None:
        # What others need is stopped after them: they would complain for their whole grace period.
        last = ["kube-apiserver", "etcd", *self.processes.names("host-")]
        self.processes.stop(*(name for name in self.processes.names() if name not in last))
        for name in last:
            self.processes.stop(name)

    def _delete_pods(self) -> None:
        """While the nodes still work, so that volumes and networks are taken down in order: first those of tests, then
        what has an owner, the driver's. Nobody makes new ones meanwhile."""
        self.processes.stop("kube-controller-manager", "kube-scheduler")
        try:
            self._delete(lambda pod: not field(pod, "metadata.ownerReferences"))
            self._delete(lambda _: True)
        except AssertionError as error:
            # What is left is ended by force.
            print(error)

    def _delete(self, chosen: Callable[[Object], bool]) -> None:
        pods = [pod for pod in self.api.list("Pod") if chosen(pod)]
        for pod in pods:
            self.api.delete("Pod", name_of(pod), pod["metadata"]["namespace"], grace=1)
        self.processes.wait_until(
            lambda: not any(map(chosen, self.api.list("Pod"))), f"{len(pods)} pods are gone", _PODS_GONE_SECONDS
        )


def condition(obj: Object, kind: str) -> str:
    """The status of a condition: ``True``, ``False``, ``Unknown``; empty when it is not there."""
    found = [item for item in field(obj, "status.conditions") or [] if item["type"] == kind]
    return str(found[0]["status"]) if found else ""
