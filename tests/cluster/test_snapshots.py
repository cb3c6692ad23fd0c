"""Snapshots and clones."""

import pytest

from tests.cluster.workspace import SNAPSHOT_GROUP, Workspace, kilobytes

pytestmark = pytest.mark.timeout(300)


def test_a_snapshot_is_restored_as_it_was(work: Workspace) -> None:
    make_volume(work, "then")
    work.snapshot("moment", "data")
    work.run("user", "sh", "-c", "echo later > /data/file && sync")
    source = {"apiGroup": SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": "moment"}
    work.claim("restored", source=source)
    work.pod("reader", {"/data": "restored"})
    work.await_ready("reader")
    assert work.run("reader", "cat", "/data/file") == "then"
    assert work.run("user", "cat", "/data/file") == "later"


def test_a_snapshot_outlives_its_volume_and_is_restored_to_a_larger_one(work: Workspace) -> None:
    make_volume(work, "then", storage_class="xfs", size="320Mi")
    work.snapshot("moment", "data")
    work.delete("Pod", "user")
    work.delete("PersistentVolumeClaim", "data")
    source = {"apiGroup": SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": "moment"}
    work.claim("restored", storage_class="xfs", source=source, size="640Mi")
    work.pod("reader", {"/data": "restored"})
    work.await_ready("reader")
    assert work.run("reader", "cat", "/data/file") == "then"
    assert kilobytes(work, "reader") > 500 * 1024


def test_a_clone_has_the_data_and_goes_its_own_way(work: Workspace) -> None:
    make_volume(work, "then")
    work.claim("clone", source={"kind": "PersistentVolumeClaim", "name": "data"})
    work.pod("other", {"/data": "clone"})
    work.await_ready("other")
    assert work.run("other", "cat", "/data/file") == "then"
    work.run("other", "sh", "-c", "echo mine > /data/file && sync")
    assert work.run("user", "cat", "/data/file") == "then"


def make_volume(work: Workspace, text: str, *, storage_class: str = "fast", size: str = "64Mi") -> None:
    """A claim ``data`` in use by the pod ``user``, with a file."""
    work.claim("data", storage_class=storage_class, size=size)
    work.pod("user", {"/data": "data"})
    work.await_ready("user")
    work.run("user", "sh", "-c", f"echo {text} > /data/file && sync")
