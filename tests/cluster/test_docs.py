"""Installed, upgraded and uninstalled as an administrator does it: with the pages' own lines, from nothing to nothing.

The array is a directory, as elsewhere in this lane: with RouterOS no volume gets further than the controller on a
kernel that may have no NVMe (``test_routeros``). The Secret for the array is made all the same.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rds_csi import __version__
from tests.cluster import images, programs
from tests.cluster.administrator import Administrator, Difference
from tests.cluster.api import field, name_of
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import FAILED, NODE, NODES, helm
from tests.cluster.images import driver_image
from tests.cluster.leftovers import volume_traces
from tests.cluster.node import Node
from tests.cluster.release import CHART, DRIVER_NAME, NAMESPACE, node_values
from tests.image.build import REFERENCE as DRIVER_IMAGE
from tests.support.pages import read
from tests.support.traces import files_below

# With the building of the image, when it is the only module that is run.
pytestmark = pytest.mark.timeout(600)

QUICKSTART = "docs/quickstart.md"
UPGRADE = "docs/how-to/upgrade.md"
UNINSTALL = "docs/how-to/uninstall.md"
PAGES = (QUICKSTART, UPGRADE, UNINSTALL)

STATE = Path("/var/lib/rds-csi")
# Where the page and the chart have the images: the nodes of this lane have all they need.
REGISTRY = "registry.example.com/storage/rds-csi"
SIDECARS = "registry.k8s.io/sig-storage"
# What the chart and its image are upgraded to.
NEXT = "99.0.0"
GONE_SECONDS = 60.0

ARRAY_URL = '"routeros+ssh://csi@192.0.2.1/?pool=raid10&key-file=/etc/rds-csi/key&known-hosts=/etc/rds-csi/known-hosts"'


def differences(cluster: Cluster, array: Path) -> list[Difference]:
    """What is not here as in the pages."""
    values = json.dumps({"nodeSelector": {"kubernetes.io/hostname": NODE}}), json.dumps(node_values())
    remove = ["rm", "-r", f"{STATE}/state"]
    return [
        Difference("modprobe nvme-tcp", "the machine's kernel may have no NVMe"),
        Difference("echo nvme-tcp > /etc/modules-load.d/nvme-tcp.conf", "the machine stays as it is"),
        Difference(ARRAY_URL, "the lane's array is a directory", f"local://{array}\n  local: {{hostPath: {array}}}"),
        Difference(
            "storageClasses:\n",
            "the directory is on one node, and the machine may have no kernel modules",
            f"controller: {values[0]}\nnode: {values[1]}\nstorageClasses:\n",
        ),
        Difference(" --portal 192.0.2.1", "a directory has no portal", ""),
        Difference("image: busybox", "without a tag it would be pulled", f"image: {images.BUSYBOX}"),
        Difference("storage: 10Gi", "the machine's disk may be small", "storage: 64Mi"),
        Difference(
            "helm template rds-csi charts/rds-csi --namespace rds-csi --values my-values.yaml | kubectl diff -f -",
            "the new chart is another one",
            status=1,
        ),
        Difference("pv NAME", "there is one", "pv $(kubectl get pv -o jsonpath='{.items[*].metadata.name}')"),
        Difference("node NODE", "any will do", f"node {NODE}"),
        Difference(
            f"rm -r {STATE}",
            "on the lane's nodes, where that directory is a mount point",
            " && ".join(shlex.join(node.host.inside(remove)) for node in cluster.nodes),
        ),
    ]


@pytest.fixture
def array(cluster: Cluster) -> Path:
    """The directory of the image files."""
    directory = cluster.directory / "docs-array"
    directory.mkdir()
    return directory


@pytest.fixture
def administrator(
    cluster: Cluster, array: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Administrator]:
    """With kubectl, helm, the chart and the array's key; the cluster has no driver, before and afterwards."""
    archive = driver_image()
    for node in cluster.nodes:
        give_images(node, archive)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to(programs.program("kubectl"))
    (tmp_path / "bin" / "helm").symlink_to(shutil.which(helm()) or "")
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / CHART.name).symlink_to(CHART)
    for name in ("rds-csi", "known-hosts"):
        (tmp_path / name).write_text("Nobody looks at it: the array is a directory.\n")
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(cluster.kubeconfig),
    }
    made = Administrator(tmp_path, environment, {page: read(page) for page in PAGES}, differences(cluster, array))
    remove(made)
    yield made
    if request.node.stash.get(FAILED, False):
        made.run(f"kubectl -n {NAMESPACE} describe pods")
        remove(made)


