"""What the lane changes on the machine outside of its directory and its nodes' namespaces, and how it is put back."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.traces import loops_below
from tests.support.waiting import wait_until

# The kubelet writes these (k8s.io/kubernetes/pkg/kubelet/cm, setupKernelTunables).
SYSCTLS = tuple(
    Path("/proc/sys") / name
    for name in (
        "kernel/keys/root_maxbytes",
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "vm/overcommit_memory",
        "vm/panic_on_oom",
    )
)
_CGROUPS = Path("/sys/fs/cgroup")
# The control group of everything that a kubelet runs: containerd's name for it.
_CGROUP = "k8s.io"

_TOOL_SECONDS = 30.0
_DEATH_SECONDS = 15.0


class Machine:
    """This machine for the time of one cluster, whose files are below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sysctls = {path: path.read_text() for path in SYSCTLS if path.exists()}

    def restore(self) -> None:
        """Every process of every container is ended, no loop device reads the directory's files, all is put back."""
        kill_all(self._directory)
        for loop in loops_below(self._directory):
            subprocess.run(["losetup", "--detach", f"/dev/{loop.split()[0]}"], check=True, timeout=_TOOL_SECONDS)
        for path, value in self._sysctls.items():
            if path.read_text() != value:
                path.write_text(value)
        for group in cgroups():
            # Another cluster on this machine may use it by now.
            with contextlib.suppress(OSError):
                group.rmdir()


def kill_all(directory: Path) -> None:
    """End all of ``container_processes``."""
    for pid in container_processes(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not container_processes(directory), "its processes are gone", seconds=_DEATH_SECONDS)


def container_processes(directory: Path) -> list[int]:
    """The processes of all containers whose runtime's files are below a directory, and the shims that hold them."""
    commands, children = _processes()
    mark = f"{directory}/".encode()
    found = [pid for pid, command in commands.items() if b"containerd-shim" in command and mark in command]
    # A shim is the reaper of its containers: whatever is orphaned in them becomes its child (prctl(2)).
    for pid in found:
        found.extend(children.get(pid, []))
    return sorted(found)


def _processes() -> tuple[dict[int, bytes], dict[int, list[int]]]:
    """Of every process the command line, and its children (proc_pid_stat(5))."""
    commands: dict[int, bytes] = {}
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            state, parent = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            # Ended between the listing and the reading.
            continue
        if state not in "ZX":
            commands[int(process.name)] = command
            children.setdefault(int(parent), []).append(int(process.name))
    return commands, children


def cgroups(identity: str = "") -> list[Path]:
    """The control groups of all containers, or of one by containerd's id, in every hierarchy (cgroups(7), both
    versions), children first."""
    name = f"{_CGROUP}/{identity}" if identity else _CGROUP
    tops = [_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")]
    return [group for top in tops if top.exists() for group in _groups_below(top)]


def _groups_below(top: Path) -> Iterator[Path]:
    for path, _, _ in os.walk(top, topdown=False):
        yield Path(path)
