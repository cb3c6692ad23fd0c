"""Taking controllers away: only when nothing uses the session's devices, and seen to be gone."""

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.blockdev.usage import why_in_use
from rds_csi.connectors.nvme_link import Link, Told
from rds_csi.connectors.nvme_waits import NvmeWaits
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import GONE, as_look_error
from rds_csi.nvme.sessions import Session
from rds_csi.progress import note
from rds_csi.workers import Workers

# Seconds an exclusive open may take, also beside many others; it touches the device only when its partitions were
# never read.
_CLAIM_SECONDS = 30.0
# nvme-cli 2.3 crashes now and then (SIGABRT) when sessions come and go while it scans them.
_TRIES = 3
# The source of a mount whose device has gone from sysfs: /dev/nvme<subsystem or controller>n<number>.
_NUMBER = re.compile(r"nvme-?(?:subsys)?(\d+)")


class NvmeRemoval:
    """Looks who uses a session, and disconnects controllers through the ``link``."""

    def __init__(self, host: HostPaths, workers: Workers, nodes: BlockNodes, waits: NvmeWaits, link: Link) -> None:
        self._host = host
        self._workers = workers
        self._nodes = nodes
        self._waits = waits
        self._link = link

    async def why_in_use(self, session: Session) -> str:
        """What uses a device of the session, in words; "" when nothing does. An error when it cannot be told."""
        for namespace in session.namespaces:
            path = self._waits.device(namespace).path
            reason = await self._look(path, partial(why_in_use, self._host, namespace.device, path, self._nodes))
            if reason:
                return f"of {path}: {reason}"
        if session.namespaces:
            return ""
        return await self._look(
            f"the session of {session.nqn}", partial(_mount_of_a_vanished_device, self._host, session)
        )

    async def remove_unused(self, session: Session) -> None:
        """``remove`` after a look that nothing uses the session; FailedPrecondition when something does."""
        reason = await self.why_in_use(session)
        if reason:
            raise FailedPrecondition(
                f"{session.nqn} stays connected, because {reason}", remedy="Unmount or stop that first."
            )
        await self.remove(session)

    async def remove(self, session: Session) -> None:
        """Disconnect the controllers that ``session`` names and that still are of its NQN, whoever uses them, and
        see them gone; Unavailable when they stay."""
        if not session.controllers:
            return
        note("disconnecting")
        names = frozenset(controller.name for controller in session.controllers)
        told = await self._ask_to_remove(session.nqn, names)
        left = await self._waits.gone(session.nqn, names) if told is not None else None
        if told is not None and left is not None:
            raise Unavailable(
                f"{session.nqn} is still connected after its disconnect: {left.states} "
                f"({self._link.name}: {told.line})",
                remedy="The call is repeated by itself; dmesg on this node tells what the kernel waits for.",
            )

    async def _ask_to_remove(self, nqn: str, names: Collection[str]) -> Told | None:
        """Have the link remove the controllers ``names`` of ``nqn``, again when it was killed; None when none of
        them is there.

        The session is looked at before every try, because a name that has become free is soon that of another
        subsystem's controller.
        """
        told: Told | None = None
        for _ in range(_TRIES):
            now = await self._waits.session(nqn)
            ours = tuple(c for c in now.controllers if c.name in names) if now is not None else ()
            if now is None or not ours:
                return None
            told = await self._link.disconnect(replace(now, controllers=ours), whole=ours == now.controllers)
            if not told.killed:
                break
        return told

    async def _look(self, what: str, look: Callable[[], str]) -> str:
        try:
            return await self._workers.run(look, timeout=_CLAIM_SECONDS, key=f"use of {what}")
        except OSError as error:
            raise as_look_error(f"whether {what} is in use cannot be told", error) from error


def _mount_of_a_vanished_device(host: HostPaths, session: Session) -> str:
    """Where a device is mounted that this session once had: its head or disk bears the number of the subsystem or of
    a controller. Too many matches only keep a session that nobody uses."""
    names = (session.subsystem, *(controller.name for controller in session.controllers))
    numbers = {match[1] for name in names if (match := _NUMBER.fullmatch(name))}
    for line in _lines(f"{host.proc}/self/mountinfo"):
        source = line.partition(" - ")[2].split(" ")[1:2]
        match = re.fullmatch(r".*/nvme(\d+)n\d+(?:p\d+)?", source[0]) if source else None
        if match is not None and match[1] in numbers:
            return f"its vanished device {source[0]} is still mounted at {line.split(' ')[4]}"
    return ""


def _lines(path: str) -> list[str]:
    try:
        # Only "\n" ends a line there: a path may have any other separator in it.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            return stream.read().split("\n")
    except OSError as error:
        if error.errno in GONE:
            return []
        raise
