"""What the first process of a container owes to it: children that lost their parent are reaped, signals arrive.

The kernel gives process 1 of a PID namespace two duties (pid_namespaces(7)). It inherits every orphan, and a dead one
stays a zombie until it is waited for. And a signal for which it has no handler is dropped: a SIGTERM that comes before
the event loop is up would be lost, and the container be killed at the end of its grace period.

So process 1 stays this small, and the command runs in a child, where signals mean what they always mean. Waiting for
everybody in the driver itself would take the exit statuses of its own children away from asyncio.
"""

import contextlib
import os
import signal
from collections.abc import Callable

# What people and container runtimes send to end or to ask a process; it is handed on to the command.
_HANDED_ON = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
# As a shell tells of a command that a signal ended.
_KILLED = 128


def run_below_init(command: Callable[[], int], *, pid: int | None = None) -> int:
    """The exit status of ``command()``: run in a child when this is process 1, and else right here.

    Call it before anything is imported that takes time or starts a thread. ``pid``: of this process.
    """
    if (os.getpid() if pid is None else pid) != 1:
        return command()
    waited_for = _HANDED_ON | {signal.SIGCHLD}
    # Ignored by whoever started the container, the kernel would reap alone and tell no status (wait(2)).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A blocked signal is not dropped but kept until it is asked for, from here on.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        return command()
    while True:
        number = signal.sigwaitinfo(waited_for).si_signo
        if number == signal.SIGCHLD:
            status = _reap_all(child)
            if status is not None:
                return status
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


def _reap_all(child: int) -> int | None:
    """Wait for all who have ended (one SIGCHLD may stand for many); the exit status of ``child`` when it is of them."""
    status = None
    while True:
        try:
            pid, found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            code = os.waitstatus_to_exitcode(found)
            status = code if code >= 0 else _KILLED - code
