"""The cluster's processes on this machine: each with a log, all watched by every wait, ended by their ids."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_SECONDS = 0.1
# What a process gets between SIGTERM and SIGKILL.
STOP_SECONDS = 10.0
_LOG_CHARACTERS = 3000


class Processes:
    """Processes by name. Nothing is started again: one that ended is a failure of the lane."""

    def __init__(self, logs: Path) -> None:
        """``logs`` is a directory for NAME.log."""
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], **environment: str) -> None:
        """Start a process in a session and process group of its own."""
        assert name not in self._running, f"{name} runs already"
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self._logs / f"{name}.log"

    def names(self, prefix: str = "") -> list[str]:
        """Those that were started and not stopped, the newest first."""
        return [name for name in reversed(self._running) if name.startswith(prefix)]

    def pid(self, name: str) -> int:
        """The process id."""
        return self._running[name].pid

    def check(self) -> None:
        """AssertionError with the end of the log when one of them has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.text(name)}")

    def text(self, name: str) -> str:
        """The end of a log."""
        return self.log(name).read_text(errors="replace")[-_LOG_CHARACTERS:]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float, poll: float = POLL_SECONDS) -> float:
        """Return when ``condition()`` holds, with the seconds that it took.

        AssertionError after that time, and at once when a process has ended.
        """
        begun = time.monotonic()
        while not condition():
            self.check()
            if time.monotonic() - begun > seconds:
                raise AssertionError(f"after {seconds:g} s still not so: {what}")
            time.sleep(poll)
        return time.monotonic() - begun

    def stop(self, *names: str) -> None:
        """SIGTERM to all of them, SIGKILL to what is left after STOP_SECONDS."""
        going = [self._running.pop(name) for name in names if name in self._running]
        for process in going:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in going:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_SECONDS)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would be."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
