"""Programs that stand before the real ones in a driver's PATH and misbehave, and what runs of them."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TOOL_SECONDS = 30.0
# What connectors and filesystems start, and what a stand-in that hangs is made of.
PROGRAMS = frozenset({"nvme", "dd", "modprobe", "mount", "umount", "mkfs.ext4", "sleep"})


class StandIns:
    """A directory for a PATH. A stand-in is a shell script that may call the real program as ``$real``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    @contextmanager
    def put(self, name: str, script: str) -> Iterator[None]:
        """``script`` instead of the program ``name`` for the block."""
        program = self.directory / name
        # In one step: a driver that starts the program in this moment finds a whole one.
        whole = self.directory / f"{name}.new"
        whole.write_text(f"#!/bin/sh\nreal={real(name)}\n{script}\n")
        whole.chmod(0o755)
        whole.rename(program)
        try:
            yield
        finally:
            program.unlink()

    @contextmanager
    def hidden(self, name: str) -> Iterator[None]:
        """The program ``name`` cannot be executed by anybody on the machine for the block."""
        plain = self.directory / f"{name}.hidden"
        plain.touch(mode=0o644)
        program = real(name)
        subprocess.run(["mount", "--bind", str(plain), program], check=True, timeout=_TOOL_SECONDS)
        try:
            yield
        finally:
            subprocess.run(["umount", program], check=True, timeout=_TOOL_SECONDS)
            plain.unlink()


def real(name: str) -> str:
    """The path of the real program; AssertionError when it is not installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")
    assert found, f"{name} is not installed"
    return found


def running(*names: str) -> list[str]:
    """Processes by program name (proc_pid_comm(5)), without ``names`` all of PROGRAMS: "pid name state"."""
    wanted = frozenset(names) or PROGRAMS
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text()
        except OSError:
            # Ended between the listing and the reading.
            continue
        name, state = status.partition("(")[2].rpartition(")")[0], status.rpartition(")")[2].split()[0]
        if name in wanted:
            found.append(f"{process.name} {name} {state}")
    return found


def kill(processes: list[str]) -> None:
    """End what ``running`` has listed."""
    for process in processes:
        try:
            os.kill(int(process.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue
