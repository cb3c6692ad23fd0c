"""A real ``rds-csi`` process for tests and benchmarks: started, probed, stopped or killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from rds_csi.csi.v1 import IdentityStub, ProbeRequest

# Far above what a start takes on a loaded machine, inside an emulated one too.
START_SECONDS = 90.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.01


class Driver:
    """``rds-csi ROLE`` with the given flags; its socket, state and log lie below ``directory``."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        role: str = "all",
        path: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``path``: directories that come before $PATH, for tools that a test put there; ``environment``: variables
        that are set beside this process's own."""
        self.socket = directory / "csi.sock"
        self.log = directory / "driver.log"
        self._argv = [
            *(sys.executable, "-m", "rds_csi", role),
            *("--endpoint", f"unix://{self.socket}"),
            *(() if role == "controller" else ("--state-dir", str(directory / "state"))),
            *flags,
        ]
        self._environment = {**os.environ, **(environment or {})}
        if path:
            self._environment["PATH"] = f"{path}:{os.environ['PATH']}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start, wait for the first good Probe, and return the seconds that it took."""
        begun = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        while not asyncio.run(probe(self.socket)):
            if self._process.poll() is not None:
                raise AssertionError(f"rds-csi ended with {self._process.returncode}:\n{self.text()}")
            if time.monotonic() - begun > START_SECONDS:
                self.kill()
                raise AssertionError(f"rds-csi was not ready within {START_SECONDS} s:\n{self.text()}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - begun

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL, as the kernel's memory killer would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        """The end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-20_000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            status = self.terminate()
            if kind is None:
                assert status == os.EX_OK, f"SIGTERM ended rds-csi with {status}:\n{self.text()}"
        if kind is not None:
            print(self.text(), file=sys.stderr)


async def probe(socket: Path) -> bool:
    """Whether the server answers ready."""
    channel = Channel(path=str(socket))
    try:
        return bool((await IdentityStub(channel).probe(ProbeRequest(), timeout=10)).ready)
    except (OSError, GRPCError, StreamTerminatedError, TimeoutError):
        return False
    finally:
        channel.close()
