"""The names that a disk can be given: slots as long as the version takes them, and NQNs that no other disk has."""

from rds_csi.simulator.device_options import DeviceOptions, LongSlot
from rds_csi.simulator.menu import RouterosError
from rds_csi.simulator.menus.disk_index import Disks
from rds_csi.simulator.versions import Version

# The longest slot, where there is a limit.
SLOT_LIMIT = 32


class Names:
    """Checks names against the version, the options and the other disks."""

    def __init__(self, options: DeviceOptions, version: Version, disks: Disks) -> None:
        self._options = options
        self._version = version
        self._disks = disks

    def new_slot(self, slot: str) -> str:
        """The slot as the device takes it; RouterosError when it does not."""
        limit = self._slot_limit()
        if limit and len(slot) > limit:
            if self._options.long_slot is LongSlot.REFUSED:
                raise RouterosError(self._options.long_slot_text)
            slot = slot[:limit]
        if not slot or "/" in slot:
            raise RouterosError("invalid value for argument slot")
        if self._disks.in_slot(slot) is not None:
            raise RouterosError(self._options.duplicate_text)
        return slot

    def require_new_nqn(self, nqn: str, own_id: str) -> None:
        """RouterosError when a disk other than ``own_id`` has the NQN."""
        taken = any(other.id != own_id for other in self._disks.with_nqn(nqn))
        if nqn and taken and self._options.duplicate_nqn_refused:
            raise RouterosError(self._options.duplicate_text)

    def _slot_limit(self) -> int:
        if self._options.slot_limit is not None:
            return self._options.slot_limit
        between = self._version.at_least(7, 17) and not self._version.at_least(7, 24)
        return 0 if between else SLOT_LIMIT