def test_the_driver_is_installed_upgraded_and_uninstalled_with_the_lines_of_the_pages(
    administrator: Administrator, cluster: Cluster, array: Path, tmp_path: Path
) -> None:
    install(administrator)
    claim(administrator, array)
    upgrade(administrator, cluster, tmp_path / "charts" / CHART.name)
    uninstall_too_early(administrator, cluster, array)
    uninstall(administrator, cluster, array)
    remove_what_stays(administrator, cluster, array)
    assert administrator.omissions() == []


def install(administrator: Administrator) -> None:
    """From a cluster without anything to one where all is well."""
    administrator.follow(QUICKSTART, "1. What you need")
    administrator.follow(QUICKSTART, "3. Install")
    registered, nodes, _ = administrator.follow(QUICKSTART, "4. Is it well")
    assert {tuple(line.split()) for line in registered.splitlines()[1:]} == {(node, DRIVER_NAME) for node in NODES}
    assert nodes.count(" 0 missing.") == len(NODES)


def claim(administrator: Administrator, array: Path) -> None:
    """A volume for a pod that writes to it."""
    _, _, log, claim, pod, _ = administrator.follow(QUICKSTART, "5. The first claim")
    assert len(log.splitlines()) == 1
    assert "ProvisioningSucceeded" in claim
    assert "SuccessfulAttachVolume" in pod
    assert len(list(array.rglob("*.img"))) == 1
    (status,) = administrator.follow(QUICKSTART, "6. Look at it")
    assert status.count(" ok ") == 1


def upgrade(administrator: Administrator, cluster: Cluster, chart: Path) -> None:
    """To another chart and image, with a CSIDriver made anew, and back; a pod with a volume does not notice."""
    chart.unlink()
    shutil.copytree(CHART, chart)
    about = chart / "Chart.yaml"
    about.write_text(about.read_text().replace(f"ersion: {__version__}\n", f"ersion: {NEXT}\n"))
    before = field(cluster.api.get("Pod", "writer", "default") or {}, "metadata.uid")
    _, status = administrator.follow(UPGRADE, "1. Is it well")
    assert status.count(" ok ") == 1
    _, changes = administrator.follow(UPGRADE, "2. What would change")
    assert f"+        image: {REGISTRY}:{NEXT}\n" in changes
    administrator.follow(UPGRADE, "What must not change")
    assert cluster.api.get("CSIDriver", DRIVER_NAME) is None
    administrator.follow(UPGRADE, "3. Upgrade")
    assert cluster.api.get("CSIDriver", DRIVER_NAME) is not None
    assert versions(cluster) == {NEXT}
    _, status = administrator.follow(UPGRADE, "1. Is it well")
    assert status.count(" ok ") == 1
    administrator.follow(UPGRADE, "Back")
    assert versions(cluster) == {__version__}
    pod = cluster.api.get("Pod", "writer", "default") or {}
    assert field(pod, "metadata.uid") == before
    assert field(pod, "status.containerStatuses")[0]["restartCount"] == 0
    administrator.run("kubectl exec writer -- sh -c 'date >> /data/log && sync && cat /data/log'")


