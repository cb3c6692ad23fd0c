"""Host identity across the cluster: nodes that show arrays the same host NQN, as the attachments tell.

An array that lets hosts in by their NQN cannot tell such nodes apart: what is granted to one is granted to the other,
and shutting one out shuts out both. It comes of cloned machine images, /etc/nvme included.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rds_csi.errors import DriverError, FailedPrecondition
from rds_csi.metrics import Metrics
from rds_csi.model.notices import Announce, Notice, Reason, announce_nothing
from rds_csi.model.volumes import Finding, Node, Volume
from rds_csi.services.nodes import name_of

log = logging.getLogger(__name__)

SUBJECT = "host identity"
# Several such pairs are named up to here.
_TOLD = 5

_WHY = "the array cannot tell them apart, so that each can write to the other's volumes"
_REMEDY = (
    "Drain one of them and give it an identity of its own: uuidgen > /etc/nvme/hostid; "
    'echo "nqn.2014-08.org.nvmexpress:uuid:$(cat /etc/nvme/hostid)" > /etc/nvme/hostnqn; '
    "then restart its node plugin, so that it registers anew."
)


class HostNqns:
    """Which node names show which host NQN, by the attachments of all volumes on the array."""

    def __init__(
        self,
        volumes: Callable[[], Awaitable[Sequence[Volume]]],
        metrics: Metrics,
        announce: Announce = announce_nothing,
    ) -> None:
        """``volumes`` gives all volumes of the array (``Array.list_volumes``). ``announce`` is told of every node that
        has not a host NQN of its own, at each check."""
        self._volumes = volumes
        self._metrics = metrics
        self._announce = announce
        # Host NQN → names of the nodes; None until the first look.
        self._names: dict[str, set[str]] | None = None

    async def check(self) -> list[Finding]:
        """Look at all attachments; one finding for all host NQNs that several nodes have. For ``watch.Watch``.

        An array that is away is another check's to tell: then the last outcome stands.
        """
        try:
            await self._look()
        except DriverError as error:
            log.debug("the host NQNs could not be compared: %s", error)
        else:
            for host_nqn, nodes in _duplicates(self._names or {}).items():
                self._tell(host_nqn, nodes)
        return _findings(self._names or {})

    async def admit(self, node: Node, volume: Volume) -> None:
        """FailedPrecondition, naming both nodes, when another node has an attachment under the same host NQN, of this
        volume or of any; else the node is remembered as one that is about to have one."""
        if not node.host_nqn:
            return
        name = name_of(node.node_id)
        here = {name_of(item.node.node_id) for item in volume.attachments if item.node.host_nqn == node.host_nqn}
        names = here | (self._names or {}).get(node.host_nqn, set())
        if self._names is None or names - {name}:
            # What was seen may be over: a node that registered under a new name, say, and left the old one behind.
            names = here | (await self._look()).get(node.host_nqn, set())
        if others := sorted(names - {name}):
            self._tell(node.host_nqn, sorted({name, *others}))
            raise FailedPrecondition(
                f"node {name} has the same host NQN as {', '.join(others)}, to which volumes are attached: "
                f"{node.host_nqn}; shutting one of them out would shut out neither or both",
                remedy=_REMEDY,
            )
        if self._names is not None:
            self._names.setdefault(node.host_nqn, set()).add(name)

    def _tell(self, host_nqn: str, nodes: Sequence[str]) -> None:
        """A notice on each of the nodes, naming the others."""
        for node in nodes:
            others = [name for name in nodes if name != node][:_TOLD]
            message = f"this node has the same host NQN as {', '.join(others)}: {host_nqn}; {_WHY}. {_REMEDY}"
            self._announce(Notice(Reason.DUPLICATE_HOST_IDENTITY, message, warning=True, node=node))

    async def _look(self) -> Mapping[str, set[str]]:
        names: dict[str, set[str]] = {}
        for volume in await self._volumes():
            for attachment in volume.attachments:
                if attachment.node.host_nqn:
                    names.setdefault(attachment.node.host_nqn, set()).add(name_of(attachment.node.node_id))
        self._names = names
        self._metrics.duplicate_hosts.set(len(_duplicates(names)))
        return names


def _duplicates(names: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {nqn: sorted(nodes) for nqn, nodes in sorted(names.items()) if len(nodes) > 1}


def _findings(names: Mapping[str, set[str]]) -> list[Finding]:
    duplicates = _duplicates(names)
    if not duplicates:
        return [Finding(SUBJECT, True, "every node with an attachment has a host NQN of its own")]
    told = [f"nodes {' and '.join(nodes)} have the same host NQN {nqn}" for nqn, nodes in duplicates.items()]
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return [Finding(SUBJECT, False, f"{'; '.join(told[:_TOLD])}{more}: {_WHY}", _REMEDY)]
