"""What the array has: volumes, their health, and what it can still give."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rds_csi.arrays.protocol import Array
from rds_csi.csi import v1 as csi
from rds_csi.errors import NotFound
from rds_csi.model.parameters import VolumeParameters
from rds_csi.model.volumes import HealthProblem, Volume
from rds_csi.services import topology
from rds_csi.services.capabilities import parse_capability, why_any_unsupported
from rds_csi.services.checks import require_volume_id
from rds_csi.services.convert import health_message, volume_message
from rds_csi.services.paging import KeptListing, check_max_entries, id_before, paginate, token_after

# What a node says of a volume; nothing when it is not staged there.
NodeHealth = Callable[[str], Awaitable[Sequence[HealthProblem]]]

_VOLUMES = "volumes"
_HEALTH = "health"
# How many volumes an array is asked about at once: what asks together, an array over the network answers together.
_TOGETHER = 1024


class Listing:
    """Reads only; holds no lock, so that a long operation on one volume never hides the others."""

    def __init__(self, array: Array, segments: topology.Segments, node_health: NodeHealth | None = None) -> None:
        """``node_health``: what the node in the same process says, where there is one."""
        self._array = array
        self._segments = segments
        self._node_health = node_health
        self._kept = KeptListing(array.list_volumes)

    async def volumes(self, request: csi.ListVolumesRequest) -> csi.ListVolumesResponse:
        """ListVolumes, sorted by id."""
        # The request is checked before the array is asked.
        check_max_entries(request.max_entries)
        id_before(_VOLUMES, request.starting_token)
        page, next_token = paginate(
            await self._kept.entries(request.starting_token),
            lambda volume: volume.volume_id,
            kind=_VOLUMES,
            max_entries=request.max_entries,
            token=request.starting_token,
        )
        if not next_token:
            self._kept.forget()
        entries = [
            csi.ListVolumesResponseEntry(
                volume=volume_message(volume, self._segments),
                status=csi.ListVolumesResponseVolumeStatus(published_node_ids=_published(volume)),
            )
            for volume in page
        ]
        return csi.ListVolumesResponse(entries=entries, next_token=next_token)

    async def volume(self, request: csi.ControllerGetVolumeRequest) -> csi.ControllerGetVolumeResponse:
        """ControllerGetVolume."""
        volume = await self._array.get_volume(require_volume_id(request.volume_id))
        return csi.ControllerGetVolumeResponse(
            volume=volume_message(volume, self._segments),
            status=csi.ControllerGetVolumeResponseVolumeStatus(published_node_ids=_published(volume)),
        )

    async def volume_health(
        self, request: csi.ControllerGetVolumeHealthRequest
    ) -> csi.ControllerGetVolumeHealthResponse:
        """ControllerGetVolumeHealth."""
        volume_id = require_volume_id(request.volume_id)
        problems = await self._problems(volume_id)
        return csi.ControllerGetVolumeHealthResponse(volume_health=health_message(volume_id, problems))

    async def unhealthy_volumes(
        self, request: csi.ControllerListVolumeHealthRequest
    ) -> csi.ControllerListVolumeHealthResponse:
        """ControllerListVolumeHealth: only the volumes with which something is wrong, sorted by id."""
        limit = check_max_entries(request.max_entries)
        last_id = id_before(_HEALTH, request.starting_token)
        entries: list[csi.VolumeHealth] = []
        listed = sorted(volume.volume_id for volume in await self._kept.entries(request.starting_token))
        ids = [volume_id for volume_id in listed if volume_id > last_id]
        for begin in range(0, len(ids), _TOGETHER):
            for volume_id, problems in await self._problems_of(ids[begin : begin + _TOGETHER]):
                if limit and len(entries) == limit:
                    return csi.ControllerListVolumeHealthResponse(
                        entries=entries, next_token=token_after(_HEALTH, entries[-1].volume_id)
                    )
                entries.append(health_message(volume_id, problems))
        return csi.ControllerListVolumeHealthResponse(entries=entries)

    async def capacity(self, request: csi.GetCapacityRequest) -> csi.GetCapacityResponse:
        """GetCapacity: nothing for volumes that could never be made, or not there."""
        parameters = VolumeParameters.parse(request.parameters)
        capabilities = [parse_capability(message) for message in request.volume_capabilities]
        elsewhere = bool(self._segments) and not topology.is_within(request.accessible_topology, self._segments)
        if elsewhere or why_any_unsupported(capabilities):
            return csi.GetCapacityResponse(available_capacity=0, maximum_volume_size=0)
        capacity = await self._array.capacity(parameters.pool)
        return csi.GetCapacityResponse(
            available_capacity=capacity.available,
            maximum_volume_size=capacity.maximum_volume_size,
            minimum_volume_size=capacity.minimum_volume_size,
        )

    async def _problems_of(self, volume_ids: Sequence[str]) -> list[tuple[str, Sequence[HealthProblem]]]:
        """Those of the volumes with which something is wrong, and what; one deleted since it was listed is none."""
        answers = await asyncio.gather(*map(self._problems, volume_ids), return_exceptions=True)
        found = []
        for volume_id, answer in zip(volume_ids, answers, strict=True):
            if isinstance(answer, NotFound):
                continue
            if isinstance(answer, BaseException):
                raise answer
            if answer:
                found.append((volume_id, answer))
        return found

    async def _problems(self, volume_id: str) -> Sequence[HealthProblem]:
        """What is wrong with the volume, on the array and on the node of this process; NotFound if absent."""
        problems = await self._array.health(volume_id)
        return problems if self._node_health is None else [*problems, *await self._node_health(volume_id)]


def _published(volume: Volume) -> list[str]:
    return sorted(attachment.node.node_id for attachment in volume.attachments)
