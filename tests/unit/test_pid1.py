"""The first process of a container: an exit status for an exit status, a signal for a signal."""

import os
import signal
import subprocess
import sys

import pytest

from rds_csi.pid1 import run_below_init

# A first process is made believe: what needs a real PID namespace is in the integration lane.
_PROGRAM = """
import os, signal, sys
from rds_csi.pid1 import run_below_init

def command():
    {command}

sys.exit(run_below_init(command, pid=1))
"""


def start(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _PROGRAM.format(command=command)], stdout=subprocess.PIPE, text=True)


def status_of(command: str) -> int:
    with start(command) as process:
        return process.wait(30)


def test_anybody_else_runs_the_command_in_this_very_process() -> None:
    pids: list[int] = []

    def command() -> int:
        pids.append(os.getpid())
        return 7

    assert run_below_init(command) == 7
    assert pids == [os.getpid()]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("return 0", 0),
        ("return 3", 3),
        ("sys.exit(4)", 4),
        ("raise RuntimeError", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + signal.SIGTERM),
    ],
)
def test_the_status_is_the_commands_own(command: str, status: int) -> None:
    assert status_of(command) == status


def test_the_command_runs_below_the_first_process_with_no_signal_blocked() -> None:
    with start("print(os.getppid(), signal.pthread_sigmask(signal.SIG_BLOCK, [])); return 0") as process:
        assert process.communicate(timeout=30)[0] == f"{process.pid} set()\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command(number: int) -> None:
    handle = f"signal.signal({number}, lambda *_: os._exit(42)); print('up', flush=True); signal.pause(); return 0"
    with start(handle) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(30) == 42


def test_a_command_without_a_handler_is_ended_by_the_signal() -> None:
    with start("print('up', flush=True); signal.pause(); return 0") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


def test_children_of_the_command_are_left_to_it() -> None:
    assert status_of("import subprocess; return subprocess.run(['sh', '-c', 'exit 9']).returncode") == 9
