"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler and the snapshot-controller as plain processes."""

from pathlib import Path

from tests.cluster import programs
from tests.cluster.audit_policy import write_policy
from tests.cluster.network import API_ADDRESS, API_PORT, SERVICES, node_address
from tests.cluster.pki import Authority
from tests.cluster.processes import Processes

SERVER = f"https://{API_ADDRESS}:{API_PORT}"

# Only this machine reaches etcd: it has no certificates.
_ETCD = "http://127.0.0.1:16440"
_ETCD_PEER = "http://127.0.0.1:16441"
_CONTROLLER_MANAGER_PORT = 16442
_SCHEDULER_PORT = 16443
_SNAPSHOT_CONTROLLER_PORT = 16444


class ControlPlane:
    """The processes of the control plane; their files are below ``directory``."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self._directory = directory
        self._pki = directory / "pki"
        self._processes = processes

    def write_certificates(self, nodes: list[str]) -> Path:
        """Certificates and kubeconfigs of everybody; returns the administrator's kubeconfig."""
        self._pki.mkdir(mode=0o700)
        authority = Authority(self._pki)
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
        authority.issue("apiserver", "kube-apiserver", addresses=(API_ADDRESS, *names))
        authority.issue("apiserver-kubelet", "kube-apiserver", "system:masters")
        authority.write_token_key()
        users = {
            "admin": ("admin", "system:masters"),
            "controller-manager": ("system:kube-controller-manager", ""),
            "scheduler": ("system:kube-scheduler", ""),
        }
        users |= {node: (f"system:node:{node}", "system:nodes") for node in nodes}
        for file, (name, organisation) in users.items():
            authority.issue(file, name, organisation)
            authority.write_kubeconfig(file, SERVER)
        for index, node in enumerate(nodes):
            authority.issue(f"{node}-server", node, addresses=(node_address(index),))
        return self._pki / "admin.conf"

    def start_api(self) -> None:
        """Start etcd and kube-apiserver; the API answers some seconds later."""
        write_policy(self._directory / "audit-policy.json")
        self._processes.start("etcd", self._etcd())
        self._processes.start("kube-apiserver", self._api_server())

    def start_controllers(self) -> None:
        """Start what needs the API."""
        self._processes.start("kube-controller-manager", self._controller_manager())
        self._processes.start("kube-scheduler", self._scheduler())

    def start_snapshot_controller(self) -> None:
        """Start the cluster's snapshot-controller; the CustomResourceDefinitions must be there."""
        argv = [
            str(programs.program("snapshot-controller")),
            f"--kubeconfig={self._pki}/admin.conf",
            f"--http-endpoint=127.0.0.1:{_SNAPSHOT_CONTROLLER_PORT}",
            "--feature-gates=CSIVolumeGroupSnapshot=true",
        ]
        self._processes.start("snapshot-controller", argv)

    def _etcd(self) -> list[str]:
        return [
            str(programs.program("etcd")),
            f"--data-dir={self._directory}/etcd",
            # Nothing in here outlives the lane.
            "--unsafe-no-fsync",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_ETCD_PEER}",
            f"--initial-advertise-peer-urls={_ETCD_PEER}",
            f"--initial-cluster=default={_ETCD_PEER}",
        ]

    def _api_server(self) -> list[str]:
        pki = self._pki
        return [
            str(programs.program("kube-apiserver")),
            f"--etcd-servers={_ETCD}",
            f"--bind-address={API_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--advertise-address={API_ADDRESS}",
            # Nobody follows Endpoints here: pods reach the API server under the service's own address.
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--enable-admission-plugins=NodeRestriction",
            # Before Kubernetes 1.32 an informer lists, and then watches; here too, so that it needs both rights.
            "--feature-gates=WatchList=false",
            f"--audit-policy-file={self._directory}/audit-policy.json",
            f"--audit-log-path={self._directory}/audit.log",
            # Never a new file, which begins after 100 MB otherwise: the old one would be read by nobody.
            "--audit-log-maxsize=0",
            "--profiling=false",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            str(programs.program("kube-controller-manager")),
            *self._client("controller-manager", _CONTROLLER_MANAGER_PORT),
            "--use-service-account-credentials",
            f"--root-ca-file={self._pki}/ca.crt",
            f"--service-account-private-key-file={self._pki}/sa.key",
        ]

    def _scheduler(self) -> list[str]:
        return [str(programs.program("kube-scheduler")), *self._client("scheduler", _SCHEDULER_PORT)]

    def _client(self, name: str, port: int) -> list[str]:
        config = f"{self._pki}/{name}.conf"
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self._pki}/{name}.d",
            "--leader-elect=false",
            "--profiling=false",
        ]
