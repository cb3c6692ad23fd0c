"""Which nodes there are, and by which host NQN arrays know them.

CSI gives the controller nothing of a node but its id, so the host NQN travels in it: ``NAME`` or
``NAME#HOSTNQN``.
"""

from typing import Protocol

from rds_csi.errors import ConfigurationError, InvalidArgument, NotFound
from rds_csi.model.names import check_node_id, check_nqn
from rds_csi.model.volumes import Node

_SEPARATOR = "#"


def encode_node_id(name: str, host_nqn: str) -> str:
    """The CSI node id of a node; ConfigurationError when it would not be one (too long, blanks, ``#``)."""
    node_id = f"{name}{_SEPARATOR}{host_nqn}" if host_nqn else name
    try:
        if _SEPARATOR in name:
            raise InvalidArgument(f"the node's name has a {_SEPARATOR!r}: {name!r}")
        return check_node_id(node_id)
    except InvalidArgument as error:
        raise ConfigurationError(error.message, remedy="Choose another --node-id.") from None


def name_of(node_id: str) -> str:
    """The name in a node id, which stays the same when the node's host NQN changes."""
    return node_id.partition(_SEPARATOR)[0]


class NodeDirectory(Protocol):
    """The nodes that a controller may publish volumes to."""

    def lookup(self, node_id: str) -> Node:
        """The node of that id; NotFound when there is none."""
        ...


class LocalNodes:
    """Exactly one node: the one that this process serves itself."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def lookup(self, node_id: str) -> Node:
        if node_id != self._node.node_id:
            raise NotFound(f"node {node_id!r} does not exist: this driver serves {self._node.node_id!r} only")
        return self._node


class NamedNodes:
    """Every node that has a well-formed id: which ones there are, Kubernetes knows.

    ``needs_host_nqn``: the array lets in only the hosts that it was told (``ArrayTraits``).
    """

    def __init__(self, *, needs_host_nqn: bool) -> None:
        self._needs_host_nqn = needs_host_nqn

    def lookup(self, node_id: str) -> Node:
        name, _, host_nqn = node_id.partition(_SEPARATOR)
        if not name:
            raise NotFound(f"node {node_id!r} does not exist: its id has no name")
        if host_nqn:
            try:
                check_nqn(host_nqn)
            except InvalidArgument:
                raise NotFound(f"node {node_id!r} does not exist: its id ends with no host NQN") from None
        elif self._needs_host_nqn:
            raise NotFound(
                f"node {node_id!r} has told no host NQN, and this array lets in known hosts only",
                remedy="Run the node with an NVMe connector (--connector nvme-cli), and let it register again.",
            )
        return Node(node_id, host_nqn)
