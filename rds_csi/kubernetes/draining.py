"""The end of a node's pod while the node is drained: its volumes have to be detached first.

When the node plugin goes while volumes are attached, nobody unmounts them, and Kubernetes waits six minutes before it
detaches by force (the attach-detach controller's maxWaitForUnmountDuration). So the plugin stays until they are gone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rds_csi.errors import DriverError
from rds_csi.kubernetes.api import Api
from rds_csi.kubernetes.attachments import Attachments
from rds_csi.kubernetes.errors import NoSuchObject
from rds_csi.kubernetes.resources import Node, node_path
from rds_csi.kubernetes.taints import startup_taint
from rds_csi.retry import Clock

# Seconds between two looks.
LOOK_SECONDS = 2.0
# Seconds to find out whether the node is being drained at all: an upgrade must not wait for an API that is away.
ASK_SECONDS = 10.0
# Volumes that are named up to here.
_NAMED = 5

_NO_EXECUTE = "NoExecute"
# Taints by which a node is emptied whatever their effect: Kubernetes' own for a node that is gone, and those of the
# two autoscalers, which use NoSchedule.
_LEAVING = frozenset({"node.kubernetes.io/out-of-service", "ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"})

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Look:
    """How it stands, in one sentence; whether the API server ``answered``; ``done``: nothing is left to wait for."""

    text: str
    answered: bool
    done: bool


class Draining:
    """Waits for this driver's volumes to leave one node."""

    def __init__(self, api: Api, attachments: Attachments, *, driver_name: str, node_name: str, clock: Clock) -> None:
        self._api = api
        self._attachments = attachments
        self._own_taint = startup_taint(driver_name)
        self._node_name = node_name
        self._clock = clock

    async def wait(self, timeout: float, tell: Tell) -> bool:
        """While the node is drained, wait at most ``timeout`` seconds until nothing is attached to it.

        ``tell`` is told why it waits and how that ended, each thing once. False when the time was over before.
        """
        begun = self._clock.now()
        end, said = begun + min(timeout, ASK_SECONDS), ""
        while True:
            look = await self._look()
            if look.answered:
                end = begun + timeout
            if look.text != said:
                tell(look.text)
            said = look.text
            if look.done:
                return True
            left = end - self._clock.now()
            if left <= 0:
                tell("no longer waited for")
                return False
            await self._clock.sleep(min(LOOK_SECONDS, left))

    async def _look(self) -> _Look:
        try:
            why = await self._why()
            volumes = [item.volume for item in await self._attachments.here()] if why else []
        except DriverError as error:
            return _Look(f"node {self._node_name} cannot be looked at: {error}", answered=False, done=False)
        return _Look(self._state(why, volumes), answered=True, done=not volumes)

    async def _why(self) -> str:
        """Why the node is taken to be drained; "" when it is not."""
        try:
            node = Node.of(await self._api.get(node_path(self._node_name)))
        except NoSuchObject:
            return "it is deleted"
        if node.unschedulable:
            return "it is unschedulable"
        taints = [
            taint.key
            for taint in node.taints
            if taint.key in _LEAVING or (taint.effect == _NO_EXECUTE and taint.key != self._own_taint)
        ]
        return f"it has the taint {taints[0]}" if taints else ""

    def _state(self, why: str, volumes: list[str]) -> str:
        if not why:
            return f"node {self._node_name} is not being drained: nothing to wait for"
        if not volumes:
            return (
                f"node {self._node_name} is being drained ({why}), and nothing is attached to it: nothing to wait for"
            )
        names = ", ".join(sorted(volumes)[:_NAMED])
        more = f" and {len(volumes) - _NAMED} more" if len(volumes) > _NAMED else ""
        return f"node {self._node_name} is being drained ({why}): waiting for {names}{more} to be detached"
