"""The doctor on sessions and portals: what the kernel has, and whether each known portal speaks NVMe/TCP."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from rds_csi.commands.doctor.findings import Result, missing, ok, together, warning
from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import DEFAULT_NVME_PORT, NvmeTarget, check_address
from rds_csi.nvme.portal_probe import PortalAnswer, probe_portal
from rds_csi.nvme.sessions import Session, SessionIndex

# From the SYN to the ICResp; an array that needs longer is not well.
PROBE_SECONDS = 5.0
# Portals that are asked at once.
_PROBES = 64

Probe = Callable[[str, int, float], Awaitable[PortalAnswer]]


@dataclass(frozen=True, slots=True)
class Portal:
    """An address (or host name) and a port."""

    address: str
    port: int = DEFAULT_NVME_PORT

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def parse_portal(text: str) -> Portal:
    """``ADDRESS``, ``ADDRESS:PORT``, ``[V6]:PORT`` or a bare IPv6 address; ConfigurationError for anything else."""
    address, separator, port = text.rpartition(":")
    if not separator or (":" in address and not address.endswith("]")):
        address, port = text, str(DEFAULT_NVME_PORT)
    try:
        check_address(address.removeprefix("[").removesuffix("]"), "--portal")
        if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
            raise InvalidArgument(f"--portal {text!r} has no port between 1 and 65535")
    except InvalidArgument as error:
        raise ConfigurationError(error.message, remedy="It reads ADDRESS, ADDRESS:PORT or [IPV6]:PORT.") from None
    return Portal(address.removeprefix("[").removesuffix("]"), int(port))


def known_portals(
    given: Sequence[Portal], array: str, records: Sequence[StageRecord], sessions: Sequence[Session]
) -> Mapping[Portal, str]:
    """Every portal once, with where it is known from. ``array``: the array's URL."""
    found: dict[Portal, str] = {}
    for portal in given:
        found.setdefault(portal, "given")
    if (portal_of_array := _portal_of(array)) is not None:
        found.setdefault(portal_of_array, "of the array")
    for record in records:
        if isinstance(record.target, NvmeTarget):
            for address in record.target.addresses:
                found.setdefault(Portal(address, record.target.port), f"of volume {record.volume_id}")
    for session in sessions:
        for controller in session.controllers:
            if controller.transport == "tcp" and controller.traddr and controller.trsvcid.isdecimal():
                found.setdefault(Portal(controller.traddr, int(controller.trsvcid)), f"of session {session.nqn}")
    return found


def _portal_of(array: str) -> Portal | None:
    """The portal in ``nvmet://host:port?…``; None for other arrays, and for a URL that the server will refuse."""
    try:
        parts = urlsplit(array)
        if parts.scheme == "nvmet" and parts.hostname:
            return Portal(parts.hostname, parts.port or DEFAULT_NVME_PORT)
    except ValueError:
        pass
    return None


async def look_at_portals(portals: Mapping[Portal, str], probe: Probe = probe_portal) -> Sequence[Result]:
    """Ask all of them at once."""
    if not portals:
        return [
            warning("portals", "none is known, so none was asked", "Name the array's: rds-csi doctor --portal ADDRESS")
        ]
    places = asyncio.Semaphore(_PROBES)

    async def ask(portal: Portal, source: str) -> Result:
        async with places:
            answer = await probe(portal.address, portal.port, PROBE_SECONDS)
        message = f"{portal} ({source}) {answer.message}"
        return ok("portal", message) if answer.ok else missing("portal", message, answer.remedy)

    return await together(ask(portal, source) for portal, source in portals.items())


def sessions_of(index: SessionIndex, prefix: str) -> Sequence[Session]:
    """The sessions whose NQN begins with ``prefix``."""
    return [session for nqn, found in index.by_nqn.items() if nqn.startswith(prefix) for session in found]


def look_at_sessions(sessions: Sequence[Session], prefix: str) -> Sequence[Result]:
    """Every session of this driver that is not wholly live, and how many there are."""
    unwell = [result for session in sessions if (result := _unwell(session)) is not None]
    well = len(sessions) - len(unwell)
    summary = f"{len(sessions)} of {prefix}, {well} live on every path" if sessions else f"none of {prefix}"
    return [ok("sessions", summary), *unwell]


def _unwell(session: Session) -> Result | None:
    if session.controllers and all(controller.is_live for controller in session.controllers):
        return None
    message = f"{session.nqn}: {session.states}"
    if not session.controllers:
        remedy = "Something still holds its device: unmount it (rds-csi status tells of which volume it is)."
    elif session.is_live or session.is_coming:
        remedy = "The kernel goes on reconnecting; is the array up, and does the portal below answer?"
    else:
        remedy = "It does not come back by itself: rds-csi sweep --dry-run tells what would be done with it."
    return warning("session", message, remedy)
