"""``rds-csi`` as a process of this machine that the API server takes for a pod: with the token of a ServiceAccount of
the chart, and its rights.

For what the lane's nodes cannot do, as the machine's kernel has no NVMe: the host below ``--host-root`` is made up.
"""

import subprocess
import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.network import API_ADDRESS, API_PORT

_ACCOUNT_FILES = Path("run/secrets/kubernetes.io/serviceaccount")
_START_SECONDS = 60.0
_MOUNT_SECONDS = 10.0


class PodProcess:
    """One process, as the ServiceAccount ``account`` of a namespace; its socket is in ``directory``."""

    def __init__(self, cluster: Cluster, directory: Path, account: str, namespace: str) -> None:
        self._cluster = cluster
        self._processes = cluster.processes
        self._name = f"driver-{account}"
        self._holder = f"host-{self._name}"
        self._account = account
        self._namespace = namespace
        self.socket = directory / "csi.sock"

    def start(self, role: str, *flags: str) -> None:
        """``rds-csi ROLE`` serves, with these flags."""
        self._make_namespace()
        argv = [*(sys.executable, "-m", "rds_csi", role), f"--endpoint=unix://{self.socket}", *flags]
        self._processes.start(
            self._name,
            self._inside(*argv),
            KUBERNETES_SERVICE_HOST=API_ADDRESS,
            KUBERNETES_SERVICE_PORT=str(API_PORT),
        )
        self._processes.wait_until(self.socket.exists, f"{self._name} serves", _START_SECONDS)

    def stop(self) -> None:
        """It has ended, and its mounts with it. With a failed test, pytest shows the end of its log."""
        if self._processes.names(self._name):
            print(self._processes.text(self._name))
        self._processes.stop(self._name)
        self._processes.stop(self._holder)

    def _make_namespace(self) -> None:
        """A mount namespace in which the files of the ServiceAccount are where a pod has them."""
        unshare = ["unshare", "--mount", "--propagation=private", "sleep", "infinity"]
        self._processes.start(self._holder, unshare)
        self._processes.wait_until(self._is_apart, f"{self._holder} has its mounts for itself", _START_SECONDS)
        mount = self._inside("mount", "-t", "tmpfs", "tmpfs", "/run")
        subprocess.run(mount, check=True, timeout=_MOUNT_SECONDS)
        files = Path(f"/proc/{self._processes.pid(self._holder)}/root") / _ACCOUNT_FILES
        files.mkdir(parents=True)
        token = self._cluster.kubectl("create", "token", self._account, f"--namespace={self._namespace}")
        (files / "token").write_text(token.strip())
        (files / "ca.crt").write_bytes((self._cluster.kubeconfig.parent / "ca.crt").read_bytes())

    def _is_apart(self) -> bool:
        theirs = Path(f"/proc/{self._processes.pid(self._holder)}/ns/mnt")
        return theirs.readlink() != Path("/proc/self/ns/mnt").readlink()

    def _inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._processes.pid(self._holder)}/ns/mnt", "--", *argv]
