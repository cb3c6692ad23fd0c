"""Addresses of the cluster: none of them leaves this machine.

The machine has a bridge with the API server's address. Every node has a network namespace of its own, with one end of
a veth(4) pair on that bridge; its pods are on a bridge inside of it.
"""

import json
import subprocess
from pathlib import Path

BRIDGE = "rds-csi-lane"
# All addresses of the cluster begin so.
PREFIX = "10.213"

# The first address of the services' range is that of the API server: pods find it in KUBERNETES_SERVICE_HOST.
SERVICES = f"{PREFIX}.255.0/24"
API_ADDRESS = f"{PREFIX}.255.1"
API_PORT = 443
_GATEWAY = f"{PREFIX}.0.254"
# Locally administered (IEEE 802).
_BRIDGE_MAC = "02:72:64:73:00:01"

_IP_SECONDS = 10.0


def node_address(index: int) -> str:
    """The address of the node with that index, from 0."""
    return f"{PREFIX}.0.{index + 1}"


class Network:
    """The machine's side of it, from ``up`` to ``down``."""

    def up(self) -> None:
        """AssertionError when it is there already."""
        there = Path("/sys/class/net", BRIDGE).exists()
        assert not there, f"{BRIDGE} is there: another cluster runs on this machine, or was killed with SIGKILL"
        # Without one of its own a bridge takes the address of a port, and another when ports come and go: then nodes
        # that have asked for it before reach nobody for many seconds.
        _ip("link", "add", BRIDGE, "address", _BRIDGE_MAC, "type", "bridge")
        _ip("address", "add", f"{_GATEWAY}/24", "dev", BRIDGE)
        _ip("address", "add", f"{API_ADDRESS}/32", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def connect(self, pid: int, index: int) -> None:
        """Connect the network namespace of a process, as that of the node with that index."""
        ours = f"{BRIDGE}{index}"
        # Of a host that was powered off: the kernel takes its time.
        _ip("link", "del", ours, check=False)
        _ip("link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("link", "set", ours, "master", BRIDGE, "up")
        _ip("link", "set", "lo", "up", inside=pid)
        _ip("address", "add", f"{node_address(index)}/24", "dev", "eth0", inside=pid)
        _ip("link", "set", "eth0", "up", inside=pid)
        _ip("route", "add", "default", "via", _GATEWAY, inside=pid)
        _ip("route", "replace", _pod_addresses(index), "via", node_address(index))

    def down(self) -> None:
        """Remove what is there of it. The nodes' ends go with their processes."""
        _ip("link", "del", BRIDGE, check=False)


def write_cni(directory: Path, index: int) -> None:
    """The network of the pods of one node. As their gateway the node forwards; the machine does not."""
    directory.mkdir(exist_ok=True)
    ipam = {
        "type": "host-local",
        "dataDir": f"{directory}-addresses",
        "ranges": [[{"subnet": _pod_addresses(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}
    config = {"cniVersion": "0.4.0", "name": "lane", "plugins": [bridge]}
    (directory / "10-lane.conflist").write_text(json.dumps(config))


def _pod_addresses(index: int) -> str:
    return f"{PREFIX}.{index + 1}.0/24"


def _ip(*words: str, inside: int = 0, check: bool = True) -> None:
    """ip(8), in the network namespace of the process ``inside``."""
    enter = ["nsenter", f"--net=/proc/{inside}/ns/net", "--"] if inside else []
    subprocess.run([*enter, "ip", *words], check=check, timeout=_IP_SECONDS, capture_output=not check)
