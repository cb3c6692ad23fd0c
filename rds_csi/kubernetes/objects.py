"""Which objects of the cluster a notice is about: the PersistentVolume of a volume, its claim, a node."""

from dataclasses import dataclass

from rds_csi.kubernetes.api import Api
from rds_csi.kubernetes.errors import Forbidden, NoSuchObject
from rds_csi.kubernetes.resources import VOLUMES, PersistentVolume, Reference, claim_path, volume_path
from rds_csi.kubernetes.values import Object, text
from rds_csi.model.names import is_id
from rds_csi.model.notices import ClaimName, Notice
from rds_csi.retry import Clock

# Seconds for which it is remembered which PersistentVolume a volume has, or that it has none.
MEMORY_SECONDS = 300.0
# Volumes remembered; beyond that everything is forgotten.
_MOST_VOLUMES = 1024


@dataclass(frozen=True, slots=True)
class _Found:
    volume: PersistentVolume | None
    until: float


class Objects:
    """Finds objects of this driver's volumes. ``node_name`` is the Node object of this process."""

    def __init__(self, api: Api, *, driver_name: str, node_name: str, clock: Clock) -> None:
        self._api = api
        self._driver_name = driver_name
        self._node_name = node_name
        self._clock = clock
        self._found: dict[tuple[str, str], _Found] = {}

    async def of(self, notice: Notice) -> tuple[Reference, ...]:
        """The objects that the notice is to be told on: a claim and its volume, or a node; none when there are none.

        The errors of ``Api``.
        """
        if notice.reason.is_of_node:
            name = notice.node or self._node_name
            # Events of the kubelet have the name for the uid too, and kubectl describe looks for both.
            return (Reference("Node", name, uid=name),)
        volume = await self._volume(notice.volume_id, notice.nqn) if notice.volume_id or notice.nqn else None
        claim = volume.claim if volume is not None else None
        if claim is None and notice.claim is not None:
            claim = await self._claim(notice.claim)
        return tuple(item for item in (claim, volume.reference if volume is not None else None) if item is not None)

    async def _claim(self, claim: ClaimName) -> Reference | None:
        try:
            found = await self._api.get(claim_path(claim.namespace, claim.name))
        except NoSuchObject:
            return None
        except Forbidden:
            # The name is known all the same: only kubectl describe does not find the event then.
            return Reference("PersistentVolumeClaim", claim.name, claim.namespace)
        return Reference("PersistentVolumeClaim", claim.name, claim.namespace, text(found, "metadata", "uid"))

    async def _volume(self, volume_id: str, nqn: str) -> PersistentVolume | None:
        key = (volume_id, "" if volume_id else nqn)
        known = self._found.get(key)
        if known is None or known.until <= self._clock.now():
            if len(self._found) >= _MOST_VOLUMES:
                self._found.clear()
            known = _Found(await self._look(*key), self._clock.now() + MEMORY_SECONDS)
            self._found[key] = known
        return known.volume

    async def _look(self, volume_id: str, nqn: str) -> PersistentVolume | None:
        def wanted(value: Object) -> PersistentVolume | None:
            volume = PersistentVolume.of(value)
            is_wanted = volume.volume_id == volume_id if volume_id else volume.nqn == nqn
            return volume if is_wanted and volume.driver == self._driver_name else None

        if is_id(volume_id):
            # external-provisioner names a volume and its PersistentVolume alike: no list is needed.
            try:
                found = wanted(await self._api.get(volume_path(volume_id)))
            except NoSuchObject:
                found = None
            if found is not None:
                return found
        return await self._api.find(VOLUMES, wanted)
