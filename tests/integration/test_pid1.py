"""rds-csi as the first process of a container, in a real PID namespace: nothing dead stays, no signal is lost."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.driver import probe
from tests.support.waiting import wait_until

ORPHANS = 10
# Each orphan lives for this long: enough to be seen alive.
ORPHAN_SECONDS = 2
# From SIGTERM to the end of a server without running calls, on a busy machine; a signal that is lost costs 30.
END_SECONDS = 5.0
# Far above any of these commands on a loaded machine.
DEMO_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it is seen in its own PID namespace (proc_pid_stat(5))."""

    pid: int
    parent: int
    state: str


class Container:
    """A PID namespace with its own /proc, whose first process is ``rds-csi`` with some arguments."""

    def __init__(self, *arguments: str) -> None:
        self._unshare = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *(sys.executable, "-m", "rds_csi", *arguments),
            ],
            stdin=subprocess.DEVNULL,
        )

    @property
    def first(self) -> int:
        """The first process's id out here; 0 while there is none."""
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text(encoding="ascii")
        return int(children.split()[0]) if children else 0

    def processes(self) -> list[Process]:
        """All that is in the namespace, in the order of their ids."""
        first = self.first
        found = []
        for directory in Path(f"/proc/{first}/root/proc").glob("[0-9]*") if first else ():
            try:
                stat = (directory / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            found.append(Process(int(directory.name), int(parent), state))
        return sorted(found, key=lambda process: process.pid)

    def runs_its_command(self) -> bool:
        """Whether the command has been started below the first process."""
        if not self.first or not Path(f"/proc/{self.first}/cmdline").read_bytes().startswith(
            os.fsencode(sys.executable)
        ):
            # It is still unshare, and its /proc may be the one out here.
            return False
        return [process.pid for process in self.processes()][:2] == [1, 2]

    def run(self, script: str) -> None:
        """Run a shell script in the namespace, as a child of nobody in it."""
        subprocess.run(["nsenter", f"--pid=/proc/{self.first}/ns/pid", "sh", "-c", script], check=True, timeout=30)

    def terminate(self) -> tuple[int, float]:
        """SIGTERM to the first process: the exit status, and the seconds until then."""
        begun = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        return self.wait(30), time.monotonic() - begun

    def wait(self, seconds: float) -> int:
        """The exit status."""
        return self._unshare.wait(seconds)

    def end(self) -> None:
        """Kill everything that is left."""
        self._unshare.kill()
        self._unshare.wait(30)


@contextmanager
def container(*arguments: str) -> Iterator[Container]:
    made = Container(*arguments)
    try:
        yield made
    finally:
        made.end()


@contextmanager
def controller(home: Path) -> Iterator[Container]:
    """A controller that answers."""
    socket = home / "csi.sock"
    flags = ("--endpoint", f"unix://{socket}", "--array", f"local://{home}/array", "--connector", "memory")
    with container("controller", *flags) as made:
        wait_until(lambda: asyncio.run(probe(socket)), "the controller answers", seconds=90)
        yield made


def test_orphans_are_reaped(home: Path) -> None:
    with controller(home) as made:
        made.run(f"for i in $(seq {ORPHANS}); do sleep {ORPHAN_SECONDS} & done")
        adopted = [process for process in made.processes() if process.parent == 1]
        assert len(adopted) == ORPHANS + 1
        wait_until(lambda: [p.pid for p in made.processes()] == [1, 2], "only the command is left, and no zombie")
        assert made.terminate()[0] == 0


def test_sigterm_ends_a_server_soon_and_clean(home: Path) -> None:
    with controller(home) as made:
        status, seconds = made.terminate()
    assert status == 0
    assert seconds < END_SECONDS
    assert not (home / "csi.sock").exists()


def test_sigterm_before_the_loop_is_up_is_not_lost(home: Path) -> None:
    with container("controller", "--endpoint", f"unix://{home}/csi.sock", "--array", f"local://{home}/array") as made:
        wait_until(made.runs_its_command, "the command is started")
        status, seconds = made.terminate()
    assert status in (0, 128 + signal.SIGTERM)
    assert seconds < END_SECONDS


@pytest.mark.parametrize(
    "arguments",
    [("simulate", "--ssh", "127.0.0.1:0", "--https", "127.0.0.1:0"), ("sweep", "--interval", "60", "--dry-run")],
    ids=["simulate", "sweep"],
)
def test_other_commands_end_on_sigterm_too(arguments: tuple[str, ...]) -> None:
    with container(*arguments) as made:
        wait_until(made.runs_its_command, "the command is started")
        # Handlers are there, or the default action is: either way it ends.
        status, seconds = made.terminate()
    assert status in (0, 128 + signal.SIGTERM)
    assert seconds < END_SECONDS


def test_exit_statuses_of_the_commands_own_children_are_not_taken_from_it() -> None:
    # The demo runs every tool of a volume's life and looks at each exit status.
    with container("demo") as made:
        assert made.wait(DEMO_SECONDS) == 0
