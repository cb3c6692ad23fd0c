"""A kubelet as a CSI driver sees it: the plugin watcher, which finds sockets, and the CSI plugin, which takes drivers.

What it does is that of Kubernetes 1.36 (pkg/kubelet/pluginmanager, pkg/volume/csi): it asks every new socket of its
directory, calls NodeGetInfo where the answer says, tells the outcome, tries again what it refused, and forgets whose
socket has gone. A socket that was made anew is a new one.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from rds_csi.csi.pluginregistration import InfoRequest, PluginInfo, RegistrationStatus, RegistrationStub
from rds_csi.csi.v1 import NodeGetInfoRequest, NodeStub

# Far above what a driver on a loaded machine takes.
CALL_SECONDS = 10.0

# Device, inode and time of the last change of a socket file.
_Identity = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Plugin:
    """A driver that was taken, as its CSINode entry would show it."""

    name: str
    node_id: str
    endpoint: str


class Kubelet:
    """``look`` is one pass of its loop; ``plugins`` is what it has taken, by the name of the socket."""

    def __init__(self, directory: Path, *, refusal: str = "") -> None:
        """``refusal``: with these words every driver is refused, until they are empty."""
        self.directory = directory
        self.refusal = refusal
        self.plugins: dict[str, Plugin] = {}
        self.asked = 0
        self._taken: dict[str, _Identity] = {}

    async def look(self) -> None:
        """Forget what has gone, and ask what is new or was refused."""
        found = {path.name: identity for path in self._paths() if (identity := _identity(path))}
        for name in [name for name, identity in self._taken.items() if found.get(name) != identity]:
            del self._taken[name], self.plugins[name]
        for name in found.keys() - self._taken.keys():
            plugin = await self._register(self.directory / name)
            if plugin is not None:
                self._taken[name], self.plugins[name] = found[name], plugin

    def restart(self) -> None:
        """A new process, which knows of nobody."""
        self._taken.clear()
        self.plugins.clear()

    def _paths(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if not path.name.startswith(".")]

    async def _register(self, path: Path) -> Plugin | None:
        async with Channel(path=str(path)) as channel:
            stub = RegistrationStub(channel)
            self.asked += 1
            info = await stub.get_info(InfoRequest(), timeout=CALL_SECONDS)
            plugin, error = None, self.refusal or _mistake(info)
            if not error:
                plugin, error = await _take(info)
            status = RegistrationStatus(plugin_registered=not error, error=error)
            await stub.notify_registration_status(status, timeout=CALL_SECONDS)
            return plugin


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino, found.st_ctime_ns) if stat.S_ISSOCK(found.st_mode) else None


def _mistake(info: PluginInfo) -> str:
    """What is wrong with the answer; "" when nothing is."""
    if info.type != "CSIPlugin":
        return f"no handler registered for plugin type {info.type}"
    if not info.name:
        return "the plugin has no name"
    if not any(version.split(".")[0] in ("0", "1") for version in info.supported_versions):
        return f"versions {info.supported_versions} are not supported"
    return ""


async def _take(info: PluginInfo) -> tuple[Plugin | None, str]:
    """The plugin, or why it cannot be taken. The endpoint is dialled as it is, a path and no URL."""
    try:
        async with Channel(path=info.endpoint) as channel:
            node = await NodeStub(channel).node_get_info(NodeGetInfoRequest(), timeout=CALL_SECONDS)
    except (OSError, GRPCError, TimeoutError) as error:
        return None, f"RegisterPlugin error -- plugin registration failed with err: {error}"
    return Plugin(info.name, node.node_id, info.endpoint), ""
