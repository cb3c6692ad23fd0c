"""The driver that the suite tests: the chart with image files in a directory that all nodes share."""

import contextlib
import os
from pathlib import Path

from tests.cluster.api import name_of
from tests.cluster.cluster import Cluster
from tests.cluster.release import Release, local_values
from tests.image.build import ready_image
from tests.support.traces import files_below, loops_below

# One test fills a node with volumes, and all tests at once must not.
VOLUMES_PER_NODE = 24
# By itself it tells one capacity a second and asks the API server five times, which is little when every test brings a
# class of its own.
_PROVISIONER = [f"--kube-api{of}-{what}" for of in ("", "-capacity") for what in ("qps=50", "burst=100")]
_GONE_SECONDS = 120.0
_ADMISSION = Path(__file__).parent / "admission.yaml"
_KINDS = ("VolumeAttachment", "PersistentVolume", "VolumeSnapshotContent")


def install_driver(cluster: Cluster) -> Release:
    """Install the chart; the driver is registered on every node. $HELM and $DRIVER_IMAGE as in the cluster lane."""
    image = Path(os.environ.get("DRIVER_IMAGE") or ready_image().path)
    for node in cluster.nodes:
        node.import_images(image)
    array_of(cluster).mkdir()
    release = Release(cluster, os.environ.get("HELM", "helm"))
    release.install(values(array_of(cluster)))
    release.await_registered()
    cluster.kubectl("apply", f"--filename={_ADMISSION}")
    return release


def array_of(cluster: Cluster) -> Path:
    """The directory of the image files."""
    return cluster.directory / "array"


def values(array: Path) -> dict[str, object]:
    """The chart's values: as in the cluster lane, with the classes of the suite's definition."""
    local = local_values(array, f"local://{array}?shared=yes")
    sidecars = local["sidecars"]
    assert isinstance(sidecars, dict)
    return {
        **local,
        "maxVolumesPerNode": VOLUMES_PER_NODE,
        "snapshots": {"enabled": True, "groups": True, "classes": [{"name": "fast"}]},
        # As seldom as the chart has it: many classes come and go.
        "capacity": {"enabled": True},
        "sidecars": {**sidecars, "provisioner": {**sidecars["provisioner"], "extraArgs": _PROVISIONER}},
        "storageClasses": [
            {"name": "ext4", "fsType": "ext4", "volumeBindingMode": "Immediate"},
            {"name": "xfs", "fsType": "xfs", "volumeBindingMode": "WaitForFirstConsumer"},
        ],
    }


def left_behind(release: Release) -> list[str]:
    """What is left of volumes once everything was deleted, a line for each."""
    cluster = release.cluster
    with contextlib.suppress(AssertionError):
        cluster.processes.wait_until(lambda: not any(map(cluster.api.list, _KINDS)), "all is gone", _GONE_SECONDS)
    found = [f"{kind} {name_of(item)}" for kind in _KINDS for item in cluster.api.list(kind)]
    states = [node.host.own(Path("/var/lib/rds-csi/state")) for node in cluster.nodes]
    return [*found, *files_below(array_of(cluster), *states), *loops_below(cluster.directory)]
