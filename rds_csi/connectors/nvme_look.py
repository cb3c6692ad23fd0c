"""What the session that is there means for a wish to connect: a pure judgement of one look into sysfs."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.sessions import Controller, Session


class Standing(Enum):
    """What to do about a session."""

    ABSENT = "connect"
    USABLE = "use it as it is"
    COMING = "wait until it is live"
    LEAVING = "wait until it is gone"
    # The kernel tries addresses at which the array is not any more.
    MOVED = "connect the new portals, or all anew"
    STALE = "disconnect it when nobody uses it, and connect anew"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``why`` says of MOVED and STALE what is wrong with the session."""

    standing: Standing
    why: str = ""


def judge(
    session: Session | None, target: NvmeTarget, identity: HostIdentity, addresses: Collection[str] = ()
) -> Verdict:
    """The standing of ``session`` for this host's ``identity``.

    ``addresses`` are the IP addresses of the target's portals, empty where they are not known.
    """
    if session is None or not session.controllers:
        return Verdict(Standing.ABSENT)
    staying = [controller for controller in session.controllers if not _is_leaving(controller)]
    if not staying:
        return Verdict(Standing.LEAVING)
    ours = [controller for controller in staying if is_of(controller, identity)]
    if not ours:
        return Verdict(Standing.STALE, f"it was connected under another host identity, {staying[0].hostnqn}")
    if any(controller.is_live for controller in ours):
        return Verdict(Standing.USABLE)
    coming = [controller for controller in ours if controller.is_coming]
    if not coming:
        return Verdict(Standing.STALE, f"the kernel has given it up: {session.states}")
    if addresses and not any(is_portal(controller, addresses, target.port) for controller in coming):
        named = ", ".join(f"{address}:{target.port}" for address in addresses)
        return Verdict(Standing.MOVED, f"the kernel looks for the array at {coming[0].portal}, and it is at {named}")
    return Verdict(Standing.COMING)


def is_of(controller: Controller, identity: HostIdentity) -> bool:
    """Whether the controller was connected as this host. A kernel that does not show it is believed."""
    return controller.hostnqn in ("", identity.hostnqn) and controller.hostid.lower() in ("", identity.hostid)


def is_portal(controller: Controller, addresses: Collection[str], port: int) -> bool:
    """Whether the controller is a path through one of the portals."""
    return normal(controller.traddr) in addresses and controller.trsvcid == str(port)


def lacking(session: Session | None, addresses: Collection[str], port: int) -> tuple[str, ...]:
    """The addresses through which the session has no path, and none on its way."""
    paths = session.controllers if session is not None else ()
    held = {normal(c.traddr) for c in paths if c.trsvcid == str(port) and (c.is_live or c.is_coming)}
    return tuple(address for address in addresses if address not in held)


def normal(address: str) -> str:
    """One way to write an IP address; what is none stays as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _is_leaving(controller: Controller) -> bool:
    # drivers/nvme/host/sysfs.c: "deleting" and "deleting (no IO)".
    return controller.state.startswith("deleting")
