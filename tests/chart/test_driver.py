"""The chart fits the driver: its flags, variables, capabilities, metrics and sockets are the driver's own."""

import re
from pathlib import Path

import pytest
import yaml

from rds_csi import __version__
from rds_csi.arrays.protocol import Feature
from rds_csi.cli import _parser
from rds_csi.metrics import Metrics
from rds_csi.model.names import DEFAULT_DRIVER_NAME
from rds_csi.services import controller as controller_service
from rds_csi.services import node as node_service
from rds_csi.settings import ENV_PREFIX, Settings
from tests.chart.conftest import Rendered
from tests.chart.helm import CHART, value_files
from tests.chart.look import at, containers, environment, items, of_kind, one, pod_of, texts, workloads
from tests.chart.promql import of_dashboard

every_value_file = pytest.mark.parametrize("values", value_files(), ids=lambda path: path.stem)

_KUBELET = "the kubelet"
_NOBODY = "nobody in Kubernetes asks for it yet"

# Who calls what the driver advertises: a container of the controller, or somebody else.
CALLED_BY = {
    "CREATE_DELETE_VOLUME": "csi-provisioner",
    "CLONE_VOLUME": "csi-provisioner",
    "GET_CAPACITY": "csi-provisioner",
    "SINGLE_NODE_MULTI_WRITER": "csi-provisioner",
    "PUBLISH_UNPUBLISH_VOLUME": "csi-attacher",
    "LIST_VOLUMES": "csi-attacher",
    "LIST_VOLUMES_PUBLISHED_NODES": "csi-attacher",
    "PUBLISH_READONLY": "csi-attacher",
    "EXPAND_VOLUME": "csi-resizer",
    "MODIFY_VOLUME": "csi-resizer",
    "CREATE_DELETE_SNAPSHOT": "csi-snapshotter",
    "LIST_SNAPSHOTS": "csi-snapshotter",
    "GET_SNAPSHOT": _NOBODY,
    "GET_VOLUME": _NOBODY,
    "GET_VOLUME_HEALTH": _NOBODY,
    "LIST_VOLUME_HEALTH": _NOBODY,
}
CALLED_ON_NODES = {
    "STAGE_UNSTAGE_VOLUME": _KUBELET,
    "GET_VOLUME_STATS": _KUBELET,
    "EXPAND_VOLUME": _KUBELET,
    "SINGLE_NODE_MULTI_WRITER": _KUBELET,
    "VOLUME_MOUNT_GROUP": _KUBELET,
    "GET_VOLUME_HEALTH": _NOBODY,
    "GET_STORAGE_HEALTH": _NOBODY,
}


@every_value_file
def test_the_driver_understands_every_argument(values: Path, rendered: Rendered) -> None:
    for workload in workloads(rendered(values.stem)):
        container = containers(workload)["rds-csi"]
        _parser().parse_args(texts(container, "args"))
        hook = texts(container, "lifecycle", "preStop", "exec", "command")
        if hook:
            assert hook[0] == "rds-csi"
            _parser().parse_args(hook[1:])


@every_value_file
def test_the_driver_starts_with_every_environment(values: Path, rendered: Rendered) -> None:
    for workload in workloads(rendered(values.stem)):
        variables = environment(containers(workload)["rds-csi"])
        Settings(**{name: value for name, value in variables.items() if name.startswith(ENV_PREFIX)})  # type: ignore[arg-type] # every value is text, as in a container


def test_nothing_but_the_drivers_settings_and_the_pods_address_is_in_the_environment(rendered: Rendered) -> None:
    for name in ("monitoring", "sweep-only", "local"):
        for workload in workloads(rendered(name)):
            variables = environment(containers(workload)["rds-csi"])
            assert {item for item in variables if not item.startswith(ENV_PREFIX)} <= {"POD_IP"}


def test_the_controller_has_a_sidecar_for_every_capability(rendered: Rendered) -> None:
    features = controller_service._BY_FEATURE
    assert set(features) == set(Feature) - {Feature.GROUP_SNAPSHOTS}
    advertised = {*controller_service._ALWAYS, *(name for names in features.values() for name in names)}
    assert advertised == set(CALLED_BY)
    there = containers(one(rendered("routeros-https"), "Deployment", "rds-csi-controller"))
    assert set(CALLED_BY.values()) - {_NOBODY} == set(there) - {"rds-csi"}


def test_an_array_without_snapshots_has_no_snapshotter(rendered: Rendered) -> None:
    there = containers(one(rendered("routeros-ssh"), "Deployment", "rds-csi-controller"))
    assert set(there) == {"rds-csi", "csi-provisioner", "csi-attacher", "csi-resizer"}


def test_group_snapshots_are_switched_on_in_the_snapshotter(rendered: Rendered) -> None:
    there = containers(one(rendered("routeros-https"), "Deployment", "rds-csi-controller"))
    assert "--feature-gates=CSIVolumeGroupSnapshot=true" in texts(there["csi-snapshotter"], "args")


