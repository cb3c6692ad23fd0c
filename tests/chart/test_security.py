"""What pods may do, what they see, where they listen, and that they end in time."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.chart.conftest import Rendered
from tests.chart.helm import VALUES, Object, objects, program, render, value_files
from tests.chart.look import (
    at,
    containers,
    environment,
    host_paths,
    items,
    mapping,
    name_of,
    of_kind,
    one,
    pod_of,
    workloads,
)
from tests.chart.score import EXCEPTIONS

every_value_file = pytest.mark.parametrize("values", value_files(), ids=lambda path: path.stem)

# What the node needs of the host, beside the directories that values name.
_NODE_PATHS = {"/dev", "/sys", "/etc/nvme", "/lib/modules", "/run/udev", "/var/lib/rds-csi/state"}
# The first sweep may take so long, in seconds, before the driver is ready.
_FIRST_SWEEP = 120


def _findings(manifests: str) -> set[tuple[str, str, str]]:
    """What kube-score finds: kind, name without the release's, check."""
    completed = subprocess.run(
        [program("KUBE_SCORE"), "score", "--kubernetes-version=v1.36", "--output-format=json", "-"],
        input=manifests,
        capture_output=True,
        text=True,
        timeout=60,
    )
    scored = json.loads(completed.stdout)
    assert scored, completed.stderr
    return {
        (
            str(at(item, "type_meta", "kind")),
            _short(str(at(item, "object_meta", "name"))),
            str(at(check, "check", "id")),
        )
        for item in scored
        for check in items(item, "checks")
        if not at(check, "skipped") and int(str(at(check, "grade"))) < 10
    }


def _short(name: str) -> str:
    return name.removeprefix("rds-csi-")


@every_value_file
def test_the_linter_finds_only_what_is_explained(values: Path) -> None:
    assert _findings(render(values)) - set(EXCEPTIONS) == set()


def test_every_explained_finding_is_still_found() -> None:
    found = set().union(*(_findings(render(values)) for values in value_files()))
    assert set(EXCEPTIONS) - found == set()


@every_value_file
def test_a_controller_has_no_rights_on_its_machine(values: Path, rendered: Rendered) -> None:
    for workload in of_kind(rendered(values.stem), "Deployment"):
        pod = mapping(pod_of(workload), "securityContext")
        local = values.stem == "local"
        assert pod["runAsNonRoot"] is not local
        assert pod["runAsUser"] == (0 if local else 65532)
        assert at(pod, "seccompProfile", "type") == "RuntimeDefault"
        for container in containers(workload).values():
            context = mapping(container, "securityContext")
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert at(context, "capabilities", "drop") == ["ALL"]


@every_value_file
def test_a_node_sees_only_what_it_needs_of_the_host(values: Path, rendered: Rendered) -> None:
    for workload in of_kind(rendered(values.stem), "DaemonSet"):
        kubelet = {path for path in host_paths(workload) if "kubelet" in path}
        images = {"/var/lib/rds-csi/volumes"} if values.stem == "local" else set()
        assert set(host_paths(workload)) - kubelet <= _NODE_PATHS | images
        for container in containers(workload).values():
            assert at(container, "securityContext", "readOnlyRootFilesystem") is True


@every_value_file
def test_a_node_says_that_it_is_root(values: Path, rendered: Rendered) -> None:
    # The image's own user is an ordinary one, for the controller.
    for workload in of_kind(rendered(values.stem), "DaemonSet"):
        context = mapping(containers(workload)["rds-csi"], "securityContext")
        assert (context["runAsUser"], context["runAsGroup"], context["privileged"]) == (0, 0, True)


def test_sidecars_of_a_node_are_not_privileged(rendered: Rendered) -> None:
    there = containers(one(rendered("sidecar-registration"), "DaemonSet", "rds-csi-node"))
    assert set(there) == {"rds-csi", "node-driver-registrar", "livenessprobe"}
    for name in ("node-driver-registrar", "livenessprobe"):
        assert at(there[name], "securityContext", "privileged") is None
        assert at(there[name], "securityContext", "capabilities", "drop") == ["ALL"]


def test_a_node_is_one_container(rendered: Rendered) -> None:
    assert set(containers(one(rendered("routeros-ssh"), "DaemonSet", "rds-csi-node"))) == {"rds-csi"}


def _is_on_the_hosts_network(workload: Object) -> bool:
    return at(pod_of(workload), "hostNetwork") is True


