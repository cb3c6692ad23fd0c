"""The cluster as the rest of the driver sees it: told notices, asked about attachments, relieved of a taint."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from random import Random

import anyio

from rds_csi.kubernetes.access import find_access
from rds_csi.kubernetes.api import Api
from rds_csi.kubernetes.attachments import Attachments
from rds_csi.kubernetes.draining import Draining, Tell
from rds_csi.kubernetes.events import EventRecorder
from rds_csi.kubernetes.objects import Objects
from rds_csi.kubernetes.taints import StartupTaint
from rds_csi.model.notices import Notice
from rds_csi.retry import Clock
from rds_csi.settings import ClusterUse, Settings
from rds_csi.workers import Workers

log = logging.getLogger(__name__)

# Seconds for the last events when the driver stops: its grace period is for the calls.
_FAREWELL_SECONDS = 0.5


class Cluster:
    """One object a process. Whatever the API server does, nothing here fails or holds up its callers."""

    def __init__(
        self,
        api: Api,
        *,
        driver_name: str,
        node_name: str,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        """``node_name`` is the name of the Node object of this process; a controller's own name where it has none."""
        clock = clock or Clock()
        random = random or Random()  # noqa: S311 - spreads load and names, guards nothing
        self._api = api
        self._events = EventRecorder(
            api,
            Objects(api, driver_name=driver_name, node_name=node_name, clock=clock),
            component=driver_name,
            host=node_name,
            clock=clock,
            wall_clock=wall_clock,
            random=random,
        )
        self._attachments = Attachments(api, driver_name=driver_name, node_name=node_name)
        self._taint = StartupTaint(api, driver_name=driver_name, node_name=node_name, clock=clock, random=random)
        self._draining = Draining(api, self._attachments, driver_name=driver_name, node_name=node_name, clock=clock)

    def announce(self, notice: Notice) -> None:
        """Have ``notice`` told as an Event (``model.notices.Announce``)."""
        self._events.announce(notice)

    async def moved(self) -> frozenset[str]:
        """The NQNs of volumes that are attached to other nodes while nothing names this one for them; empty when the
        cluster does not tell."""
        return await self._attachments.moved()

    async def node_ready(self) -> None:
        """Have the start-up taint removed from this node by ``run``. May be said again, of a node that registers
        anew."""
        self._taint.node_is_ready()

    async def wait_for_detach(self, timeout: float, tell: Tell = log.info) -> None:
        """While this node is being drained, wait at most ``timeout`` seconds until nothing is attached to it."""
        await self._draining.wait(timeout, tell)

    async def start(self) -> None:
        """Say with whom is spoken; ``run`` does the work."""
        log.info("Kubernetes is told events at %s", self._api.label)

    async def run(self) -> None:
        """For ever: write events, and remove the taint when the node is ready."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._events.run)
            tasks.start_soon(self._taint.run)

    async def close(self) -> None:
        """After ``run`` has ended: tell what is left in a moment, and close."""
        try:
            with anyio.move_on_after(_FAREWELL_SECONDS, shield=True):
                await self._events.deliver()
        except Exception as error:
            # Also one of its own: the end of the process is not to be broken by it.
            log.debug("the last events were not told: %s", error)
        finally:
            await self._api.close()


def open_cluster(
    settings: Settings,
    workers: Workers | None = None,
    *,
    root: str = "/",
    environment: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """The cluster in which this process is a pod; None outside of one, and where the settings want none.

    ``root`` is where /var/run is: the container's own, whatever ``--host-root`` says.
    """
    access = find_access(environment, root) if settings.kubernetes is ClusterUse.AUTO else None
    if access is None:
        return None
    api = Api(access, workers or Workers(limit=2))
    return Cluster(api, driver_name=settings.driver_name, node_name=settings.node_id)