def test_the_kubelet_calls_what_nodes_advertise() -> None:
    assert set(node_service._CAPABILITIES) == set(CALLED_ON_NODES)


def test_the_provisioner_tells_capacity_exactly_when_the_csidriver_says_so(rendered: Rendered) -> None:
    for name, told in (("routeros-ssh", True), ("hardened", False)):
        objects = rendered(name)
        sidecar = containers(one(objects, "Deployment", "rds-csi-controller"))["csi-provisioner"]
        assert ("--enable-capacity" in texts(sidecar, "args")) == told
        assert at(one(objects, "CSIDriver", DEFAULT_DRIVER_NAME), "spec", "storageCapacity") == told


@every_value_file
def test_every_sidecar_of_the_controller_elects_a_leader(values: Path, rendered: Rendered) -> None:
    for workload in of_kind(rendered(values.stem), "Deployment"):
        for name, container in containers(workload).items():
            assert name == "rds-csi" or "--leader-election" in texts(container, "args")


def test_chart_and_driver_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__


def test_the_drivers_name_is_its_own_default() -> None:
    assert yaml.safe_load((CHART / "values.yaml").read_text())["driverName"] == DEFAULT_DRIVER_NAME


def test_every_metric_of_the_driver_is_on_the_dashboard() -> None:
    families = {family.name for family in Metrics().registry.collect() if family.name.startswith("rds_csi_")}
    shown = {name for item in of_dashboard() for name in re.findall(r"\brds_csi_\w+", item.text)}
    assert {name for name in families if not any(item.startswith(name) for item in shown)} == set()


def test_every_alert_is_rendered_where_all_is_on(rendered: Rendered) -> None:
    known = {alert["alert"] for alert in yaml.safe_load((CHART / "alerts.yaml").read_text())["alerts"]}
    rule = one(rendered("monitoring"), "PrometheusRule", "rds-csi")
    assert {at(item, "alert") for item in items(rule, "spec", "groups", 0, "rules")} == known


def test_every_alert_has_its_section_in_the_docs() -> None:
    known = {alert["alert"] for alert in yaml.safe_load((CHART / "alerts.yaml").read_text())["alerts"]}
    page = (CHART.parents[1] / "docs" / "alerts.md").read_text()
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == known


def test_the_alert_on_a_standing_sweep_follows_its_interval(rendered: Rendered) -> None:
    rules = items(one(rendered("monitoring"), "PrometheusRule", "rds-csi"), "spec", "groups", 0, "rules")
    expression = next(str(at(rule, "expr")) for rule in rules if at(rule, "alert") == "RdsCsiSweepStands")
    assert "3 * 300" in expression
    assert "SWEEP_INTERVAL" not in expression


@every_value_file
def test_the_socket_of_a_node_is_where_the_kubelet_will_look(values: Path, rendered: Rendered) -> None:
    for workload in of_kind(rendered(values.stem), "DaemonSet"):
        container = containers(workload)["rds-csi"]
        variables = environment(container)
        if "RDS_CSI_ENDPOINT" not in variables:
            continue
        mounts = {str(at(item, "name")): item for item in items(container, "volumeMounts")}
        kubelet = str(at(mounts["kubelet"], "mountPath"))
        volume = next(item for item in items(pod_of(workload), "volumes") if at(item, "name") == "kubelet")
        assert at(volume, "hostPath", "path") == kubelet
        assert at(mounts["kubelet"], "mountPropagation") == "Bidirectional"
        assert variables["RDS_CSI_ENDPOINT"] == f"unix://{kubelet}/plugins/{DEFAULT_DRIVER_NAME}/csi.sock"
        builtin = variables.get("RDS_CSI_KUBELET_REGISTRATION_DIR")
        assert builtin == (None if values.stem == "sidecar-registration" else f"{kubelet}/plugins_registry")


def test_distributions_have_their_kubelets_directory(rendered: Rendered) -> None:
    expected = {
        "k3s": "/var/lib/kubelet",
        "talos": "/var/lib/kubelet",
        "microk8s": "/var/snap/microk8s/common/var/lib/kubelet",
        "k0s": "/var/lib/k0s/kubelet",
    }
    for name, path in expected.items():
        variables = environment(containers(one(rendered(name), "DaemonSet", "rds-csi-node"))["rds-csi"])
        assert variables["RDS_CSI_KUBELET_REGISTRATION_DIR"] == f"{path}/plugins_registry"


def test_the_array_of_a_node_is_told_only_where_it_has_no_secrets(rendered: Rendered) -> None:
    for name, told in (("routeros-ssh", False), ("local", True)):
        variables = environment(containers(one(rendered(name), "DaemonSet", "rds-csi-node"))["rds-csi"])
        assert ("RDS_CSI_ARRAY" in variables) == told
