"""The IP addresses of a target's portals: names are resolved, and an address that is given twice counts once."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from rds_csi.connectors.nvme_failures import Reason, failure
from rds_csi.errors import DeadlineExceeded, DriverError
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.portal_probe import Resolve, resolve

# Runs a blocking look-up off the event loop; its OSError comes through.
Call = Callable[[Callable[[], str]], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Addresses:
    """``found`` in the target's order; ``errors`` of the names that have no address just now."""

    found: tuple[str, ...]
    errors: tuple[DriverError, ...]


async def addresses_of(target: NvmeTarget, call: Call, resolve: Resolve = resolve) -> Addresses:
    """The addresses of the portals now: DNS may tell others at the next attempt."""
    looked_up = await asyncio.gather(*(_address(name, target, call, resolve) for name in target.addresses))
    return Addresses(
        tuple(dict.fromkeys(item for item in looked_up if isinstance(item, str))),
        tuple(item for item in looked_up if not isinstance(item, str)),
    )


async def _address(name: str, target: NvmeTarget, call: Call, resolve: Resolve) -> str | DriverError:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return str(ipaddress.ip_address(await call(partial(resolve, name, target.port))))
    except (OSError, ValueError, DeadlineExceeded) as error:
        return failure(Reason.UNRESOLVED, f"{name}:{target.port}", target.nqn, str(error))
