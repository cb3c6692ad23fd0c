"""One node: a containerd and a kubelet of its own."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.cluster import debian, programs
from tests.cluster.host import Host
from tests.cluster.images import PAUSE
from tests.cluster.machine import kill_all
from tests.cluster.network import Network, node_address, write_cni
from tests.cluster.processes import Processes

# Where the kubelet's containers are in containerd.
NAMESPACE = "k8s.io"

_KUBELET_PORT = 10250
_TOOL_SECONDS = 30.0
_IMPORT_SECONDS = 180.0


class Node:
    """A node of the cluster, by its name; ``index`` counts from 0."""

    def __init__(
        self, directory: Path, pki: Path, name: str, index: int, processes: Processes, network: Network
    ) -> None:
        self.name = name
        self.host = Host(directory, name, processes)
        self._directory = directory
        self._pki = pki
        self._index = index
        self._processes = processes
        self._network = network
        self._socket = directory / "containerd.sock"

    def start_runtime(self) -> None:
        """Start the host and its containerd; ``runtime_answers`` tells when it is ready."""
        self._directory.mkdir(exist_ok=True)
        self.host.start()
        self._network.connect(self.host.pid, self._index)
        write_cni(self._directory / "cni", self._index)
        (self._directory / "containerd.toml").write_text(self._containerd_config())
        argv = [str(debian.tool("containerd")), "--config", f"{self._directory}/containerd.toml"]
        # containerd looks for its shim and for runc in $PATH.
        path = f"{debian.ROOT}/usr/bin:{debian.ROOT}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._processes.start(self._runtime, self.host.inside(argv), PATH=path)

    def runtime_answers(self) -> bool:
        """Whether containerd can be used."""
        return self._socket.exists() and self.ctr("version", check=False).returncode == 0

    def import_images(self, archive: Path) -> None:
        """Make the images of an archive known to the kubelet."""
        self.ctr("images", "import", str(archive), timeout=_IMPORT_SECONDS)

    def start_kubelet(self) -> None:
        """Start the kubelet; also after ``stop_kubelet``."""
        config = self._directory / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config()))
        argv = [
            str(programs.program("kubelet")),
            f"--config={config}",
            f"--kubeconfig={self._pki}/{self.name}.conf",
            f"--hostname-override={self.name}",
            f"--node-ip={node_address(self._index)}",
            "--v=2",
        ]
        self._processes.start(self._kubelet, self.host.inside(argv))

    def stop_kubelet(self) -> None:
        """SIGTERM; containers go on."""
        self._processes.stop(self._kubelet)

    def power_off(self) -> None:
        """Everything of it ends at once, as if the power had gone; ``start_runtime`` and ``start_kubelet`` bring it
        back with its disk as it was then."""
        for name in (self._kubelet, self._runtime):
            self._processes.kill(name)
        kill_all(self._directory)
        self.host.power_off()
        # On a machine /run is in memory.
        for volatile in (self._directory / "run", self.host.own(Path("/run/containerd"))):
            shutil.rmtree(volatile)

    def kill_containers(self) -> None:
        """End every container at once and forget it; the kubelet must not run any more."""
        if not self.runtime_answers():
            return
        for what in ("tasks", "containers"):
            listed = self.ctr(what, "ls", "--quiet", check=False).stdout.split()
            force = ["--force"] if what == "tasks" else []
            for name in listed:
                self.ctr(what, "rm", *force, name, check=False)

    def ctr(self, *words: str, check: bool = True, timeout: float = _TOOL_SECONDS) -> subprocess.CompletedProcess[str]:
        """containerd's own client."""
        argv = [
            str(debian.tool("ctr")),
            f"--address={self._socket}",
            "--connect-timeout=5s",
            f"--namespace={NAMESPACE}",
            *words,
        ]
        return subprocess.run(argv, check=check, timeout=timeout, capture_output=True, text=True)

    @property
    def _runtime(self) -> str:
        return f"containerd-{self.name}"

    @property
    def _kubelet(self) -> str:
        return f"kubelet-{self.name}"

    def _containerd_config(self) -> str:
        return f"""\
version = 2
root = "{self._directory}/containerd"
state = "{self._directory}/run"
[grpc]
  address = "{self._socket}"
[ttrpc]
  address = "{self._socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Mounts below /run/netns would be outside of the directory.
  netns_mounts_under_state_dir = true
  # Without CAP_SYS_RESOURCE nobody may lower oom_score_adj; without AppArmor or huge pages there is nothing to set.
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{debian.CNI_PLUGINS}"
  conf_dir = "{self._directory}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "{debian.tool("runc")}"
  SystemdCgroup = false
"""

    def _kubelet_config(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node_address(self._index),
            "port": _KUBELET_PORT,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self._pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{self._pki}/{self.name}-server.crt",
            "tlsPrivateKeyFile": f"{self._pki}/{self.name}-server.key",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            # A machine with hybrid or old cgroups does as well as one with the new.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            # A full disk or little memory on this machine must not evict the lane's pods.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "volumeStatsAggPeriod": "10s",
            # A volume is attached only after the node has told that it uses it: with the default of 10 s most of the
            # lane's time would be waiting for that.
            "nodeStatusUpdateFrequency": "1s",
            "syncFrequency": "10s",
        }
