"""CreateVolume: what is asked for is checked, made, and compared with what is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rds_csi.arrays.protocol import Array, Feature
from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import AlreadyExists, InvalidArgument, NotFound, OutOfRange, Unavailable
from rds_csi.filesystem.mkfs import MINIMUM_BYTES, check_options
from rds_csi.locks import OperationLocks
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.mounts import DEFAULT_FILESYSTEM
from rds_csi.model.names import check_name, id_for_name
from rds_csi.model.parameters import CONNECTION_KEYS, PROVISIONING_KEY, VolumeParameters, parse_mutable
from rds_csi.model.sizes import DEFAULT_VOLUME_SIZE, SizeRange, round_up
from rds_csi.model.volumes import ContentSource, SourceKind, Volume, VolumeCapability, VolumeSpec
from rds_csi.services import topology
from rds_csi.services.capabilities import parse_capabilities, why_any_unsupported
from rds_csi.services.convert import content_source, size_range, volume_message
from rds_csi.tasks import finish


@dataclass(frozen=True, slots=True)
class _Wish:
    """A CreateVolume request, checked. ``connection`` are the connection parameters in force at first.

    ``fs_minimum`` (bytes) is what the filesystem needs that the node will be asked to make; 0 for none.
    """

    volume_id: str
    name: str
    sizes: SizeRange
    fs_minimum: int
    parameters: VolumeParameters
    names_provisioning: bool
    connection: Mapping[str, str]
    source: ContentSource | None


class Creating:
    """Makes volumes. The same request again finds the same volume; another one for its name is refused."""

    def __init__(self, array: Array, connector: Connector, locks: OperationLocks, segments: topology.Segments) -> None:
        self._array = array
        self._connector = connector
        self._locks = locks
        self._segments = segments

    async def create(self, request: csi.CreateVolumeRequest) -> csi.CreateVolumeResponse:
        """CreateVolume: everything is checked before anything is made."""
        wish = self._check(request)
        with self._locks.hold("CreateVolume", wish.volume_id):
            volume = await self._obtain(wish, request.accessibility_requirements)
            _check_same(volume, wish)
        target_context = self._connector.volume_context(volume.target, wish.parameters.connection)
        context = {**target_context, **wish.parameters.to_context()}
        return csi.CreateVolumeResponse(volume=volume_message(volume, self._segments, context))

    def _check(self, request: csi.CreateVolumeRequest) -> _Wish:
        name = check_name(request.name, "name")
        capabilities = parse_capabilities(request.volume_capabilities)
        reason = why_any_unsupported(capabilities)
        if reason:
            raise InvalidArgument(reason)
        parameters = VolumeParameters.parse(request.parameters)
        mutable = parse_mutable(request.mutable_parameters)
        given = {key: value for key, value in request.parameters.items() if key in CONNECTION_KEYS}
        connection = {**given, **mutable}
        # Each half was good; now both together.
        ConnectionConfig.from_context(connection)
        source = content_source(request.volume_content_source)
        self._check_source_kind(source)
        return _Wish(
            volume_id=id_for_name(name),
            name=name,
            sizes=size_range(request.capacity_range),
            fs_minimum=0 if source else _minimum_for_filesystems(capabilities, parameters),
            parameters=parameters,
            names_provisioning=PROVISIONING_KEY in request.parameters,
            connection=connection,
            source=source,
        )

    def _check_source_kind(self, source: ContentSource | None) -> None:
        if source is None:
            return
        needed = Feature.SNAPSHOTS if source.kind is SourceKind.SNAPSHOT else Feature.CLONES
        if needed not in self._array.traits.features:
            raise InvalidArgument(f"this array cannot make a volume from a {source.kind.value}")

    async def _obtain(self, wish: _Wish, requirement: csi.TopologyRequirement) -> Volume:
        """The volume of that id: as it is when it exists, else made now.

        The array itself looks before it makes one; another look here would cost a round trip for every volume.
        Only what is needed for nothing but a new volume is preceded by one: topology, and the source, which may
        be gone by the time of a repeated call.
        """
        reachable = topology.fits(requirement, self._segments)
        if wish.source is not None or not reachable:
            existing = await self._find(wish.volume_id)
            if existing is not None:
                return existing
        topology.check_requirement(requirement, self._segments, "a new volume")
        return await finish(self._array.create_volume(_spec(wish, await self._choose_size(wish))))

    async def _find(self, volume_id: str) -> Volume | None:
        try:
            return await self._array.get_volume(volume_id)
        except NotFound:
            return None

    async def _choose_size(self, wish: _Wish) -> int:
        """The size in bytes of a new volume: within the range, and never below its source's."""
        traits = self._array.traits
        least = await self._source_size(wish.source)
        smallest = round_up(max(least, wish.fs_minimum, traits.minimum_volume_size), traits.granularity)
        limit = wish.sizes.limit
        if limit and limit < smallest:
            raise OutOfRange(f"limit_bytes {limit} is below the {smallest} bytes that are needed")
        if wish.source is not None and 0 < wish.sizes.required < least:
            raise OutOfRange(
                f"required_bytes {wish.sizes.required} is below the {least} bytes of "
                f"{wish.source.kind.value} {wish.source.source_id}"
            )
        size = wish.sizes.choose(
            granularity=traits.granularity,
            default=least or DEFAULT_VOLUME_SIZE,
            maximum=traits.maximum_volume_size,
        )
        return max(size, smallest)

    async def _source_size(self, source: ContentSource | None) -> int:
        """The bytes of the source, 0 without one; NotFound when it is absent, Unavailable until it is ready."""
        if source is None:
            return 0
        if source.kind is SourceKind.VOLUME:
            return (await self._array.get_volume(source.source_id)).size
        snapshot = await self._array.get_snapshot(source.source_id)
        if not snapshot.ready:
            raise Unavailable(f"snapshot {source.source_id} is not ready to use yet")
        return snapshot.size


