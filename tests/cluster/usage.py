"""What runs on this machine for the cluster, and how much memory it takes."""

from dataclasses import dataclass
from pathlib import Path

from tests.cluster.api import Object, name_of
from tests.cluster.cluster import Cluster
from tests.cluster.machine import cgroups

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of some processes, in bytes: resident, and with what they share counted once (proc_pid_smaps(5))."""

    what: str
    resident: int
    proportional: int

    def __str__(self) -> str:
        return f"{self.what}: {self.proportional / _MIB:.1f} MiB ({self.resident / _MIB:.1f} MiB resident)"


def cluster_usage(cluster: Cluster) -> list[Usage]:
    """Each process of the cluster itself."""
    processes = cluster.processes
    return [_usage(name, [processes.pid(name)]) for name in sorted(processes.names())]


def pod_usage(pod: Object) -> list[Usage]:
    """Each container of a pod."""
    found = []
    for status in pod["status"].get("containerStatuses", []):
        identity = str(status.get("containerID", "")).rpartition("/")[2]
        found.append(_usage(f"{name_of(pod)} {status['name']}", container_pids(identity)))
    return found


def container_pids(identity: str) -> list[int]:
    """The processes of a container, by containerd's id."""
    return sorted({int(pid) for group in cgroups(identity) for pid in (group / "cgroup.procs").read_text().split()})


def _usage(what: str, pids: list[int]) -> Usage:
    sizes = [_sizes(pid) for pid in pids]
    return Usage(what, sum(size[0] for size in sizes), sum(size[1] for size in sizes))


def _sizes(pid: int) -> tuple[int, int]:
    """Rss and Pss of a process in bytes; nothing for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    values = {words[0]: int(words[1]) * _KIB for words in (line.split() for line in lines[1:])}
    return values["Rss:"], values["Pss:"]
