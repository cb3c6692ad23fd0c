"""VolumeAttachments: what is attached to this node, and what has moved to others (Kubernetes API, storage.k8s.io/v1).

They are what the attach-detach controller and csi-attacher go by: a forced detach, an out-of-service taint and a
deleted Node object show here first.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rds_csi.errors import DriverError
from rds_csi.kubernetes.api import Api
from rds_csi.kubernetes.errors import NoSuchObject
from rds_csi.kubernetes.resources import (
    VOLUME_ATTACHMENTS,
    VOLUMES,
    PersistentVolume,
    VolumeAttachment,
    node_path,
    volume_path,
)
from rds_csi.kubernetes.values import Object

log = logging.getLogger(__name__)

# Seconds for a whole look at all attachments.
_LOOK_SECONDS = 30.0
# Beyond this many unknown volumes (a node that has just started) one list of all is asked for instead.
_SINGLE_GETS = 20


class Attachments:
    """The attachments of this driver's volumes, as seen from one node."""

    def __init__(self, api: Api, *, driver_name: str, node_name: str) -> None:
        self._api = api
        self._driver_name = driver_name
        self._node_name = node_name
        # NQNs by the uids of attachments: a PersistentVolume's source never changes, and it cannot go before they do.
        self._nqns: dict[str, str] = {}
        # Whether this node's name was seen to be a Node's, and whether it was told that it is none.
        self._is_named = self._told = False
        self._moved: frozenset[str] = frozenset()
        # How many looks have begun, and the number of the one that the answer is of.
        self._begun = self._answered = 0
        self._looking = asyncio.Lock()

    async def here(self) -> list[VolumeAttachment]:
        """Those that name this node, attached or not. The errors of ``Api``."""
        return [item for item in await self._all() if item.node == self._node_name]

    async def moved(self) -> frozenset[str]:
        """The NQNs of volumes that are attached to other nodes while nothing names this one for them.

        Empty when the cluster does not tell. The answer is never older than the question; callers that come while
        another one looks share the next look.
        """
        before = self._begun
        async with self._looking:
            if self._answered <= before:
                self._begun += 1
                self._moved = await self._look_safely()
                self._answered = self._begun
            return self._moved

    async def _look_safely(self) -> frozenset[str]:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await self._look()
        except (DriverError, TimeoutError) as error:
            log.debug("the cluster does not tell what is attached elsewhere: %s", error or "no end in time")
        except Exception:
            # Whatever the API server answers: the sweep goes on by what the machine itself shows.
            log.exception("what is attached elsewhere could not be read")
        return frozenset()

    async def _look(self) -> frozenset[str]:
        attachments = await self._all()
        here = [item for item in attachments if item.node == self._node_name]
        elsewhere = [item for item in attachments if item.attached and item.node != self._node_name]
        self._is_named = self._is_named or bool(here)
        if not elsewhere or not await self._name_is_a_nodes():
            return frozenset()
        await self._learn([*here, *elsewhere])
        if any(not self._nqns.get(item.uid) for item in here):
            # Several PersistentVolumes may be of one volume: it could be any of those elsewhere.
            return frozenset()
        kept = {self._nqns[item.uid] for item in here}
        return frozenset({self._nqns.get(item.uid, "") for item in elsewhere} - kept - {""})

    async def _name_is_a_nodes(self) -> bool:
        """Whether this node is known by its name: by another one (a host name, where Nodes have longer ones) everything
        that is attached here would look as if it were elsewhere. A Node that was there may be deleted later."""
        if not self._is_named:
            try:
                await self._api.get(node_path(self._node_name))
            except NoSuchObject:
                level = logging.DEBUG if self._told else logging.WARNING
                log.log(
                    level,
                    "there is no Node %s: what is attached elsewhere is not known. Give --node-id the Node's name.",
                    self._node_name,
                )
                self._told = True
            else:
                self._is_named = True
        return self._is_named

    async def _all(self) -> list[VolumeAttachment]:
        def ours(value: Object) -> VolumeAttachment | None:
            attachment = VolumeAttachment.of(value)
            return attachment if attachment.attacher == self._driver_name and attachment.volume else None

        return await self._api.collect(VOLUME_ATTACHMENTS, ours)

    async def _learn(self, attachments: Sequence[VolumeAttachment]) -> None:
        """Learn the NQNs of attachments that are new, and forget those of the ones that are gone."""
        self._nqns = {item.uid: self._nqns[item.uid] for item in attachments if item.uid in self._nqns}
        new: dict[str, list[str]] = defaultdict(list)
        for item in attachments:
            if item.uid not in self._nqns:
                new[item.volume].append(item.uid)
        async with aclosing(self._nqns_of(frozenset(new))) as nqns:
            async for name, nqn in nqns:
                # One by one: what is known stays known, also when the time is over before all are.
                self._nqns.update(dict.fromkeys(new[name], nqn))

    async def _nqns_of(self, names: frozenset[str]) -> AsyncGenerator[tuple[str, str], None]:
        """Names and NQNs of those PersistentVolumes that are there; "" for one without."""

        def wanted(value: Object) -> PersistentVolume | None:
            volume = PersistentVolume.of(value)
            return volume if volume.name in names else None

        if len(names) > _SINGLE_GETS:
            for volume in await self._api.collect(VOLUMES, wanted):
                yield volume.name, volume.nqn
            return
        for name in names:
            try:
                found = await self._api.get(volume_path(name))
            except NoSuchObject:
                continue
            yield name, PersistentVolume.of(found).nqn
