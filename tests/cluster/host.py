"""What makes a node a host of its own: a network namespace, and a mount namespace in which every path that is built
into the kubelet, the runtime, CNI and the chart's defaults lies in the node's directory.

So nodes share this machine without seeing each other's files and ports, and all mounts go with the last process.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.processes import Processes

OWN_PATHS = (
    Path("/etc/nvme"),
    Path("/run/containerd"),
    Path("/run/udev"),
    Path("/var/lib/cni"),
    Path("/var/lib/kubelet"),
    Path("/var/lib/rds-csi"),
    Path("/var/log/containers"),
    Path("/var/log/pods"),
)
# In these the mount points are made; on the machine itself nothing is.
_COVERED = ("etc", "run", "var/lib", "var/log")
_NAMESPACES = ("mnt", "net")

_START_SECONDS = 10.0
_MOUNT_SECONDS = 10.0


class Host:
    """The namespaces of one node, held by a process that sleeps."""

    def __init__(self, directory: Path, name: str, processes: Processes) -> None:
        self._directory = directory
        self._name = f"host-{name}"
        self._processes = processes

    def start(self) -> None:
        """The namespaces are there. All mounts are shared in it, as systemd has them, but not with this machine."""
        unshare = ["unshare", "--mount", "--net", "--propagation=private", "sleep", "infinity"]
        self._processes.start(self._name, unshare)
        self._processes.wait_until(self._is_apart, f"{self._name} is a host of its own", _START_SECONDS)
        for name in _COVERED:
            self._cover(name)
        self._run("mount", "--make-rshared", "/")
        self._run("mkdir", "--parents", *map(str, OWN_PATHS))
        for path in OWN_PATHS:
            own = self.own(path)
            own.mkdir(parents=True, exist_ok=True)
            self._run("mount", "--bind", str(own), str(path))
            self._run("mount", "--make-shared", str(path))

    def power_off(self) -> None:
        """The namespaces go with their last process; the directories stay."""
        self._processes.kill(self._name)

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        return self._processes.pid(self._name)

    def own(self, path: Path) -> Path:
        """Where one of OWN_PATHS, or what is below it, lies on this machine."""
        return self._directory / "root" / path.relative_to("/")

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` in the namespaces, as the same process."""
        directory = f"/proc/{self.pid}/ns"
        return ["nsenter", f"--mount={directory}/mnt", f"--net={directory}/net", "--", *argv]

    def mounts(self) -> list[str]:
        """Mount points of the host (proc_pid_mountinfo(5)), in the order of mounting."""
        lines = Path(f"/proc/{self.pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
        return [line.split()[4] for line in lines]

    def _cover(self, name: str) -> None:
        """A directory of the machine is seen, but what is made in it stays in the node's own (overlayfs)."""
        layer, work = self._directory / "cover" / name, self._directory / "cover-work" / name
        layer.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir=/{name},upperdir={layer},workdir={work}"
        self._run("mount", "-t", "overlay", "-o", options, "overlay", f"/{name}")

    def _is_apart(self) -> bool:
        links = [(Path(f"/proc/{self.pid}/ns/{kind}"), Path(f"/proc/self/ns/{kind}")) for kind in _NAMESPACES]
        return all(theirs.readlink() != ours.readlink() for theirs, ours in links)

    def _run(self, *words: str) -> None:
        subprocess.run(self.inside(words), check=True, timeout=_MOUNT_SECONDS)
