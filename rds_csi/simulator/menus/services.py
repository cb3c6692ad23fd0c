"""/ip/service: the ports, limits and certificates of ssh, REST and the others."""

import ipaddress
from collections.abc import Mapping

from rds_csi.simulator.menu import ArgumentKind, Flag, Item, RouterosError, Value
from rds_csi.simulator.menus.base import TableMenu, number
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
# What servers follow; to accept anything else would be to say that it has been done.
_FOLLOWED = frozenset({"disabled", "address", "available-from", "max-sessions", "comment"})


def is_within(peer: str, networks: Value) -> bool:
    """Whether the IP address is in one of the networks; any is in an empty list."""
    if not networks or not isinstance(networks, tuple):
        return True
    if not peer:
        return False
    address = ipaddress.ip_address(peer)
    return any(address in ipaddress.ip_network(network, strict=False) for network in networks)


def check_networks(name: str, text: str) -> None:
    """RouterosError for what is no list of networks."""
    for network in filter(None, text.replace(";", ",").split(",")):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise RouterosError(f"invalid value for argument {name}") from None


class ServiceMenu(TableMenu):
    """Services cannot be added or removed. Those that the simulator serves follow ``disabled``, the networks from which
    they are reached, and ``max-sessions``, for new connections."""

    flags = (Flag("X", "disabled", "DISABLED"),)

    def __init__(self, version: Version) -> None:
        arguments = kinds(SERVICE_ARGUMENTS, version)
        numbers = {"numbers": ArgumentKind.ITEMS}
        commands = {"set": {**numbers, **arguments}, "enable": numbers, "disable": numbers}
        super().__init__("/ip/service", version, commands, columns=("name", "port", "certificate"))
        self._max_sessions: dict[str, int] = {}
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

    def serve(self, name: str, max_sessions: int) -> None:
        """The simulator serves ``name`` (``ssh``, ``www-ssl``) at most so many at once, until somebody sets that."""
        values = self._named(name).values
        values["disabled"] = False
        self._max_sessions[name] = max_sessions
        if "max-sessions" in values:
            values["max-sessions"] = max_sessions

    def lets_in(self, name: str, peer: str) -> bool:
        """Whether the service is open to that IP address."""
        values = self._named(name).values
        networks = values.get("available-from", values.get("address"))
        return values.get("disabled") is not True and is_within(peer, networks)

    def max_sessions(self, name: str) -> int:
        """How many connections at once the service takes."""
        value = self._named(name).values.get("max-sessions")
        return value if isinstance(value, int) else self._max_sessions.get(name, _DEFAULT_SESSIONS)

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        for name in values:
            if name not in _FOLLOWED:
                raise RouterosError(f"failure: /ip/service set {name} is not simulated")
        if "max-sessions" in values and not 1 <= number("max-sessions", values["max-sessions"]) <= _MAX_SESSIONS:
            raise RouterosError(f"value of max-sessions out of range (1..{_MAX_SESSIONS})")
        for name in ("address", "available-from"):
            check_networks(name, values.get(name, ""))
        await super().set(item_id, values)

    def _named(self, name: str) -> Item:
        return next(item for item in self.items() if item.values["name"] == name)
