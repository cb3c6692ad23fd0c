"""Where the array's URL and its secrets go, and what else a controller needs for it."""

import tomllib

from rds_csi.arrays.several_config import parse_config
from tests.chart.conftest import Rendered
from tests.chart.helm import VALUES, objects, render
from tests.chart.look import at, containers, environment, host_paths, items, of_kind, one, pod_of

_CONTROLLER = "rds-csi-controller"


def test_without_an_array_there_is_no_controller_but_there_are_nodes(rendered: Rendered) -> None:
    there = rendered("defaults")
    assert of_kind(there, "Deployment") == []
    assert len(of_kind(there, "DaemonSet")) == 1


def test_files_of_the_secret_are_where_the_url_names_them(rendered: Rendered) -> None:
    controller = one(rendered("routeros-ssh"), "Deployment", _CONTROLLER)
    mounts = {
        at(item, "mountPath"): at(item, "name") for item in items(containers(controller)["rds-csi"], "volumeMounts")
    }
    volume = next(item for item in items(pod_of(controller), "volumes") if at(item, "name") == mounts["/etc/rds-csi"])
    assert at(volume, "projected", "sources") == [{"secret": {"name": "rds-array"}}]
    # The driver's user is in the pod's group, nobody else reads them.
    assert at(volume, "projected", "defaultMode") == 0o440


def test_only_the_driver_sees_the_secret(rendered: Rendered) -> None:
    for name, container in containers(one(rendered("routeros-ssh"), "Deployment", _CONTROLLER)).items():
        sees = any(at(item, "name") == "array" for item in items(container, "volumeMounts"))
        assert sees == (name == "rds-csi")


def test_the_charts_own_secret_holds_the_files(rendered: Rendered) -> None:
    secret = one(rendered("routeros-https"), "Secret", "rds-csi-array")
    assert at(secret, "stringData", "password") == "not-a-password"
    assert str(at(secret, "stringData", "ca.pem")).startswith("-----BEGIN CERTIFICATE-----\n")


def test_a_changed_secret_of_the_chart_restarts_the_controller() -> None:
    values = VALUES / "routeros-https.yaml"

    def checksum(password: str) -> object:
        there = objects(render(values, {"array": {"secretFiles": {"password": password}}}))
        return at(
            one(there, "Deployment", _CONTROLLER), "spec", "template", "metadata", "annotations", "checksum/array"
        )

    assert checksum("old") != checksum("new")
    assert checksum("old") == checksum("old")


def test_several_arrays_become_the_file_that_the_driver_reads(rendered: Rendered) -> None:
    there = rendered("several-arrays")
    text = str(at(one(there, "ConfigMap", "rds-csi-arrays"), "data", "arrays.toml"))
    config = parse_config(text, "arrays.toml")
    assert config.default == "fast"
    assert set(config.urls) == {"fast", "slow"}
    assert config.urls["slow"].startswith("routeros+https://csi@192.0.2.2/?pool=raid6&password-file=")
    assert tomllib.loads(text)["default"] == "fast"
    variables = environment(containers(one(there, "Deployment", _CONTROLLER))["rds-csi"])
    assert variables["RDS_CSI_ARRAY"] == "config:///etc/rds-csi/arrays.toml"


def test_a_local_array_is_the_nodes_directory_for_controller_and_nodes(rendered: Rendered) -> None:
    there = rendered("local")
    controller, node = one(there, "Deployment", _CONTROLLER), one(there, "DaemonSet", "rds-csi-node")
    assert list(host_paths(controller)) == ["/var/lib/rds-csi/volumes"]
    assert "/var/lib/rds-csi/volumes" in list(host_paths(node))
    for workload in (controller, node):
        assert environment(containers(workload)["rds-csi"])["RDS_CSI_CONNECTOR"] == "loop"
    # Two of them at once would be one too many for the files.
    assert at(controller, "spec", "strategy", "type") == "Recreate"


def test_no_controller_but_that_of_a_local_array_sees_the_host(rendered: Rendered) -> None:
    for name in ("routeros-ssh", "routeros-https", "several-arrays", "monitoring", "host-network"):
        assert list(host_paths(one(rendered(name), "Deployment", _CONTROLLER))) == []
