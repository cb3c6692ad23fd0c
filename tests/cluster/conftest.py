"""The cluster lane: a real Kubernetes with the real sidecars, the chart and the driver's image (root).

With CI=true what the machine lacks fails a test; otherwise the test is skipped and says what is missing.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster import programs
from tests.cluster.cluster import Cluster
from tests.cluster.images import driver_image
from tests.cluster.leftovers import leftovers, machine_state
from tests.cluster.release import Release, local_values
from tests.cluster.usage import cluster_usage
from tests.cluster.workspace import Workspace
from tests.support.missing import give_up

# The controller and its image files are on the first; the second is for pods that move.
NODE = "node-a"
NODES = (NODE, "node-b")
PROGRAMS = ("dpkg-deb", "ip", "losetup", "mount", "nsenter", "unshare")
# In this order: what everybody needs first, then the look whether all is gone, and at last, without the lane's own
# release, what an administrator does.
MODULES = (
    "test_volumes",
    "test_snapshots",
    "test_claims",
    "test_refusals",
    "test_interruptions",
    "test_upgrade",
    "test_routeros",
    "test_events",
    "test_nodes",
    "test_two_nodes",
    "test_rbac",
    "test_removal",
    "test_docs",
)

REPORT = pytest.StashKey[list[str]]()
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules of this lane into their order."""
    items.sort(key=lambda item: MODULES.index(item.path.stem) if item.path.stem in MODULES else -1)


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """The machine has what this lane needs."""
    if os.geteuid() != 0:
        give_up("root is needed for containers, mounts and loop devices")
    if absent := [program for program in PROGRAMS if not shutil.which(program)]:
        give_up(f"programs are missing: {', '.join(absent)} (tests/cluster/packages.txt)")
    if absent := programs.missing():
        give_up(f"not built yet: {', '.join(absent)} (python -m tests.cluster.build)")
    if not Path("/dev/loop-control").exists():
        give_up("there is no /dev/loop-control: modprobe loop")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed after the tests."""
    return request.config.stash.setdefault(REPORT, [])


@pytest.fixture(scope="session")
def cluster(machine: None, report: list[str]) -> Iterator[Cluster]:
    """A cluster of two nodes. Afterwards the machine is as it was before."""
    # Whoever ends the lane gets the machine back as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = machine_state()
    made = Cluster(*NODES)
    try:
        made.start()
        report.extend(f"{what}: {seconds:.1f} s" for what, seconds in made.seconds.items())
        yield made
        report.extend(str(usage) for usage in cluster_usage(made))
    finally:
        begun = time.monotonic()
        made.stop()
        report.append(f"everything stopped and removed: {time.monotonic() - begun:.1f} s")
    assert leftovers(made.directory) == []
    assert machine_state() == before


@pytest.fixture(scope="session")
def array(cluster: Cluster) -> Path:
    """The directory of the image files, the same on every node."""
    directory = cluster.directory / "array"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def release(cluster: Cluster, array: Path, report: list[str]) -> Release:
    """The chart, installed with image files as the array and registered on the node."""
    # Once: it is built anew when the sources have changed since.
    archive = driver_image()
    for node in cluster.nodes:
        node.import_images(archive)
    made = Release(cluster, helm())
    begun = time.monotonic()
    made.install(local_values(array))
    made.await_registered()
    report.append(f"chart installed, driver registered: {time.monotonic() - begun:.1f} s")
    return made


@pytest.fixture
def work(release: Release, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """A namespace for one test; after a test that was well, everything in it goes and its volumes too."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")
    made = Workspace(release.cluster, name)
    yield made
    if not request.node.stash.get(FAILED, False):
        made.close()
        return
    # What a failed test has left must not fail others.
    with contextlib.suppress(AssertionError):
        made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the objects and the driver's logs with a failure, and remember it: then what is left is no second one."""
    report = yield
    if report.failed and report.when == "call":
        item.stash[FAILED] = True
        fixtures = getattr(item, "funcargs", {})
        if isinstance(work := fixtures.get("work"), Workspace):
            report.sections.append(("objects", work.describe()))
        if isinstance(release := fixtures.get("release"), Release):
            report.sections.append(("pods' logs", release.logs()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the lane's times and memory."""
    if lines := config.stash.get(REPORT, []):
        terminalreporter.section("cluster")
        for line in lines:
            terminalreporter.write_line(line)


def helm() -> str:
    """The program, from $HELM."""
    program = os.environ.get("HELM", "helm")
    if not shutil.which(program):
        give_up(f"there is no {program}: set HELM")
    return program
