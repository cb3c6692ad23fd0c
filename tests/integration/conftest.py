"""Integration tests: the real server, real loop devices and mounts. They need root.

With CI=true what the machine lacks fails a test; otherwise the test is skipped and says what is missing.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.missing import give_up
from tests.support.traces import assert_no_traces, loops_below, mounts_below

PROGRAMS = ("blkid", "losetup", "mkfs.btrfs", "mkfs.ext4", "mkfs.xfs", "mount", "umount")
# umount and losetup on a healthy machine are done at once.
TOOL_SECONDS = 30.0

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember which test has failed: then what it left behind is no second failure."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """The machine has what these tests need."""
    if os.geteuid() != 0:
        give_up("root is needed for loop devices and mounts")
    search_path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = [program for program in PROGRAMS if not shutil.which(program, path=search_path)]
    if missing:
        give_up(f"programs are missing: {', '.join(missing)} (tests/integration/packages.txt)")
    if not Path("/dev/loop-control").exists():
        give_up("there is no /dev/loop-control: modprobe loop")


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory for everything of one test. A test that passed must have left no traces of a driver in it.

    Its path is short, because a unix socket's may have no more than 107 bytes.
    """
    directory = Path(tempfile.mkdtemp(prefix="rds-csi-")).resolve()
    yield directory
    try:
        if not request.node.stash.get(FAILED, False):
            assert_no_traces(directory)
    finally:
        remove(directory)


def remove(directory: Path) -> None:
    """Unmount, detach and remove whatever is below the directory."""
    for point in reversed(mounts_below(directory)):
        subprocess.run(["umount", point], timeout=TOOL_SECONDS, check=True)
    for loop in loops_below(directory):
        subprocess.run(["losetup", "--detach", f"/dev/{loop.split()[0]}"], timeout=TOOL_SECONDS, check=True)
    shutil.rmtree(directory)
