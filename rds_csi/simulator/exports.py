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


def _nothing() -> None:
    """There is nothing to take back."""


async def announce(
    listeners: list[ExportListener],
    before: Export | None,
    after: Export | None,
    *,
    undo: Callable[[], None] = _nothing,
) -> None:
    """Tell everybody, one after the other.

    When one of them fails, ``undo`` takes the change of the device back, everybody is told that, and the device
    refuses the change: RouterosError.
    """
    if before == after or await _tell(listeners, before, after):
        return
    undo()
    await _tell(listeners, after, before)
    raise RouterosError("failure: nvme-tcp export failed")


async def _tell(listeners: list[ExportListener], before: Export | None, after: Export | None) -> bool:
    """Whether all could do it; failures are logged."""
    well = True
    for listener in tuple(listeners):
        try:
            await listener(before, after)
        except Exception:
            _log.exception("an export could not be changed from %s to %s", before, after)
            well = False
    return well