@every_value_file
def test_nobody_outside_of_the_cluster_reads_metrics(values: Path, rendered: Rendered) -> None:
    for workload in workloads(rendered(values.stem)):
        variables = environment(containers(workload)["rds-csi"])
        endpoint = variables.get("RDS_CSI_HTTP_ENDPOINT", "")
        if not endpoint:
            assert name_of(workload) == "rds-csi-sweep"
            continue
        # On the host's network, everybody who reaches the node reaches what listens on its address.
        on_loopback = endpoint.startswith("127.0.0.1:")
        assert on_loopback or not _is_on_the_hosts_network(workload) or "RDS_CSI_HTTP_TOKEN_FILE" in variables
        assert not endpoint.startswith(("0.0.0.0:", "[::]:"))


@every_value_file
def test_probes_ask_where_the_driver_listens(values: Path, rendered: Rendered) -> None:
    for workload in workloads(rendered(values.stem)):
        container = containers(workload)["rds-csi"]
        endpoint = environment(container).get("RDS_CSI_HTTP_ENDPOINT", "")
        if not endpoint:
            continue
        host, _, port = endpoint.rpartition(":")
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = mapping(container, name, "httpGet")
            if name == "livenessProbe" and values.stem == "sidecar-registration" and "node" in name_of(workload):
                assert (asked["port"], asked["host"]) == (9808, "127.0.0.1")
                continue
            assert asked["port"] == int(port)
            # Without a host the kubelet asks the pod's address.
            assert asked.get("host", "192.0.2.9") == host
            scheme = "HTTPS" if values.stem == "monitoring" else "HTTP"
            assert asked["scheme"] == scheme


@every_value_file
def test_the_first_sweep_may_take_its_time(values: Path, rendered: Rendered) -> None:
    for workload in workloads(rendered(values.stem)):
        probe = mapping(containers(workload)["rds-csi"], "startupProbe")
        if probe:
            assert int(str(probe["periodSeconds"])) * int(str(probe["failureThreshold"])) > _FIRST_SWEEP


@every_value_file
def test_pods_get_the_time_that_their_end_takes(values: Path, rendered: Rendered) -> None:
    for workload in workloads(rendered(values.stem)):
        container = containers(workload)["rds-csi"]
        grace = int(environment(container).get("RDS_CSI_SHUTDOWN_GRACE", "0"))
        hook = items(container, "lifecycle", "preStop", "exec", "command")
        waits = int(str(hook[-1]).partition("=")[2]) if hook else 0
        assert int(str(pod_of(workload)["terminationGracePeriodSeconds"])) > grace + waits


def test_a_pod_without_the_api_has_no_token(rendered: Rendered) -> None:
    node = one(rendered("sidecar-registration"), "DaemonSet", "rds-csi-node")
    assert pod_of(node)["automountServiceAccountToken"] is False
    there = objects(render(VALUES / "sweep-only.yaml", {"kubernetesApi": False}))
    sweep = one(there, "DaemonSet", "rds-csi-sweep")
    assert pod_of(sweep)["automountServiceAccountToken"] is False
    assert environment(containers(sweep)["rds-csi"])["RDS_CSI_KUBERNETES"] == "off"


def test_a_sweep_of_its_own_learns_what_has_moved_as_the_node_plugin_does(rendered: Rendered) -> None:
    there = rendered("sweep-only")
    node, sweep = (one(there, "DaemonSet", f"rds-csi-{name}") for name in ("node", "sweep"))
    for workload in (node, sweep):
        assert pod_of(workload)["serviceAccountName"] == "rds-csi-node"
        assert "automountServiceAccountToken" not in pod_of(workload)
        assert environment(containers(workload)["rds-csi"])["RDS_CSI_KUBERNETES"] == "auto"


def test_the_network_policy_lets_in_who_reads_metrics_and_out_where_the_controller_goes(rendered: Rendered) -> None:
    policy = one(rendered("hardened"), "NetworkPolicy", "rds-csi-controller")
    selector = mapping(policy, "spec", "podSelector", "matchLabels")
    controller = one(rendered("hardened"), "Deployment", "rds-csi-controller")
    assert selector.items() <= mapping(controller, "spec", "template", "metadata", "labels").items()
    assert [at(rule, "ports", 0, "port") for rule in items(policy, "spec", "ingress")] == [9809]
    ports = {at(port, "port") for rule in items(policy, "spec", "egress") for port in items(rule, "ports")}
    assert ports == {53, 6443, 22, 8443}


@every_value_file
def test_selectors_choose_the_pods_of_their_own_workload_only(values: Path, rendered: Rendered) -> None:
    there = workloads(rendered(values.stem))
    for chooser in there:
        selector = mapping(chooser, "spec", "selector", "matchLabels").items()
        chosen = [
            name_of(item)
            for item in there
            if selector <= mapping(item, "spec", "template", "metadata", "labels").items()
        ]
        assert chosen == [name_of(chooser)]
