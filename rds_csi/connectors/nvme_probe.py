"""Asking a portal in user space whether NVMe/TCP answers there, before the kernel is made to wait for it.

The kernel makes one connect after the other (nvmf_dev_mutex in drivers/nvme/host/fabrics.c), and a write that waits
for that lock cannot be killed: one array that is filtered (3 s) or accepts and stays mute (10 s) would hold up the
volumes of all others, and calls whose client has long gone.
"""

from collections.abc import Awaitable, Callable, Mapping

from rds_csi.connectors.budget import budget
from rds_csi.connectors.nvme_failures import Reason
from rds_csi.nvme.portal_probe import PortalState, probe_portal

# Seconds for the TCP connection and the first answer: a busy array takes milliseconds.
PROBE_SECONDS = 5.0

# Address, port and host_iface become what stands in the way, or None.
Probe = Callable[[str, int, str], Awaitable[Reason | None]]

_REASONS: Mapping[PortalState, Reason | None] = {
    PortalState.SPEAKS: None,
    PortalState.REFUSED: Reason.REFUSED,
    PortalState.UNREACHABLE: Reason.UNREACHABLE,
    PortalState.SILENT: Reason.TIMED_OUT,
    PortalState.MUTE: Reason.TIMED_OUT,
    PortalState.CLOSED: Reason.RESET,
    PortalState.OTHER: Reason.NO_NVME,
    PortalState.UNRESOLVED: Reason.UNRESOLVED,
    PortalState.NO_INTERFACE: Reason.NO_INTERFACE,
    # The kernel may be able to ask all the same.
    PortalState.NOT_ASKED: Reason.UNTOLD,
}


async def probe(address: str, port: int, host_iface: str = "") -> Reason | None:
    """Why no NVMe/TCP controller answers at the portal; None when one does, UNTOLD when this cannot be told.

    Leaves nothing behind: the connection is closed before anything is set up.
    """
    answer = await probe_portal(address, port, budget(PROBE_SECONDS), host_iface=host_iface)
    return reason_of(answer.state)


def reason_of(state: PortalState) -> Reason | None:
    """What a portal in that state means for a connect."""
    return _REASONS[state]
