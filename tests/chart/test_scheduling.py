"""Where pods can go and how they are replaced: what would keep them away, or two of them in one place."""

from tests.chart.conftest import Rendered
from tests.chart.helm import RELEASE, VALUES, objects, render
from tests.chart.look import at, containers, items, name_of, of_kind, one, pod_of, workloads

# DNS labels, RFC 1123: so long the name of a Service may be.
_LONGEST_NAME = 63
_SWEEP = {"daemonSet": {"enabled": True}}


def test_nodes_always_tolerate_the_taint_that_only_they_take_away(rendered: Rendered) -> None:
    there = of_kind(rendered("hardened"), "DaemonSet")
    assert there
    for workload in there:
        tolerated = items(pod_of(workload), "tolerations")
        assert {"key": "rds.csi.rds-csi.io/agent-not-ready", "operator": "Exists"} in tolerated
        assert {"key": "example.org/storage", "operator": "Exists", "effect": "NoSchedule"} in tolerated


def test_the_tolerated_taint_has_the_drivers_name() -> None:
    values = {"driverName": "other.example.org", "node": {"tolerateAllTaints": False}, "sweep": _SWEEP}
    there = of_kind(objects(render(VALUES / "routeros-ssh.yaml", values)), "DaemonSet")
    assert {name_of(item) for item in there} == {"rds-csi-node", "rds-csi-sweep"}
    for workload in there:
        assert items(pod_of(workload), "tolerations") == [
            {"key": "other.example.org/agent-not-ready", "operator": "Exists"}
        ]


def test_a_node_without_modules_or_udev_starts_its_pod(rendered: Rendered) -> None:
    # With `Directory` the kubelet refuses the pod where there is none; with `DirectoryOrCreate` it makes one.
    for workload in of_kind(rendered("sweep-only"), "DaemonSet"):
        volumes = {at(item, "name"): at(item, "hostPath", "type") for item in items(pod_of(workload), "volumes")}
        assert volumes["modules"] == ""
        assert volumes["udev"] == volumes["etc-nvme"] == volumes["state"] == "DirectoryOrCreate"


def test_a_controller_in_the_hosts_network_leaves_its_port_before_the_next_one_comes(rendered: Rendered) -> None:
    controller = one(rendered("host-network"), "Deployment", "rds-csi-controller")
    assert at(controller, "spec", "strategy") == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    assert at(one(rendered("routeros-ssh"), "Deployment", "rds-csi-controller"), "spec", "strategy") == {
        "type": "RollingUpdate"
    }


def test_pods_of_the_hosts_network_share_no_port(rendered: Rendered) -> None:
    ports = [
        at(port, "containerPort")
        for workload in workloads(rendered("host-network"))
        if at(pod_of(workload), "hostNetwork")
        for container in containers(workload).values()
        for port in items(container, "ports")
    ]
    assert len(ports) == len(set(ports)) == 2


def test_the_longest_release_has_names_that_kubernetes_takes() -> None:
    # 53 characters: Helm takes no longer one.
    there = objects(render(VALUES / "monitoring.yaml", {"fullnameOverride": f"{RELEASE}-{'x' * 45}"}))
    assert max(len(name_of(item)) for item in there) == _LONGEST_NAME
