"""The controller's container: no root, no capability, nothing to write to but what is mounted."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_csi import __version__
from tests.image.archive import Archive
from tests.image.container import Container, Place, controller_place
from tests.support.driver import START_SECONDS
from tests.support.sanity import RUNNABLE_SPECS, SANITY_SECONDS, run_sanity
from tests.support.waiting import wait_until

USER = 65532
SERVE = ("--endpoint", "unix:///csi/csi.sock", "--array", "local:///csi/array", "--connector", "memory")
# What a quiet server needs to end; its grace period is 25 s.
END_SECONDS = 10.0


@pytest.fixture
def socket_directory(home: Path) -> Path:
    """What the pod's emptyDir is in a cluster."""
    directory = home / "csi"
    directory.mkdir()
    (directory / "array").mkdir()
    for path in (directory, directory / "array"):
        os.chown(path, USER, USER)
    return directory


@pytest.fixture
def controller(image: Archive, root: Path, home: Path, socket_directory: Path) -> Iterator[Container]:
    """The controller, ready."""
    place = controller_place(socket_directory)
    with Container(image, root, home / "log", place, "controller", *SERVE) as container:
        wait_until(lambda: container.answers(socket_directory / "csi.sock"), "it is ready", seconds=START_SECONDS)
        yield container


def test_sigterm_ends_it_well_and_the_socket_goes(controller: Container, socket_directory: Path) -> None:
    controller.send(signal.SIGTERM)
    assert controller.wait(END_SECONDS) == os.EX_OK, controller.text()
    assert "stopped" in controller.text()
    assert not (socket_directory / "csi.sock").exists()


def test_it_is_the_first_process_and_no_one_s_root(controller: Container) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{controller.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["NSpid"].split()[-1] == "1"
    assert status["Uid"].split() == [str(USER)] * 4
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    written = controller.run("/opt/rds-csi/bin/python3", "-c", "open('/opt/rds-csi/x', 'w')")
    assert "Read-only file system" in written.stderr or "Permission denied" in written.stderr


def test_orphans_are_reaped(controller: Container) -> None:
    # The middle process ends first: its child has lost its parent when it ends itself.
    orphan = "import os, time\nif os.fork() == 0:\n    time.sleep(0.5)\n"
    for _ in range(3):
        assert controller.run("/opt/rds-csi/bin/python3", "-c", orphan).returncode == 0
    namespace = os.readlink(f"/proc/{controller.pid}/ns/pid")

    def zombies() -> list[str]:
        return [pid for pid, state in processes(namespace) if state == "Z"]

    wait_until(lambda: len(processes(namespace)) <= 2 and not zombies(), "nothing is left of the orphans")


def processes(namespace: str) -> list[tuple[str, str]]:
    """Number and state of each process in a PID namespace (proc_pid_stat(5))."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(directory / "ns/pid") == namespace:
                found.append((directory.name, (directory / "stat").read_text().rpartition(")")[2].split()[0]))
        except OSError:
            # It has ended meanwhile.
            continue
    return found


@pytest.mark.timeout(SANITY_SECONDS + 120)
def test_csi_sanity_passes_without_root(
    image: Archive, root: Path, home: Path, socket_directory: Path, csi_sanity: str, measured: list[str]
) -> None:
    # The tool asks a node for its id: both halves are served. The node's own part needs root: test_node.py has it.
    place = controller_place(socket_directory)
    flags = (*SERVE, "--node-id", "node-1", "--max-volumes-per-node", "4", "--state-dir", "/csi/state")
    with Container(image, root, home / "log", place, "all", *flags) as container:
        socket = socket_directory / "csi.sock"
        wait_until(lambda: container.answers(socket), "it is ready", seconds=START_SECONDS)
        part = ("-ginkgo.skip=Node Service",)
        report = run_sanity(csi_sanity, socket, socket_directory, access_type="mount", flags=part)
        assert container.terminate() == os.EX_OK
    assert report.failed == (), report.output
    assert [name for name in report.skipped if not name.startswith("Node Service")] == []
    assert len(report.passed) + len(report.skipped) == RUNNABLE_SPECS
    assert len(report.passed) > len(report.skipped)
    measured.append(f"csi-sanity against the image, without root, identity and controller: {len(report.passed)} passed")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), os.EX_OK, "usage: rds-csi"),
        (("--help",), os.EX_OK, "usage: rds-csi"),
        (("--version",), os.EX_OK, f"rds-csi {__version__}"),
        (("node", "--help"), os.EX_OK, "--kubelet-registration-dir"),
        (("controller", "--array", "nonsense"), 2, "is not a URL"),
    ],
)
def test_commands_answer(
    image: Archive, root: Path, home: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    with Container(image, root, home / "log", Place(USER), *words) as container:
        assert container.wait() == status, container.text()
    assert said in container.text()
