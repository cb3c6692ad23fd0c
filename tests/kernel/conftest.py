"""Tests on a real kernel's NVMe/TCP target and host: ``nox -s kernel`` runs them in a throw-away machine.

They load modules, connect and format without asking, so they fail anywhere else. Nothing is ever skipped.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rds_csi.connectors.nvme_connector import NvmeConnector
from tests.support.csi_calls import CONNECTORS, NodeCalls, NodeServer, all_controllers, node_servers
from tests.support.machine_state import MachineState, assert_nothing_left
from tests.support.nvme_host import LINKS, host_connector
from tests.support.nvmet_target import CONFIGFS, DEFAULT_SIZE, NVMET, NvmetTarget
from tests.support.stand_ins import running
from tests.support.traces import mounts_below
from tests.support.waiting import wait_until

MODULES = ("loop", "brd", "nvmet", "nvmet_tcp", "nvme_tcp")
TOOL_SECONDS = 60.0
# Of the kernel's log since a test began.
KERNEL_LOG_LINES = 100

FAILED = pytest.StashKey[bool]()
MakeTarget = Callable[..., NvmetTarget]


@pytest.fixture(scope="session", autouse=True)
def lane_machine() -> None:
    """This is the lane's machine, its modules are loaded and configfs is mounted."""
    if "vm_job=" not in Path("/proc/cmdline").read_text():
        pytest.exit("tests/kernel changes the machine: it only runs in the lane's own, nox -s kernel", returncode=2)
    subprocess.run(["modprobe", "--all", *MODULES], check=True, timeout=TOOL_SECONDS)
    if not NVMET.is_dir():
        subprocess.run(["mount", "-t", "configfs", "none", str(CONFIGFS)], check=True, timeout=TOOL_SECONDS)


@pytest.fixture(scope="session")
def multipath(lane_machine: None) -> bool:
    """Whether the host's native NVMe multipath is on."""
    return Path("/sys/module/nvme_core/parameters/multipath").read_text().strip() == "Y"


@pytest.fixture(scope="session")
def kernel_release() -> tuple[int, int]:
    """The first two numbers of the kernel's release: (6, 12)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(request: pytest.FixtureRequest, lane_machine: None) -> Iterator[None]:
    """A module of tests that passed leaves no session, mount, loop device, configfs entry, file or process.

    What a fixture of the whole session keeps, which pytest sets up before this one, was there before.
    """
    before = MachineState.now()
    yield
    if not request.node.stash.get(FAILED, False):
        assert_nothing_left(before)


@pytest.fixture(autouse=True)
def marked_kernel_log(request: pytest.FixtureRequest, lane_machine: None) -> None:
    """The kernel's log tells where a test begins."""
    Path("/dev/kmsg").write_text(log_mark(request.node.nodeid))


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory on the tmpfs /run. Large files in it are sparse; a socket's path in it stays short."""
    directory = Path(tempfile.mkdtemp(prefix="t-", dir="/run"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def nvmet_target(scratch: Path) -> Iterator[MakeTarget]:
    """A factory: ``nvmet_target(size=…, nqn=…, namespace_uuid=…)``; every target is closed after the test."""
    with ExitStack() as stack:

        def make(*, size: int = DEFAULT_SIZE, nqn: str = "", namespace_uuid: str = "") -> NvmetTarget:
            return stack.enter_context(NvmetTarget(scratch, size=size, nqn=nqn, namespace_uuid=namespace_uuid))

        yield make


@pytest.fixture(params=LINKS)
def connector(scratch: Path, request: pytest.FixtureRequest) -> Iterator[NvmeConnector]:
    """A connector of this host, once with each link."""
    with host_connector(scratch / "state", request.param) as made:
        yield made


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, lane_machine: None) -> Iterator[dict[str, NodeServer]]:
    """``rds-csi node`` with each connector, for all modules that use it: a start takes seconds in there."""
    before = MachineState.now()
    with node_servers() as running_servers:
        yield running_servers
    if not request.session.testsfailed:
        assert_nothing_left(before)


@pytest.fixture(params=CONNECTORS)
def server(servers: dict[str, NodeServer], request: pytest.FixtureRequest) -> NodeServer:
    """The server of one connector."""
    return servers[request.param]


@pytest.fixture
def everything_goes(servers: dict[str, NodeServer]) -> Iterator[None]:
    """After a test, while the servers still run, there is exactly what was there before, and no child runs."""
    before = MachineState.now()
    yield
    left = [mount for server in servers.values() for mount in mounts_below(server.staging)]
    for mount in left:
        # A dead one would make every later look fail.
        subprocess.run(["umount", mount], check=True, timeout=TOOL_SECONDS)
    assert left == []
    assert_nothing_left(before)
    # The server looks after its tools every half a minute.
    wait_until(lambda: (running(), all_controllers()) == ([], []), "no child and no controller is left")


@pytest.fixture
async def calls(server: NodeServer, everything_goes: None) -> AsyncIterator[NodeCalls]:
    """The server's client."""
    async with server.calls() as client:
        yield client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the kernel's log with a failure, and remember it: what a failed test leaves is no second failure."""
    report = yield
    if report.failed:
        if (module := item.getparent(pytest.Module)) is not None:
            module.stash[FAILED] = True
        log = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=TOOL_SECONDS).stdout
        lines = log.rpartition(log_mark(item.nodeid))[2].splitlines()
        report.sections.append(("kernel log", "\n".join(lines[-KERNEL_LOG_LINES:])))
    return report


def log_mark(test: str) -> str:
    """What stands in the kernel's log where a test begins."""
    return f"test {test} begins"
