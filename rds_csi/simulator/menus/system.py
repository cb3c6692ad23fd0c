"""/system and the settings of /disk: what the device is, its time, and the jobs that run in the background."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from rds_csi.simulator.device_options import DeviceOptions
from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Flag, Item, RouterosError, Value
from rds_csi.simulator.menus.base import BaseMenu, Ids, SingletonMenu, TableMenu
from rds_csi.simulator.versions import Version

_log = logging.getLogger(__name__)
_ITEMS = {"numbers": ArgumentKind.ITEMS}
_MEMORY = 32 << 30
_FLASH_FREE = 0.6
_BUILD_TIME = "2026-01-15 10:00:00"


def duration(seconds: float) -> str:
    """``1w2d3h4m5s``, without what is zero, as RouterOS shows an uptime."""
    rest = int(seconds)
    text = ""
    for unit, length in (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60)):
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text + (f"{rest}s" if rest or not text else "")


def resource_menu(options: DeviceOptions, version: Version, uptime: Callable[[], float]) -> SingletonMenu:
    """/system/resource."""

    def look() -> dict[str, Value]:
        return {
            "uptime": duration(uptime()),
            "version": f"{version} (stable)",
            "build-time": _BUILD_TIME,
            "factory-software": "7.19",
            "free-memory": _MEMORY - (1 << 30),
            "total-memory": _MEMORY,
            "cpu": "ARM64",
            "cpu-count": 16,
            "cpu-frequency": 2000,
            "cpu-load": 1,
            "free-hdd-space": int(options.system_size * _FLASH_FREE),
            "total-hdd-space": options.system_size,
            "architecture-name": options.architecture,
            "board-name": options.board,
            "platform": "MikroTik",
        }

    return SingletonMenu("/system/resource", version, look)


def identity_menu(options: DeviceOptions, version: Version) -> SingletonMenu:
    """/system/identity."""
    return SingletonMenu("/system/identity", version, lambda: {"name": options.identity}, {"name": ArgumentKind.TEXT})


def disk_settings_menu(version: Version) -> SingletonMenu:
    """/disk/settings, with the defaults of the manual."""
    values: dict[str, Value] = {
        "auto-smb-sharing": False,
        "auto-smb-user": "guest",
        "auto-media-sharing": False,
        "auto-media-interface": "none",
    }
    if version.at_least(7, 17):
        values["default-mount-point-template"] = "[slot]"
    kinds = {
        name: ArgumentKind.BOOLEAN if isinstance(value, bool) else ArgumentKind.TEXT for name, value in values.items()
    }
    return SingletonMenu("/disk/settings", version, lambda: values, kinds)


class PackageMenu(TableMenu):
    """/system/package: rose-storage is a package of its own, and can be disabled."""

    flags = (Flag("X", "disabled", "DISABLED"),)

    def __init__(self, version: Version, names: Sequence[str]) -> None:
        commands = {"enable": _ITEMS, "disable": _ITEMS}
        super().__init__("/system/package", version, commands, columns=("name", "version", "build-time", "size"))
        for name in names:
            size = 13 << 20
            self.put(
                {"name": name, "version": str(version), "build-time": _BUILD_TIME, "size": size, "disabled": False}
            )

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        """Takes effect at once here; a device wants apply-changes first."""
        self.known(item_id).values["disabled"] = values.get("disabled") == "yes"


class JobMenu(BaseMenu):
    """/system/script/job: what ``:execute`` started and has not ended."""

    path = "/system/script/job"
    columns = ("script", "owner", "started")
    always = frozenset({*columns, "type"})

    def __init__(self, version: Version, now: Callable[[], str]) -> None:
        super().__init__(version, {"remove": _ITEMS})
        self._now = now
        self._ids = Ids()
        self._items: dict[str, Item] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def items(self) -> Sequence[Item]:
        return tuple(self._items.values())

    def start(self, work: Coroutine[Any, Any, object], *, owner: str, script: str = "") -> str:
        """Run ``work`` in the background; the job's id. What it raises is logged: nobody is there to be told."""
        item_id = self._ids.take()
        values: dict[str, Value] = {"script": script, "owner": owner, "started": self._now(), "type": "command"}
        self._items[item_id] = Item(item_id, values)
        task: asyncio.Task[None] = asyncio.create_task(_logged(item_id, work), name=f"job {item_id}")
        self._tasks[item_id] = task

        def ended(_: object) -> None:
            # A job that was ended before its first step has not touched the work: closed, or Python complains.
            work.close()
            del self._items[item_id]
            del self._tasks[item_id]

        task.add_done_callback(ended)
        return item_id

    async def remove(self, item_id: str) -> None:
        """Ends the job where it is."""
        task = self._tasks.get(item_id.upper())
        if task is None:
            raise RouterosError(NO_SUCH_ITEM)
        await self._end([task])

    async def clear(self) -> None:
        """Ends all jobs."""
        await self._end(list(self._tasks.values()))

    @staticmethod
    async def _end(tasks: list["asyncio.Task[None]"]) -> None:
        for task in tasks:
            task.cancel()
        # A job that ends itself ends at its next step: it cannot wait for that.
        others = [task for task in tasks if task is not asyncio.current_task()]
        await asyncio.gather(*others, return_exceptions=True)


async def _logged(item_id: str, work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except RouterosError as error:
        _log.info("job %s: %s", item_id, error.text)
    except Exception:
        _log.exception("job %s", item_id)
