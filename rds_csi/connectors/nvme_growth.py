"""Growth of an NVMe namespace: the kernel is made to look at its controllers anew, and the new size is awaited."""

import logging
from collections.abc import Callable
from functools import partial

from rds_csi.connectors.budget import budget
from rds_csi.connectors.nvme_waits import NvmeWaits
from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.model.devices import Device
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sysfs import NvmeSysfs

_log = logging.getLogger(__name__)

# Seconds for the kernel to see a new size: the notice of the target usually comes within 0.2 s.
GROW_SECONDS = 30.0
# Seconds for a new size to show where nobody knows whether there is one.
LOOK_ANEW_SECONDS = 1.0

# The device in a session, with its node in /dev; None when it is not there.
DeviceIn = Callable[[NvmeTarget, Session | None], Device | None]


class NvmeGrowth:
    """Rescans controllers, and waits for the size that comes of it."""

    def __init__(self, waits: NvmeWaits, sysfs: NvmeSysfs, device_in: DeviceIn) -> None:
        self._waits = waits
        self._sysfs = sysfs
        self._device_in = device_in

    async def rescan(self, target: NvmeTarget, size: int) -> Device:
        """The device of at least ``size`` bytes; as it is after a short while when ``size`` is 0."""
        session = await self._waits.session(target.nqn)
        if session is None or not session.controllers:
            raise Unavailable(f"{target.nqn} is not connected", remedy="Stage the volume anew.")
        before = self._device_in(target, session)
        if before is not None and 0 < size <= before.size:
            return before
        await self._waits.look(partial(self._rescan_controllers, session))
        if not size and before is not None:
            return await self._seen_anew(target, before)

        async def grown(now: Session | None) -> Device | None:
            device = self._device_in(target, now)
            return device if device is not None and device.size >= size else None

        device = await self._waits.until(target.nqn, grown, timeout=budget(GROW_SECONDS))
        if device is None and await self._found(target) is None:
            raise _vanished(target)
        if device is None:
            raise DeadlineExceeded(
                f"the device of {target.nqn} did not grow to {size} bytes: {session.states}",
                remedy="Look whether the array has grown the volume and its session is live, then repeat.",
            )
        return device

    async def _seen_anew(self, target: NvmeTarget, before: Device) -> Device:
        """The device some time after a rescan, or as soon as it has another size; Unavailable when it went."""

        async def resized(now: Session | None) -> Device | None:
            device = self._device_in(target, now)
            return device if device is not None and device.size != before.size else None

        device = await self._waits.until(target.nqn, resized, timeout=LOOK_ANEW_SECONDS) or await self._found(target)
        if device is None:
            raise _vanished(target)
        return device

    async def _found(self, target: NvmeTarget) -> Device | None:
        return self._device_in(target, await self._waits.session(target.nqn))

    def _rescan_controllers(self, session: Session) -> None:
        for controller in session.controllers:
            try:
                self._sysfs.write(controller.name, "rescan_controller", "1")
            except OSError as error:
                # One path of several may be going away; the size is what counts, and that is awaited.
                _log.info("%s was not rescanned: %s", controller.name, error.strerror)


def _vanished(target: NvmeTarget) -> Unavailable:
    return Unavailable(f"the device of {target.nqn} vanished while it was looked at anew")
