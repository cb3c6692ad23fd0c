"""What a cluster could leave on this machine; a lane that was well has left nothing of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.host import OWN_PATHS
from tests.cluster.machine import SYSCTLS, container_processes
from tests.cluster.network import BRIDGE, PREFIX
from tests.support.traces import files_below, loops_below, mounts_below

_IP_SECONDS = 10.0


def machine_state() -> dict[str, str]:
    """Settings and paths that must be the same before and after."""
    paths = {str(path): "there" if path.exists() else "not there" for path in OWN_PATHS}
    return paths | {str(path): path.read_text().strip() for path in SYSCTLS if path.exists()}


def leftovers(directory: Path) -> list[str]:
    """What is still there of a cluster below ``directory``, each as a line for a person."""
    return [f"{kind} {item}" for kind, items in _kinds(directory) for item in items]


def volume_traces(cluster: Cluster, array: Path) -> list[str]:
    """Files of volumes on the array and in the nodes' records, their loop devices and mounts."""
    found = files_below(array) + loops_below(cluster.directory)
    for node in cluster.nodes:
        found += files_below(node.host.own(Path("/var/lib/rds-csi/state")))
        found += [point for point in node.host.mounts() if "/csi/" in point or "kubernetes.io~csi" in point]
    return found


def _kinds(directory: Path) -> Iterator[tuple[str, list[str]]]:
    yield "file", [str(directory)] if directory.exists() else []
    yield "mount", mounts_below(directory)
    yield "loop device", loops_below(directory)
    yield "process", [str(pid) for pid in container_processes(directory)]
    addresses = subprocess.run(
        ["ip", "-brief", "address"], check=True, capture_output=True, text=True, timeout=_IP_SECONDS
    ).stdout.splitlines()
    yield "address", [line for line in addresses if BRIDGE in line or f" {PREFIX}." in line]
