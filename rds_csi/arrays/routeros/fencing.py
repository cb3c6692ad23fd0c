"""Which hosts the array lets in: what a disk's attachments mean for its export. Pure."""

from collections.abc import Mapping, Sequence

from rds_csi.arrays.routeros.options import Fencing
from rds_csi.arrays.routeros.records import Disk
from rds_csi.errors import FailedPrecondition
from rds_csi.model.names import check_nqn
from rds_csi.model.volumes import Attachment

EXPORT = "nvme-tcp-export"
ALLOW_HOSTS = "nvme-tcp-server-allow-host-name"
# UNVERIFIED on a device: the manual speaks of "hostnames" in one string value and does not say what is between them.
HOST_SEPARATOR = ","


def is_exported(fencing: Fencing, attachments: Sequence[Attachment]) -> bool:
    """Whether a volume with these attachments is exported. An empty list of hosts would let everybody in, so a fenced
    volume without attachments is not exported at all."""
    return fencing is Fencing.NONE or bool(attachments)


def allowed_hosts(fencing: Fencing, attachments: Sequence[Attachment]) -> tuple[str, ...]:
    """The host NQNs that are let in; () for everybody."""
    if fencing is not Fencing.ALLOW_HOST:
        return ()
    return tuple(dict.fromkeys(item.node.host_nqn for item in attachments))


def yes_or_no(value: bool) -> str:
    """As RouterOS writes it."""
    return "yes" if value else "no"


def changes(fencing: Fencing, attachments: Sequence[Attachment], disk: Disk) -> Mapping[str, str]:
    """The properties of ``disk`` that must be set; only those that differ, as setting an export anew may cut sessions.

    What the device lists of hosts is nobody's business but that of ``allow-host``.
    """
    properties = {}
    if disk.exported != is_exported(fencing, attachments):
        properties[EXPORT] = yes_or_no(not disk.exported)
    hosts = allowed_hosts(fencing, attachments)
    # No hosts at all would mean everybody: a disk that is not exported any more keeps the last ones.
    if hosts and sorted(hosts) != sorted(disk.allow_hosts):
        properties[ALLOW_HOSTS] = HOST_SEPARATOR.join(hosts)
    return properties


def check_host(fencing: Fencing, attachment: Attachment, others: Sequence[Attachment]) -> None:
    """FailedPrecondition when the node cannot be told from another; InvalidArgument for a name that is no NQN."""
    node = attachment.node
    if fencing is Fencing.ALLOW_HOST:
        check_nqn(node.host_nqn, f"the host NQN of node {node.node_id}")
    for other in others:
        if node.host_nqn and other.node.host_nqn == node.host_nqn and other.node.node_id != node.node_id:
            raise FailedPrecondition(
                f"the nodes {node.node_id} and {other.node.node_id} have the same host NQN {node.host_nqn}",
                remedy="Give each node an /etc/nvme/hostnqn and an /etc/nvme/hostid of its own.",
            )
