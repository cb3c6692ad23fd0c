"""The start-up taint: keeps pods from a node until its driver answers, and is then removed by the driver."""

import asyncio
import logging
from random import Random

from rds_csi.errors import DriverError
from rds_csi.kubernetes.api import JSON_PATCH, Api
from rds_csi.kubernetes.errors import Conflict, Invalid
from rds_csi.kubernetes.pauses import Pauses
from rds_csi.kubernetes.resources import Node, node_path
from rds_csi.kubernetes.values import Json
from rds_csi.retry import Clock

log = logging.getLogger(__name__)

# How often a patch is tried at once that found the taints changed meanwhile.
_RACES = 5


def startup_taint(driver_name: str) -> str:
    """The key of the taint, whatever its effect."""
    return f"{driver_name}/agent-not-ready"


class StartupTaint:
    """Removes the taint from one node, as often as it is told that the node is ready."""

    def __init__(self, api: Api, *, driver_name: str, node_name: str, clock: Clock, random: Random) -> None:
        self._api = api
        self._key = startup_taint(driver_name)
        self._path = node_path(node_name)
        self._node_name = node_name
        self._clock = clock
        self._random = random
        self._ready = asyncio.Event()

    def node_is_ready(self) -> None:
        """Have the taint removed by ``run``."""
        self._ready.set()

    async def run(self) -> None:
        """For ever: wait until the node is ready, and remove the taint; a failure is told once and tried again."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            pauses, said = Pauses(self._random), ""
            while True:
                try:
                    await self.remove()
                    break
                except Exception as error:
                    text = str(error) if isinstance(error, DriverError) else f"{type(error).__name__}: {error}"
                    level = logging.WARNING if text != said else logging.DEBUG
                    log.log(level, "taint %s stays on node %s for now: %s", self._key, self._node_name, text)
                    said = text
                    await self._clock.sleep(pauses.after(error))

    async def remove(self) -> None:
        """Remove the taint now; that there is none is fine. The errors of ``Api``."""
        for attempt in range(1, _RACES + 1):
            node = Node.of(await self._api.get(self._path))
            left = [taint.value for taint in node.taints if taint.key != self._key]
            if len(left) == len(node.taints):
                return
            # Others write taints too: the patch holds only for the list that was read.
            patch: list[Json] = [
                {"op": "test", "path": "/spec/taints", "value": [taint.value for taint in node.taints]},
                {"op": "replace", "path": "/spec/taints", "value": left},
            ]
            try:
                await self._api.patch(self._path, patch, JSON_PATCH)
            except (Conflict, Invalid):
                if attempt == _RACES:
                    raise
                continue
            log.info("node %s is ready: its taint %s is removed", self._node_name, self._key)
            return
