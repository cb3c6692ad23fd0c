"""What is the matter with the pools just now: lasting faults, and those of the requests that are running."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from rds_csi.simulator.device_options import Switches
from rds_csi.simulator.faults import FaultKind, Faults

# As RouterOS shows a raid that lacks a member.
_DEGRADED = "clean, degraded"


class Conditions:
    """Keeps the switches of the device as the faults want them. Several requests may want the same one."""

    def __init__(self, switches: Switches, faults: Faults) -> None:
        self._switches = switches
        self._faults = faults
        self._wanted: Counter[FaultKind] = Counter()
        # Those that these faults have set: a test may set others itself.
        self._set: frozenset[FaultKind] = frozenset()

    def refresh(self) -> None:
        """Set the switches anew, after faults were added or cleared."""
        wanted = frozenset(self._wanted) | self._faults.lasting
        for kind in wanted - self._set:
            self._switch(kind, on=True)
        for kind in self._set - wanted:
            self._switch(kind, on=False)
        self._set = wanted

    @contextlib.contextmanager
    def during(self, kinds: frozenset[FaultKind]) -> Iterator[None]:
        """These conditions hold inside."""
        self._wanted.update(kinds)
        self.refresh()
        try:
            yield
        finally:
            # Counter's own minus drops what is not wanted any more.
            self._wanted -= Counter(kinds)
            self.refresh()

    def _switch(self, kind: FaultKind, *, on: bool) -> None:
        if kind is FaultKind.NO_SPACE:
            self._switches.no_space = on
        elif kind is FaultKind.READ_ONLY_POOL:
            self._switches.read_only_pool = on
        else:
            self._switches.degraded_raid = _DEGRADED if on else ""
