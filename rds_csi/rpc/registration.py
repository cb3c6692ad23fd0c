"""Registration with the kubelet over its plugin registration API, so that no registrar stands beside the driver.

The kubelet watches a directory for sockets. It asks each what it is (GetInfo), looks at the plugin, and says whether it
took it (NotifyRegistrationStatus): k8s.io/kubelet, pkg/apis/pluginregistration/v1. When the socket goes, the kubelet
forgets the plugin, and the node's CSINode object no longer names the driver.
"""

import asyncio
import logging
import os

from rds_csi.csi import pluginregistration as api
from rds_csi.errors import ConfigurationError
from rds_csi.logging import log
from rds_csi.metrics import Metrics
from rds_csi.retry import Clock
from rds_csi.rpc.server import CsiServer
from rds_csi.rpc.sockets import MAX_PATH_BYTES, path_of
from rds_csi.rpc.status import clean_text

logger = logging.getLogger("rds_csi.rpc")

# What the kubelet calls a CSI driver, and the version of that agreement (CSIPlugin in the API's constants.go; the
# kubelet's CSI plugin takes every 1.x.y).
PLUGIN_TYPE = "CSIPlugin"
PLUGIN_VERSIONS = ("1.0.0",)

# How often it is looked whether the socket is there. A restarted kubelet reads its directory by itself; only a
# directory that was emptied needs this, which is seldom, and a pod that waits for its volume is tried again after much
# longer. One lstat(2) costs nothing, where inotify(7) would need a watch of a directory that may be made anew.
INTERVAL_SECONDS = 5.0
# After how long without success the socket is made anew, for a kubelet that missed the first one (its watch began
# just then, or its queue ran over). Longer than the longest pause between the kubelet's own tries (2 minutes and 2 s),
# which are not to be disturbed.
RENEW_SECONDS = 150.0

_REMEDY = "--kubelet-registration-dir must be the kubelet's plugins_registry directory, with room and write access."


class Registration:
    """The registration socket of one driver: there while the driver serves, made again when it is gone."""

    def __init__(
        self,
        directory: str,
        driver_name: str,
        endpoint: str,
        metrics: Metrics,
        *,
        clock: Clock | None = None,
    ) -> None:
        """``directory``: the kubelet's ``plugins_registry``. ``endpoint``: the CSI socket (``unix:///path``) by the
        path under which the kubelet sees it. ConfigurationError when the directory's path is relative or too long."""
        self._directory = directory
        self._path = _socket_path(directory, driver_name)
        self._metrics = metrics
        self._clock = clock or Clock()
        self._service = _Service(driver_name, path_of(endpoint))
        self._server = self._new_server()
        self._made_at = 0.0
        # Why the socket could not be made, as it was logged last.
        self._obstacle = ""
        # Held while the socket is made or removed: one that is just being made must not outlive ``close``.
        self._changing = asyncio.Lock()
        self._closed = False

    @property
    def confirmed(self) -> asyncio.Event:
        """Set at every confirmation of the kubelet, also of one that was restarted; whoever waits for the next clears
        it."""
        return self._service.confirmed

    async def start(self) -> None:
        """Make the socket: from now on the kubelet may come, so the CSI socket must answer already.

        ConfigurationError when the directory is none, or another program registers there.
        """
        _check_is_directory(self._directory)
        try:
            await self._server.start()
        except ConfigurationError as error:
            raise ConfigurationError(error.message, remedy=_REMEDY) from None
        self._made_at = self._clock.now()

    async def run(self) -> None:
        """Keep the socket there, for ever; what stands in the way is logged when it is new."""
        while True:
            await self._clock.sleep(INTERVAL_SECONDS)
            try:
                await self.look()
            except ConfigurationError as error:
                if str(error) != self._obstacle:
                    self._obstacle = str(error)
                    log(logger, logging.WARNING, "cannot register with the kubelet", error=self._obstacle)
            else:
                self._obstacle = ""

    async def look(self) -> None:
        """Make the socket anew when it is gone, or when the kubelet has not come for long.

        ConfigurationError when it cannot be made.
        """
        async with self._changing:
            if not self._closed:
                await self._look()

    async def _look(self) -> None:
        if not self._server.is_reachable:
            reason = "the socket is gone"
        elif not self._service.registered and self._clock.now() - self._made_at >= RENEW_SECONDS:
            reason = "the kubelet has not confirmed"
        else:
            return
        log(logger, logging.DEBUG, "making the registration socket anew", reason=reason)
        await self._server.drain(0)
        self._service.registered = False
        self._server = self._new_server()
        await self.start()

    async def problem(self) -> str:
        """Why the kubelet does not use the driver, in one sentence; "" once it has confirmed."""
        if self._obstacle:
            return f"the driver cannot register with the kubelet: {self._obstacle}"
        return self._service.problem()

    async def close(self) -> None:
        """Remove the socket, for good: the kubelet forgets the driver. May be called again."""
        async with self._changing:
            self._closed = True
            await self._server.drain(0)

    def _new_server(self) -> CsiServer:
        # A drained server does not serve again.
        return CsiServer(f"unix://{self._path}", [self._service], self._metrics)


def _socket_path(directory: str, driver_name: str) -> str:
    """Where registrars make their sockets, too: of two for one driver only one is there."""
    path = os.path.join(directory, f"{driver_name}-reg.sock")
    try:
        return path_of(f"unix://{path}")
    except ConfigurationError:
        raise ConfigurationError(
            f"{path} is no path for a socket",
            remedy=f"Give --kubelet-registration-dir an absolute path; all of it has at most {MAX_PATH_BYTES} bytes.",
        ) from None


def _check_is_directory(path: str) -> None:
    """It is not made here: a kubelet that watches another one would never look into it."""
    if not os.path.isdir(path):
        raise ConfigurationError(f"{path} is no directory", remedy=_REMEDY)


class _Service(api.RegistrationBase):
    """What the kubelet asks and tells."""

    def __init__(self, driver_name: str, path: str) -> None:
        self.registered = False
        self.confirmed = asyncio.Event()
        # The kubelet's words when it last refused, "" when it has not.
        self._refusal = ""
        # A path, not a URL: the kubelet dials it as it is.
        self._info = api.PluginInfo(
            type=PLUGIN_TYPE, name=driver_name, endpoint=path, supported_versions=list(PLUGIN_VERSIONS)
        )

    async def get_info(self, info_request: api.InfoRequest) -> api.PluginInfo:  # noqa: ARG002
        return self._info

    async def notify_registration_status(
        self, registration_status: api.RegistrationStatus
    ) -> api.RegistrationStatusResponse:
        # Without an await in between: two kubelets at once cannot make this half of each.
        before = self._refusal
        self.registered = registration_status.plugin_registered
        self._refusal = "" if self.registered else clean_text(registration_status.error) or "no reason given"
        if self.registered:
            # Every time: this line tells of a restarted kubelet, too.
            log(logger, logging.INFO, "registered with the kubelet", driver=self._info.name, socket=self._info.endpoint)
            self.confirmed.set()
        elif self._refusal != before:
            log(logger, logging.WARNING, "the kubelet refused the registration", error=self._refusal)
        return api.RegistrationStatusResponse()

    def problem(self) -> str:
        """Why the kubelet does not use the driver; "" once it has confirmed."""
        if self.registered:
            return ""
        if self._refusal:
            return f"the kubelet refused the registration: {self._refusal}"
        return "the kubelet has not registered the driver yet"