def _minimum_for_filesystems(capabilities: Sequence[VolumeCapability], parameters: VolumeParameters) -> int:
    """The bytes that the filesystems asked for need; InvalidArgument for mkfs options that one does not take.

    Told here, not at the first stage: a claim of 100 MiB with xfs gets the 300 MiB that mkfs.xfs needs.
    """
    minimum = 0
    for capability in capabilities:
        if not capability.block:
            fs_type = capability.fs_type or parameters.fs_type or DEFAULT_FILESYSTEM
            check_options(fs_type, parameters.mkfs_options)
            minimum = max(minimum, MINIMUM_BYTES[fs_type])
    return minimum


def _spec(wish: _Wish, size: int) -> VolumeSpec:
    return VolumeSpec(
        volume_id=wish.volume_id,
        name=wish.name,
        size=size,
        provisioning=wish.parameters.provisioning,
        pool=wish.parameters.pool,
        source=wish.source,
        mutable_parameters=wish.connection,
    )


def _check_same(volume: Volume, wish: _Wish) -> None:
    """AlreadyExists, naming every difference, when ``volume`` is not what the request asks for."""
    differences = []
    if volume.name != wish.name:
        differences.append(f"its name is {volume.name!r}")
    if not wish.sizes.admits(volume.size):
        differences.append(f"it has {volume.size} bytes")
    if volume.source != wish.source:
        differences.append("it was made from another source")
    if wish.parameters.pool and not f"{volume.pool}/".startswith(f"{wish.parameters.pool}/"):
        differences.append(f"it is in pool {volume.pool!r}")
    if wish.names_provisioning and volume.provisioning is not wish.parameters.provisioning:
        differences.append(f"it is {volume.provisioning.value}")
    if differences:
        raise AlreadyExists(f"volume {volume.volume_id} exists, but not as asked: {', '.join(differences)}")