def uninstall_too_early(administrator: Administrator, cluster: Cluster, array: Path) -> None:
    """What hangs without the driver goes on when it is installed again."""
    administrator.follow(UNINSTALL, "4. The driver")
    administrator.run("kubectl delete pod/writer pvc/data --wait=false")
    administrator.run("kubectl wait --for=delete pod/writer --timeout=3s", status=1)
    administrator.follow(QUICKSTART, "3. Install")
    await_true(cluster, lambda: not cluster.api.list("PersistentVolume"), "the PersistentVolume is gone")
    assert files_below(array) == []


def uninstall(administrator: Administrator, cluster: Cluster, array: Path) -> None:
    """A volume is kept; of the driver and of all else there is nothing in the cluster."""
    administrator.follow(QUICKSTART, "5. The first claim")
    administrator.follow(UNINSTALL, "1. The volumes")
    administrator.follow(QUICKSTART, "7. Clean up")
    administrator.follow(UNINSTALL, "2. Volumes that you keep")
    assert len(list(array.rglob("*.img"))) == 1
    *objects, status = administrator.follow(UNINSTALL, "3. Is nothing left")
    assert [printed.strip() for printed in objects] == ["No resources found"] * 3
    assert status.count("No volume is staged") == len(NODES)
    administrator.follow(UNINSTALL, "4. The driver")
    api = cluster.api
    assert api.get("Namespace", NAMESPACE) is None
    assert api.get("CSIDriver", DRIVER_NAME) is None
    for kind in ("StorageClass", "ClusterRole", "ClusterRoleBinding"):
        assert [name for name in map(name_of, api.list(kind)) if name.startswith("rds-csi")] == []
    await_true(cluster, lambda: not any(field(n, "spec.drivers") for n in api.list("CSINode")), "no node has a driver")


def remove_what_stays(administrator: Administrator, cluster: Cluster, array: Path) -> None:
    """What the page says that stays has stayed, and goes by the page's lines."""
    administrator.run(f"kubectl taint node {NODE} {DRIVER_NAME}/agent-not-ready=:PreferNoSchedule")
    states = [node.host.own(STATE / "state") for node in cluster.nodes]
    assert all(state.is_dir() for state in states)
    assert "volumesnapshots.snapshot.storage.k8s.io" in administrator.run("kubectl get crd")
    assert len(list(array.rglob("*.img"))) == 1
    administrator.follow(UNINSTALL, "What stays, on purpose")
    assert not any(state.exists() for state in states)
    assert not any(field(node, "spec.taints") for node in cluster.api.list("Node"))
    # By hand, as the page says.
    for file in files_below(array):
        Path(file).unlink()
    assert volume_traces(cluster, array) == []


def versions(cluster: Cluster) -> set[str]:
    """The tags of the driver's images in the pods that are not ending."""
    pods = [pod for pod in cluster.api.list("Pod", NAMESPACE) if not field(pod, "metadata.deletionTimestamp")]
    found = [container["image"] for pod in pods for container in pod["spec"]["containers"]]
    return {image.rpartition(":")[2] for image in found if image.startswith(REGISTRY)}


def give_images(node: Node, archive: Path) -> None:
    """The node has the images under the names that they have in the page and in the chart, as if it had pulled them."""
    node.import_images(archive)
    names = {DRIVER_IMAGE: [f"{REGISTRY}:{tag}" for tag in (__version__, NEXT)]}
    for sidecar in programs.SIDECARS:
        image = images.sidecar(sidecar)
        names[image] = [f"{SIDECARS}/{image.rpartition('/')[2]}"]
    for image, others in names.items():
        node.ctr("images", "tag", "--force", image, *others)


def remove(administrator: Administrator) -> None:
    """What another test, or this one when it failed, has left."""
    administrator.run("kubectl delete pod/writer pvc/data --ignore-not-found --timeout=60s")
    administrator.run(f"helm uninstall rds-csi --namespace {NAMESPACE} --ignore-not-found --wait")
    administrator.run(f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=60s")


def await_true(cluster: Cluster, holds: Callable[[], bool], what: str) -> None:
    """It holds soon."""
    cluster.processes.wait_until(holds, what, GONE_SECONDS)
