"""Every value file: linted, rendered as committed, and accepted by Kubernetes' own schemas."""

from collections import Counter
from pathlib import Path

import kubernetes_validate
import pytest
from kubernetes_validate import SchemaNotFoundError

from tests.chart.conftest import Rendered
from tests.chart.helm import CHART, KUBE_VERSION, objects, render, run, value_files
from tests.chart.look import name_of
from tests.chart.snapshots import SNAPSHOTS, read_snapshot, render_snapshot

# Objects of CRDs have no schema in Kubernetes; these are all that the chart has.
WITHOUT_SCHEMA = {"PodMonitor", "PrometheusRule", "ServiceMonitor", "VolumeSnapshotClass"}

# How many objects each value file becomes: an empty rendering would pass every schema.
COUNTS = {
    "defaults": 5,
    "hardened": 10,
    "host-network": 5,
    "k0s": 11,
    "k3s": 11,
    "local": 13,
    "microk8s": 11,
    "monitoring": 16,
    "routeros-https": 15,
    "routeros-ssh": 14,
    "several-arrays": 14,
    "sidecar-registration": 9,
    "sweep-only": 12,
    "talos": 11,
    "two-replicas": 12,
}

# The oldest that Chart.yaml allows, the one of the snapshots, and the newest with schemas.
VERSIONS = ("1.27.0", KUBE_VERSION, "1.37.0")

every_value_file = pytest.mark.parametrize("values", value_files(), ids=lambda path: path.stem)


def test_lint_has_nothing_to_say() -> None:
    flags = [f"--values={path}" for path in value_files() if path.stem == "routeros-ssh"]
    assert "0 chart(s) failed" in run("lint", "--strict", f"--kube-version={KUBE_VERSION}", str(CHART), *flags)


@every_value_file
def test_every_value_file_lints(values: Path) -> None:
    told = run("lint", "--strict", f"--kube-version={KUBE_VERSION}", f"--values={values}", str(CHART))
    assert "0 chart(s) failed" in told


@every_value_file
def test_the_rendering_is_the_committed_snapshot(values: Path) -> None:
    assert render_snapshot(values) == read_snapshot(values), "see what changed by `nox -s chart -- --write`, git diff"


def test_there_is_no_snapshot_without_its_value_file() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*")} == {path.stem for path in value_files()} == set(COUNTS)


@every_value_file
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_kubernetes(values: Path, version: str) -> None:
    rendering = objects(render(values, kube_version=version))
    # VolumeAttributesClasses are there from 1.34 on.
    classes = 1 if values.stem == "routeros-ssh" and version == "1.27.0" else 0
    assert len(rendering) == COUNTS[values.stem] - classes
    without_schema = set()
    for item in rendering:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except SchemaNotFoundError:
            without_schema.add(item["kind"])
    assert without_schema <= WITHOUT_SCHEMA


def test_every_kind_without_a_schema_is_rendered_somewhere(rendered: Rendered) -> None:
    kinds = {item["kind"] for path in value_files() for item in rendered(path.stem)}
    assert kinds >= WITHOUT_SCHEMA


@every_value_file
def test_no_object_is_there_twice(values: Path, rendered: Rendered) -> None:
    counted = Counter((item["kind"], name_of(item)) for item in rendered(values.stem))
    assert [key for key, number in counted.items() if number > 1] == []


@every_value_file
def test_what_belongs_to_a_namespace_names_it(values: Path) -> None:
    cluster_wide = {
        *("ClusterRole", "ClusterRoleBinding", "CSIDriver"),
        *("StorageClass", "VolumeAttributesClass", "VolumeSnapshotClass"),
    }
    for item in objects(render(values)):
        metadata = item["metadata"]
        assert isinstance(metadata, dict)
        assert ("namespace" in metadata) == (item["kind"] not in cluster_wide), (item["kind"], name_of(item))
