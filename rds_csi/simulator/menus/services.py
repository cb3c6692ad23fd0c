"""/ip/service: the ports, limits and certificates of ssh, REST and the others."""

from collections.abc import Mapping

from rds_csi.simulator.menu import ArgumentKind, Flag, RouterosError, Value
from rds_csi.simulator.menus.base import TableMenu
from rds_csi.simulator.versions import SERVICE_ARGUMENTS, Version, kinds

# The port of each service, and whether it is open from the start.
_SERVICES = {
    "ftp": (21, True),
    "ssh": (22, True),
    "telnet": (23, True),
    "www": (80, True),
    "www-ssl": (443, False),
    "winbox": (8291, True),
    "api": (8728, True),
    "api-ssl": (8729, True),
}
_DEFAULT_SESSIONS = 20
_MAX_SESSIONS = 1000


class ServiceMenu(TableMenu):
    """Services cannot be added or removed."""

    flags = (Flag("X", "disabled", "DISABLED"),)

    def __init__(self, version: Version) -> None:
        arguments = kinds(SERVICE_ARGUMENTS, version)
        numbers = {"numbers": ArgumentKind.ITEMS}
        commands = {"set": {**numbers, **arguments}, "enable": numbers, "disable": numbers}
        super().__init__("/ip/service", version, commands, columns=("name", "port", "certificate"))
        for name, (port, open_) in _SERVICES.items():
            values: dict[str, Value] = {"name": name, "port": port}
            values["available-from" if "available-from" in arguments else "address"] = ()
            if "max-sessions" in arguments:
                values["max-sessions"] = _DEFAULT_SESSIONS
            if name.endswith("-ssl"):
                values |= {"certificate": "none", "tls-version": "any"}
            self.put({**values, "vrf": "main", "disabled": not open_})

    def choices(self, command: str, argument: str) -> tuple[str, ...]:
        return ("any", "only-1.2") if (command, argument) == ("set", "tls-version") else ()

    def setting(self, name: str, property: str) -> Value:
        """A property of a service (``ssh``, ``max-sessions``); None when this version has none."""
        return next((item.values.get(property) for item in self.items() if item.values["name"] == name), None)

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        sessions = values.get("max-sessions", "1")
        if not sessions.isdecimal() or not 1 <= int(sessions) <= _MAX_SESSIONS:
            raise RouterosError(f"value of max-sessions out of range (1..{_MAX_SESSIONS})")
        await super().set(item_id, values)
