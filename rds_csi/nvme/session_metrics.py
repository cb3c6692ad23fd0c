"""How many controllers this driver's subsystems have, by state: looked up when it is asked for, never counted."""

from collections import Counter

from rds_csi.metrics import Metrics
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import LIVE

# The "state" of a subsystem without any controller: a left-over whose device something still holds open.
NO_CONTROLLER = "none"


class SessionFigures:
    """Sets ``Metrics.sessions`` from one scan of sysfs."""

    def __init__(self, resolver: DeviceResolver, metrics: Metrics, prefix: str) -> None:
        """``prefix`` is that of the NQNs of this driver on this cluster."""
        self._resolver = resolver
        self._metrics = metrics
        self._prefix = prefix
        # A state that has been told once is told as 0 when no controller has it any more.
        self._told = {LIVE}

    async def refresh(self) -> None:
        """For ``Metrics.before_scrape``. A DriverError when sysfs cannot be looked at; the figures stay then."""
        counts: Counter[str] = Counter()
        for nqn, sessions in (await self._resolver.index()).by_nqn.items():
            if nqn.startswith(self._prefix):
                for session in sessions:
                    counts.update([controller.state for controller in session.controllers] or [NO_CONTROLLER])
        self._told |= counts.keys()
        for state in self._told:
            self._metrics.sessions.labels(state).set(counts[state])
