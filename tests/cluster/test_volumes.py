"""The life of a volume, as pods see it."""

from pathlib import Path

import pytest

from tests.cluster.api import field
from tests.cluster.workspace import DEVICE, POD_SECONDS, Workspace, kilobytes

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
CLAIM = "PersistentVolumeClaim"
# capabilities(7), linux/capability.h
CAP_SYS_RESOURCE = 24


def test_a_new_pod_reads_what_an_earlier_one_wrote(work: Workspace) -> None:
    work.claim("data")
    work.pod("writer", {"/data": "data"})
    work.await_ready("writer")
    work.run("writer", "sh", "-c", "echo kept > /data/file && sync")
    work.delete("Pod", "writer")
    work.pod("reader", {"/data": "data"})
    work.await_ready("reader")
    assert work.run("reader", "cat", "/data/file") == "kept"


def test_a_volume_grows_while_a_pod_uses_it(work: Workspace) -> None:
    work.claim("data", storage_class="xfs", size="320Mi")
    work.pod("user", {"/data": "data"})
    work.await_ready("user")
    before = kilobytes(work, "user")
    work.grow("data", "640Mi")
    await_size(work, "640Mi")
    assert kilobytes(work, "user") > before * 1.5


def test_ext4_grows_too_or_the_claim_says_what_is_missing(work: Workspace) -> None:
    work.claim("data")
    work.pod("user", {"/data": "data"})
    work.await_ready("user")
    before = kilobytes(work, "user")
    work.grow("data", "128Mi")
    if has_sys_resource():
        await_size(work, "128Mi")
        assert kilobytes(work, "user") > before * 1.5
    else:
        work.wait_until(lambda: "CAP_SYS_RESOURCE" in str(work.get(CLAIM, "data")["status"]), "it says so", POD_SECONDS)
        assert work.is_ready("user")


def test_a_block_volume_keeps_its_bytes_and_grows(work: Workspace) -> None:
    work.claim("raw", mode="Block")
    work.pod("writer", {DEVICE: "raw"}, block=True)
    work.await_ready("writer")
    work.run("writer", "sh", "-c", f"echo kept | dd of={DEVICE} conv=fsync 2>/dev/null")
    assert int(work.run("writer", "blockdev", "--getsize64", DEVICE)) == 64 * MIB
    work.grow("raw", "128Mi")
    work.wait_until(
        lambda: int(work.run("writer", "blockdev", "--getsize64", DEVICE)) == 128 * MIB, "it has grown", POD_SECONDS
    )
    work.delete("Pod", "writer")
    work.pod("reader", {DEVICE: "raw"}, block=True)
    work.await_ready("reader")
    assert work.run("reader", "sh", "-c", f"head -c 4 {DEVICE}") == "kept"


def test_two_pods_of_one_node_share_a_read_write_once_volume(work: Workspace) -> None:
    work.claim("data")
    work.pod("one", {"/data": "data"})
    work.pod("two", {"/data": "data"})
    work.await_ready("one", "two")
    work.run("one", "sh", "-c", "echo shared > /data/file")
    assert work.run("two", "cat", "/data/file") == "shared"


def await_size(work: Workspace, size: str) -> None:
    """The claim ``data`` has its new size."""
    work.wait_until(
        lambda: field(work.get(CLAIM, "data"), "status.capacity.storage") == size, "the claim has grown", POD_SECONDS
    )


def has_sys_resource() -> bool:
    """Whether a privileged container on this machine has CAP_SYS_RESOURCE: without it ext4 does not grow online
    (fs/ext4/ioctl.c)."""
    status = Path("/proc/self/status").read_text().splitlines()
    (bounding,) = [int(line.split()[1], 16) for line in status if line.startswith("CapBnd:")]
    return bool(bounding & 1 << CAP_SYS_RESOURCE)
