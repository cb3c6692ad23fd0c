"""The simulated device: menus over one state, users and their policies, jobs, faults and reboots."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

from rds_csi.simulator.device_options import DeviceOptions, Switches
from rds_csi.simulator.exports import Export, ExportListener
from rds_csi.simulator.menu import Item, Menu, RouterosError
from rds_csi.simulator.menus.base import SingletonMenu
from rds_csi.simulator.menus.btrfs import BtrfsFilesystemMenu, SubvolumeMenu
from rds_csi.simulator.menus.disk import DiskMenu
from rds_csi.simulator.menus.files import FileMenu
from rds_csi.simulator.menus.services import ServiceMenu
from rds_csi.simulator.menus.system import (
    JobMenu,
    PackageMenu,
    disk_settings_menu,
    identity_menu,
    resource_menu,
)
from rds_csi.simulator.menus.users import ActiveMenu, GroupMenu, KeyMenu, User, UserMenu
from rds_csi.simulator.printing import DEFAULT_WIDTH, human
from rds_csi.simulator.storage import Sleep, Storage
from rds_csi.simulator.tenants import Tenants, check_room, furnish
from rds_csi.simulator.tree import existing
from rds_csi.simulator.versions import parse_version
from rds_csi.workers import Workers

_DENIED = "not enough permissions (9)"
# Copies of real files at once.
_WORKERS = 4


class Device:
    """One RouterOS device. ``menus`` by path (``/disk``); ``switches`` are its faults of the moment.

    Lives in one event loop. ``now``, ``monotonic`` and ``sleep`` are the clock of the device.
    """

    def __init__(
        self,
        options: DeviceOptions,
        *,
        now: Callable[[], datetime] = datetime.now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if options.seed_tenants:
            # Before anything is made.
            check_room(options.pools)
        self.options = options
        self.version = parse_version(options.version)
        self.switches = Switches()
        self._now = now
        self._monotonic = monotonic
        self._booted = monotonic()
        self.reboots = 0
        self.storage = Storage(options, self.switches, now=now, sleep=sleep, workers=Workers(_WORKERS))
        self.disks = DiskMenu(options, self.version, self.storage)
        self.files = FileMenu(options, self.version, self.storage)
        self.subvolumes = SubvolumeMenu(self.version, self.storage)
        self.groups = GroupMenu(self.version, options.groups)
        self.users = UserMenu(self.version, self.groups, options.users)
        self.active = ActiveMenu(self.version, self._shown_now)
        self.services = ServiceMenu(self.version)
        self.jobs = JobMenu(self.version, self._shown_now)
        self.menus: Mapping[str, Menu] = {menu.path: menu for menu in self._all_menus()}
        self.tenants = Tenants()
        if options.seed_tenants:
            self.tenants = furnish(self.storage, self.disks, self.subvolumes, options.tenants_suffix)

    def _all_menus(self) -> list[Menu]:
        version = self.version
        menus: list[Menu] = [
            *(self.disks, self.files, self.groups, self.users, self.active, self.services, self.jobs),
            disk_settings_menu(version),
            resource_menu(self.options, version, self.uptime),
            identity_menu(self.options, version),
            SingletonMenu("/system/clock", version, self._clock),
            PackageMenu(version, self.options.packages),
            KeyMenu(version, self.users, self._text_of),
        ]
        if version.at_least(7, 17):
            menus += [BtrfsFilesystemMenu(version, self.storage), self.subvolumes]
        return menus

    # Users.

    def user(self, name: str) -> User | None:
        """The user with the policies of this moment; None: there is none, or it is disabled."""
        return self.users.user(name)

    def authorize(self, user: User, menu: Menu, command: str) -> None:
        """RouterosError ``not enough permissions (9)`` when the user's group lacks what the command needs."""
        self.require(user, menu.policies(command))

    def require(self, user: User, policies: frozenset[str]) -> None:
        """The same for what is in no menu (``:execute``); policies are those of the moment, not of the login."""
        now = self.user(user.name)
        if now is None or not policies <= now.policies:
            raise RouterosError(_DENIED)

    # Printing.

    def print_human(self, menu: Menu, items: Sequence[Item], *, detail: bool, width: int = DEFAULT_WIDTH) -> str:
        """What ``print`` (or ``print detail``) shows to a person, whole lines with CRLF."""
        return human(menu, items, detail=detail, width=width, wide_flags=not self.version.at_least(7, 24))

    # Jobs and reboots.

    def start_job(self, work: Coroutine[Any, Any, object], *, owner: str, script: str = "") -> str:
        """Run ``work`` in the background as ``:execute`` does; the job's id, as ``/system/script/job`` lists it."""
        return self.jobs.start(work, owner=owner, script=script)

    async def reboot(self) -> None:
        """Jobs end where they are and sessions are gone; disks, files, users and settings stay.

        A command that has begun to change something is done to its end, one that waits for its turn is not done.
        """
        # Before anything is waited for: no command of before gets its turn any more.
        self.storage.reboot()
        await self.jobs.clear()
        self.active.clear()
        await self.storage.settled()
        self._booted = self._monotonic()
        self.reboots += 1

    async def close(self) -> None:
        """End what runs in the background; the files stay in the directory."""
        await self.jobs.clear()

    def uptime(self) -> float:
        """Seconds since the last boot."""
        return self._monotonic() - self._booted

    # Exports.

    @property
    def on_export_changed(self) -> list[ExportListener]:
        """Whoever wants to be told of exports adds itself here, and asks ``exports`` for those of before."""
        return self.disks.listeners

    def exports(self) -> list[Export]:
        """Everything that is exported just now."""
        return self.disks.exports()

    def _text_of(self, path: str) -> str:
        return existing(self.storage.find(path.strip("/"))).contents or ""

    def _shown_now(self) -> str:
        return self._now().strftime("%Y-%m-%d %H:%M:%S")

    def _clock(self) -> dict[str, str]:
        now = self._now()
        return {"time": now.strftime("%H:%M:%S"), "date": now.strftime("%Y-%m-%d"), "time-zone-name": "UTC"}
