"""The chart is upgraded under pods that use volumes."""

from pathlib import Path

import pytest

from tests.cluster.api import name_of
from tests.cluster.release import Release, local_values
from tests.cluster.workspace import Workspace

pytestmark = pytest.mark.timeout(300)


def test_volumes_of_before_an_upgrade_keep_working(work: Workspace, release: Release, array: Path) -> None:
    work.claim("data")
    work.pod("user", {"/data": "data"})
    work.await_ready("user")
    work.run("user", "sh", "-c", "echo before > /data/file && sync")
    before = set(map(name_of, release.pods()))
    release.install({**local_values(array), "logFormat": "json"})
    assert not before & set(map(name_of, release.pods()))
    assert work.run("user", "cat", "/data/file") == "before"
    work.run("user", "sh", "-c", "echo after > /data/file && sync")
    work.delete("Pod", "user")
    work.pod("next", {"/data": "data"})
    work.await_ready("next")
    assert work.run("next", "cat", "/data/file") == "after"
    work.claim("more")
    work.await_bound("more")
