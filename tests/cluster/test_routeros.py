"""The controller's side with a RouterOS array: the simulator, reached by SSH from the controller's pod."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import field
from tests.cluster.cluster import Cluster, condition
from tests.cluster.network import API_ADDRESS
from tests.cluster.release import Release, images_values, node_values
from tests.cluster.workspace import SNAPSHOT_GROUP, Workspace

pytestmark = pytest.mark.timeout(300)

NAME = "routeros"
DRIVER_NAME = "routeros.csi.rds-csi.io"
START_SECONDS = 60.0
_PORT = 2222


@pytest.fixture(scope="module")
def simulator(cluster: Cluster) -> Path:
    """A running simulator; its directory."""
    directory = cluster.directory / "simulator"
    directory.mkdir()
    argv = [
        *(sys.executable, "-m", "rds_csi", "simulate"),
        *(f"--ssh={API_ADDRESS}:{_PORT}", f"--https={API_ADDRESS}:{_PORT + 1}"),
        *(f"--directory={directory}", "--pool=raid10:btrfs:4G"),
    ]
    cluster.processes.start("simulator", argv)
    known_hosts = directory / "credentials" / "known_hosts"
    cluster.processes.wait_until(known_hosts.exists, "the simulator has its keys", START_SECONDS)
    return directory


@pytest.fixture(scope="module")
def routeros(cluster: Cluster, release: Release, simulator: Path) -> Iterator[Release]:
    """A second installation of the chart, beside the first, under a name of its own."""
    made = Release(cluster, release.helm, name=NAME, namespace=NAME, driver_name=DRIVER_NAME)
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}})
    credentials = simulator / "credentials"
    files = {"key": "client_key", "known-hosts": "known_hosts"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "array", "namespace": NAME},
        "stringData": {key: (credentials / file).read_text() for key, file in files.items()},
    }
    cluster.api.apply(secret)
    try:
        # Its nodes never become ready: this machine's kernel may have no NVMe.
        made.install(values(), wait=False)
        made.await_registered()
        cluster.processes.wait_until(
            lambda: [condition(pod, "Ready") for pod in made.pods("controller")] == ["True"],
            "the controller is ready",
            START_SECONDS,
        )
        yield made
    finally:
        made.uninstall()


def test_a_claim_gets_a_volume_a_snapshot_and_a_restored_one(
    work: Workspace, routeros: Release, simulator: Path
) -> None:
    work.claim("data", storage_class=NAME)
    work.await_bound("data")
    attributes = field(work.volume("data"), "spec.csi.volumeAttributes")
    assert attributes["nqn"].startswith("nqn.2026-01.io.rds-csi:lane:")
    work.snapshot("moment", "data", snapshot_class=NAME)
    source = {"apiGroup": SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": "moment"}
    work.claim("restored", storage_class=NAME, source=source)
    work.await_bound("restored")
    assert len(files(simulator)) == 3
    work.empty()
    assert files(simulator) == []


def files(simulator: Path) -> list[str]:
    """The images of volumes and snapshots on the simulated device."""
    return [str(path) for path in (simulator / "pools" / "raid10" / "rds-csi").rglob("*.img")]


def values() -> dict[str, object]:
    """Beside another installation: names, port and state directory of its own."""
    url = (
        f"routeros+ssh://csi@{API_ADDRESS}:{_PORT}/?pool=raid10&snapshots=btrfs-subvolume"
        "&key-file=/etc/rds-csi/key&known-hosts=/etc/rds-csi/known-hosts"
    )
    return {
        **images_values(),
        "driverName": DRIVER_NAME,
        "nqnPrefix": "nqn.2026-01.io.rds-csi:lane:",
        "stateDir": "/var/lib/rds-csi/routeros",
        "array": {"url": url, "existingSecret": "array"},
        "node": {**node_values(), "httpPort": 9810},
        "snapshots": {"enabled": True, "classes": [{"name": NAME}]},
        "storageClasses": [{"name": NAME, "volumeBindingMode": "Immediate"}],
    }
