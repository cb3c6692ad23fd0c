"""At the end: no volume is left anywhere, and the chart goes without a trace."""

import contextlib
from pathlib import Path

import pytest

from tests.cluster.api import name_of
from tests.cluster.conftest import NODES
from tests.cluster.leftovers import volume_traces
from tests.cluster.release import DRIVER_NAME, Release
from tests.cluster.usage import pod_usage

pytestmark = pytest.mark.timeout(300)

GONE_SECONDS = 60.0
# Some of those of the lane (release.local_values).
CLASSES = ("fast", "waiting", "patient")


def test_the_memory_of_the_drivers_pods_is_told(release: Release, report: list[str]) -> None:
    for pod in release.pods():
        report.extend(str(usage) for usage in pod_usage(pod))


def test_nothing_is_left_of_any_volume(release: Release, array: Path) -> None:
    for kind in ("VolumeAttachment", "PersistentVolume", "VolumeSnapshotContent"):
        await_none(release, kind)
    # A node that was dead looks through what it had when it comes back, and unstages it.
    with contextlib.suppress(AssertionError):
        release.cluster.processes.wait_until(
            lambda: not volume_traces(release.cluster, array), "nothing is left", GONE_SECONDS
        )
    assert volume_traces(release.cluster, array) == []


def test_the_chart_goes_without_a_trace(release: Release) -> None:
    api, namespace = release.cluster.api, release.namespace
    release.uninstall()
    release.cluster.processes.wait_until(
        lambda: not any(map(release.is_registered, NODES)), "the kubelets have forgotten the driver", GONE_SECONDS
    )
    assert api.get("CSIDriver", DRIVER_NAME) is None
    for kind in ("StorageClass", "VolumeSnapshotClass", "VolumeAttributesClass", "ClusterRole"):
        assert [name for name in map(name_of, api.list(kind)) if name.startswith(release.name) or name in CLASSES] == []
    for kind in ("Deployment", "DaemonSet", "CSIStorageCapacity"):
        assert api.list(kind, namespace) == []


def await_none(release: Release, kind: str) -> None:
    """No object of a kind is left in the cluster."""
    cluster = release.cluster
    cluster.processes.wait_until(lambda: not cluster.api.list(kind), f"there is no {kind}", GONE_SECONDS)
