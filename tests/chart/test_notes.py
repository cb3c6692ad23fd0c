"""What Helm tells after an installation: what to do next, and what is missing."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.chart.helm import CHART, VALUES, objects, render

Notes = Callable[..., str]

_SNAPSHOTS = "snapshot.storage.k8s.io/v1"


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """The notes for values, as if the cluster had these APIs: rendered as a manifest, for Helm prints them only at an
    installation."""
    chart = tmp_path / "rds-csi"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text(f'{{{{- define "notes" -}}}}{text}{{{{- end }}}}')
    (chart / "templates" / "notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | toJson }}\n')

    def told(
        *values: Path | Mapping[str, object], apis: Sequence[str] = (_SNAPSHOTS,), kube_version: str = "1.36.0"
    ) -> str:
        there = objects(render(*values, chart=chart, apis=apis, kube_version=kube_version))
        return str(next(item["text"] for item in there if item["kind"] == "Notes"))

    return told


def test_a_complete_installation_is_told_no_warning(notes: Notes) -> None:
    told = notes(VALUES / "routeros-ssh.yaml")
    assert "WARNING" not in told
    assert "exec deployment/rds-csi-controller -- rds-csi doctor" in told
    assert "StorageClass rds," in told


def test_without_an_array_the_notes_say_so(notes: Notes) -> None:
    told = notes(VALUES / "defaults.yaml")
    assert "WARNING: no array is configured" in told
    assert "deployment/" not in told


def test_a_local_array_is_told_to_be_of_one_node(notes: Notes) -> None:
    assert "WARNING: the array is a directory of one node" in notes(VALUES / "local.yaml")
    assert "pin it by controller.nodeSelector" not in notes(VALUES / "local.yaml")
    unpinned = {"controller": {"nodeSelector": None}}
    assert "pin it by controller.nodeSelector" in notes(VALUES / "local.yaml", unpinned)


def test_a_directory_that_all_nodes_share_is_no_local_one(notes: Notes) -> None:
    shared = {"array": {"url": "local:///var/lib/rds-csi/volumes?shared=yes"}}
    assert "of one node" not in notes(VALUES / "local.yaml", shared)


def test_snapshots_without_their_crds_are_told(notes: Notes) -> None:
    told = notes(VALUES / "local.yaml", apis=())
    assert "WARNING: snapshots.enabled, but the cluster has no snapshot.storage.k8s.io/v1" in told
    assert "snapshots.enabled" not in notes(VALUES / "local.yaml")


def test_group_snapshots_without_their_crds_are_told(notes: Notes) -> None:
    assert "WARNING: snapshots.groups" in notes(VALUES / "routeros-https.yaml")
    there = (_SNAPSHOTS, "groupsnapshot.storage.k8s.io/v1")
    assert "WARNING: snapshots.groups" not in notes(VALUES / "routeros-https.yaml", apis=there)


def test_snapshots_that_the_array_does_not_make_are_told(notes: Notes) -> None:
    told = notes(VALUES / "routeros-ssh.yaml", {"snapshots": {"enabled": True}})
    assert "WARNING: snapshots.enabled, but the array's URL has no snapshots=" in told


def test_snapshots_that_nobody_asks_for_are_told(notes: Notes) -> None:
    told = notes(VALUES / "routeros-https.yaml", {"snapshots": {"enabled": False, "groups": False}})
    assert "WARNING: the array makes snapshots, but snapshots.enabled is false" in told


def test_a_missing_secret_is_told(notes: Notes) -> None:
    told = notes(VALUES / "routeros-ssh.yaml", {"array": {"existingSecret": ""}})
    assert "WARNING: the array's URL names files in /etc/rds-csi, but no Secret is given" in told


def test_attribute_classes_on_an_older_cluster_are_told(notes: Notes) -> None:
    told = notes(VALUES / "routeros-ssh.yaml", kube_version="1.33.0")
    assert "WARNING: volumeAttributesClasses are left out" in told


def test_a_prefix_that_other_clusters_have_too_is_told(notes: Notes) -> None:
    assert "WARNING: nqnPrefix is the default" in notes(VALUES / "k3s.yaml")


def test_alerts_that_nobody_can_be_told_are_told(notes: Notes) -> None:
    alone = {"metrics": {"prometheusRule": {"enabled": True}}}
    told = notes(VALUES / "routeros-ssh.yaml", alone)
    assert "WARNING: metrics.prometheusRule.enabled, but the nodes' metrics are on their loopback" in told
    assert "WARNING: metrics.prometheusRule.enabled, but metrics.serviceMonitor.enabled is false" in told
    assert "metrics.prometheusRule" not in notes(VALUES / "monitoring.yaml")


def test_a_network_policy_without_effect_is_told(notes: Notes) -> None:
    told = notes(VALUES / "host-network.yaml", {"networkPolicy": {"enabled": True}})
    assert "WARNING: networkPolicy.enabled has no effect" in told
    assert "networkPolicy" not in notes(VALUES / "hardened.yaml")


def test_snapshot_classes_that_are_left_out_are_told(notes: Notes) -> None:
    told = notes(VALUES / "local.yaml", {"snapshots": {"enabled": False}})
    assert "WARNING: snapshots.classes are left out" in told
    assert "snapshots.classes" not in notes(VALUES / "local.yaml")


def test_the_notes_tell_why_there_may_be_no_node_pods(notes: Notes) -> None:
    told = notes(VALUES / "routeros-ssh.yaml")
    assert "kubectl label namespace storage pod-security.kubernetes.io/enforce=privileged" in told


def test_a_missing_storage_class_is_told(notes: Notes) -> None:
    assert "WARNING: there is no StorageClass" in notes(VALUES / "k3s.yaml")
