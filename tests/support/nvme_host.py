"""The NVMe connectors of this host for tests on a real kernel, and what the kernel has then."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rds_csi.connectors.fabrics import Fabrics
from rds_csi.connectors.nvme_cli import NvmeCli
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sessions import Controller
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.process import ProcessRunner
from rds_csi.retry import RetryPolicy
from rds_csi.workers import Workers
from tests.support.nvmet_target import NVMET, NvmetTarget

HOST = HostPaths()
LINKS = ("nvme-cli", "fabrics")
# Short times: an outage is noticed at once and ended within a second.
CONFIG = ConnectionConfig(reconnect_delay=1, keep_alive_tmo=5)
_TOOL_SECONDS = 60.0


@contextlib.contextmanager
def host_connector(state_dir: Path, link: str) -> Iterator[NvmeConnector]:
    """A connector of this host with three quick attempts."""
    runner, workers = ProcessRunner(), Workers()
    options = ConnectorOptions(runner, workers, HOST, str(state_dir))
    chosen = NvmeCli(runner) if link == "nvme-cli" else Fabrics(runner, workers, HOST)
    made = NvmeConnector(options, chosen, retry=RetryPolicy(attempts=3, first_delay=0.5))
    yield made
    made.close()


def target_of(target: NvmetTarget, *, addresses: tuple[str, ...] = ()) -> NvmeTarget:
    """How a volume context names what is exported."""
    return NvmeTarget(target.nqn, addresses or (target.address,), target.port, target.uuid)


def run(*argv: str) -> None:
    """Run a program that has to succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TOOL_SECONDS)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


@contextlib.contextmanager
def second_portal(exported: NvmetTarget, address: str) -> Iterator[None]:
    """Export the subsystem at another address too, on the same port."""
    directory = NVMET / "ports" / "2000"
    directory.mkdir()
    portal = {"trtype": "tcp", "adrfam": "ipv4", "traddr": address, "trsvcid": str(exported.port)}
    for name, value in portal.items():
        (directory / f"addr_{name}").write_text(value)
    link = directory / "subsystems" / exported.nqn
    link.symlink_to(exported.subsystem)
    try:
        yield
    finally:
        link.unlink()
        directory.rmdir()


def controllers_of(nqn: str) -> tuple[Controller, ...]:
    """The paths of a session, as sysfs shows them now."""
    session = NvmeSysfs(HOST).session(nqn)
    return session.controllers if session is not None else ()


def is_live(nqn: str) -> bool:
    """Whether a path of the session is up."""
    return any(controller.is_live for controller in controllers_of(nqn))


def delete(controller: str) -> None:
    """What ``nvme disconnect`` does to each path, also to one in use, and without its scan of everything."""
    Path("/sys/class/nvme", controller, "delete_controller").write_text("1")


def end_session(nqn: str) -> None:
    """Delete every path of a session; one that is gone by then is fine."""
    for controller in controllers_of(nqn):
        with contextlib.suppress(FileNotFoundError):
            delete(controller.name)
