"""What the device exports over NVMe/TCP, and who is told when that changes."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rds_csi.simulator.menu import RouterosError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Export:
    """An exported disk: a subsystem ``nqn`` on ``port`` with one namespace, the real file ``path``.

    ``size`` are bytes. ``allowed_hosts`` is what nvme-tcp-server-allow-host-name says, cut at commas; empty: all
    hosts (the separator is a guess, no capture shows more than one host).
    """

    disk_id: str
    slot: str
    nqn: str
    port: int
    allowed_hosts: tuple[str, ...]
    path: Path
    size: int


# Called with the export before and after: (None, new) when one begins, (old, new) when NQN, port, hosts or size
# change, (old, None) before the disk, or its export, is taken away.
ExportListener = Callable[[Export | None, Export | None], Awaitable[None]]


async def announce(listeners: list[ExportListener], before: Export | None, after: Export | None) -> None:
    """Tell everybody, one after the other; a failure is logged, and is the device's refusal afterwards."""
    if before == after:
        return
    failed = False
    for listener in tuple(listeners):
        try:
            await listener(before, after)
        except Exception:
            _log.exception("an export could not be changed from %s to %s", before, after)
            failed = True
    if failed:
        raise RouterosError("failure: nvme-tcp export failed")
