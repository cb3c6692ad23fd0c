"""What the console needs of the device; ``Device`` is one."""

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from rds_csi.simulator.menu import Menu
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.versions import Version


class Host(Protocol):
    """A device with menus, its word on who may do what, and its background jobs."""

    @property
    def version(self) -> Version:
        """The release, on which the language depends."""

    @property
    def menus(self) -> Mapping[str, Menu]:
        """All menus by path."""

    def authorize(self, user: User, menu: Menu, command: str) -> None:
        """RouterosError ``not enough permissions (9)`` when the user's group lacks what the command needs."""

    def require(self, user: User, policies: frozenset[str]) -> None:
        """The same for what is in no menu."""

    def start_job(self, work: Coroutine[Any, Any, object], *, owner: str, script: str = "") -> str:
        """Runs ``work`` in the background; the job's id."""
