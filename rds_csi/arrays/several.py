"""The array ``config:///file``: several named arrays behind one; one that is away takes only its own volumes along."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TypeVar

from rds_csi.arrays.protocol import Array, ArrayOptions, ArrayTraits, Feature
from rds_csi.arrays.several_config import SCHEME, open_by_scheme, open_children, read_config
from rds_csi.arrays.several_places import check_places, siblings_of
from rds_csi.arrays.several_search import PATIENCE, Kind, Search, ask, combined, complete, twice
from rds_csi.arrays.url import parse_array_url
from rds_csi.errors import (
    ConfigurationError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
)
from rds_csi.model.connection import nearest
from rds_csi.model.paths import check_path
from rds_csi.model.sizes import round_up
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    ContentSource,
    Finding,
    HealthProblem,
    Snapshot,
    SnapshotGroup,
    SourceKind,
    Volume,
    VolumeSpec,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

_FORM = f"{SCHEME}:///etc/rds-csi/arrays.toml"
_ABILITIES = {
    Feature.SNAPSHOTS: "take snapshots",
    Feature.CLONES: "clone volumes",
    Feature.GROUP_SNAPSHOTS: "take group snapshots",
    Feature.EXPANSION: "grow volumes",
    Feature.CAPACITY: "tell its capacity",
    Feature.HEALTH: "tell the health of volumes",
}


def open_array(url: str, options: ArrayOptions) -> "SeveralArrays":
    """The arrays that the file in ``url`` names; ConfigurationError when one of them cannot work."""
    parts = parse_array_url(url, form=_FORM)
    if parts.host or parts.port:
        raise ConfigurationError("the arrays' file is on this machine", remedy=f"It reads {_FORM}, with three slashes.")
    try:
        path = check_path(parts.path, "the arrays' file")
    except InvalidArgument as error:
        raise ConfigurationError(error.message, remedy=f"It reads {_FORM}.") from None
    config = read_config(path)
    children = open_children(config.urls, options, open_by_scheme)
    check_places(children)
    return SeveralArrays(children, config.default)


class SeveralArrays:
    """Arrays by name. ``pool`` is "" (the default array), ``name``, or ``name/pool`` for a pool of that array."""

    def __init__(self, children: Mapping[str, Array], default: str, *, patience: float = PATIENCE) -> None:
        """``default`` is a name of ``children``. ``patience``: seconds that a slow array gets once another has
        answered what was asked of both."""
        self.children = dict(children)
        self._default = default
        self._siblings = siblings_of(children)
        self._search = Search(self.children, patience=patience, siblings=self._siblings)

    @property
    def traits(self) -> ArrayTraits:
        """What one of them can do is offered; sizes fit all of them, but for the largest."""
        traits = [child.traits for child in self.children.values()]
        granularity = math.lcm(*(item.granularity for item in traits))
        return ArrayTraits(
            name=f"arrays {', '.join(self.children)}",
            features=reduce(Feature.__or__, (item.features for item in traits)),
            granularity=granularity,
            minimum_volume_size=round_up(max(item.minimum_volume_size for item in traits), granularity),
            maximum_volume_size=max(item.maximum_volume_size for item in traits) // granularity * granularity,
            needs_host_nqn=any(item.needs_host_nqn for item in traits),
        )

    async def start(self) -> None:
        answers = await ask(self.children, lambda child: child.start())
        for name, error in answers.errors.items():
            if isinstance(error, ConfigurationError):
                await self.close()
                raise ConfigurationError(f"array {name}: {error.message}", remedy=error.remedy)
            _log.warning("array %s is not ready yet: %s", name, error)

    async def close(self) -> None:
        for name, error in (await ask(self.children, lambda child: child.close())).errors.items():
            _log.warning("array %s could not be closed: %s", name, error)

    async def check(self) -> Sequence[Finding]:
        answers = await ask(self.children, lambda child: child.check())
        findings = [
            replace(finding, subject=f"{name}: {finding.subject}")
            for name in self.children
            for finding in answers.values.get(name, ())
        ]
        return findings + [Finding(name, False, error.message, error.remedy) for name, error in answers.errors.items()]

    # Volumes

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        try:
            name, pool = await self._destination(spec.pool, spec.source)
        except NotFound:
            # The source may be gone since the volume was made of it.
            existing = await self._search.find_elsewhere(Kind.VOLUME, spec.volume_id, _volume(spec.volume_id), ())
            if existing is None:
                raise
            return _placed(*existing, asked=spec.pool)
        # A class that was changed between two attempts must not make a second volume of the same name.
        elsewhere = await self._search.find_elsewhere(Kind.VOLUME, spec.volume_id, _volume(spec.volume_id), (name,))
        if elsewhere is not None:
            return _placed(*elsewhere, asked=spec.pool)
        self._check_can_make(name, spec)
        volume = await self.children[name].create_volume(replace(spec, pool=pool))
        self._search.note(Kind.VOLUME, spec.volume_id, name)
        return _placed(name, volume, asked=spec.pool)

    async def delete_volume(self, volume_id: str) -> None:
        await self._delete(Kind.VOLUME, volume_id, _volume(volume_id), lambda child: child.delete_volume(volume_id))

    async def get_volume(self, volume_id: str) -> Volume:
        return _placed(*await self._search.find(Kind.VOLUME, volume_id, _volume(volume_id)))

    async def list_volumes(self) -> Sequence[Volume]:
        answers = await ask(self.children, lambda child: child.list_volumes())
        found: dict[str, tuple[str, Volume]] = {}
        for name, volumes in complete(answers, "the volumes are not all known").items():
            for volume in volumes:
                if volume.volume_id in found:
                    raise twice(Kind.VOLUME, volume.volume_id, (found[volume.volume_id][0], name))
                found[volume.volume_id] = (name, volume)
                self._search.note(Kind.VOLUME, volume.volume_id, name)
        return [_placed(*found[volume_id]) for volume_id in sorted(found)]

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        async def expand(name: str, child: Array) -> Volume:
            self._require(name, Feature.EXPANSION)
            _check_size(name, child, size)
            return await child.expand_volume(volume_id, size)

        return _placed(*await self._on_volume(volume_id, expand))

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        async def modify(_: str, child: Array) -> Volume:
            return await child.modify_volume(volume_id, parameters)

        return _placed(*await self._on_volume(volume_id, modify))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        async def attach(_: str, child: Array) -> Volume:
            return await child.attach_volume(volume_id, attachment)

        return _placed(*await self._on_volume(volume_id, attach))

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        try:
            name, _ = await self._search.find(Kind.VOLUME, volume_id, _volume(volume_id))
        except NotFound:
            return
        await self.children[name].detach_volume(volume_id, node_id)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        async def health(name: str, child: Array) -> Sequence[HealthProblem]:
            self._require(name, Feature.HEALTH)
            return await child.health(volume_id)

        return (await self._on_volume(volume_id, health))[1]

    # Snapshots

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        existing = await self._search.find_elsewhere(Kind.SNAPSHOT, snapshot_id, _snapshot(snapshot_id), ())
        if existing is not None:
            return existing[1]

        async def create(home: str, child: Array) -> Snapshot:
            self._require(home, Feature.SNAPSHOTS)
            return await child.create_snapshot(snapshot_id, name, volume_id)

        home, snapshot = await self._on_volume(volume_id, create)
        self._search.note(Kind.SNAPSHOT, snapshot_id, home)
        return snapshot

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await self._delete(
            Kind.SNAPSHOT, snapshot_id, _snapshot(snapshot_id), lambda child: child.delete_snapshot(snapshot_id)
        )

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        return (await self._search.find(Kind.SNAPSHOT, snapshot_id, _snapshot(snapshot_id)))[1]

    async def list_snapshots(self) -> Sequence[Snapshot]:
        able = {name: child for name, child in self.children.items() if Feature.SNAPSHOTS in child.traits.features}
        answers = await ask(able, lambda child: child.list_snapshots())
        found: dict[str, tuple[str, Snapshot]] = {}
        for name, snapshots in complete(answers, "the snapshots are not all known").items():
            for snapshot in snapshots:
                if snapshot.snapshot_id in found:
                    raise twice(Kind.SNAPSHOT, snapshot.snapshot_id, (found[snapshot.snapshot_id][0], name))
                found[snapshot.snapshot_id] = (name, snapshot)
                self._search.note(Kind.SNAPSHOT, snapshot.snapshot_id, name)
        return [found[snapshot_id][1] for snapshot_id in sorted(found)]

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        existing = await self._search.find_elsewhere(Kind.GROUP, group_id, _group(group_id), ())
        if existing is not None:
            return existing[1]
        homes = {(await self._search.find(Kind.VOLUME, item, _volume(item)))[0] for item in volume_ids}
        if len(homes) != 1:
            raise FailedPrecondition(
                f"the volumes of group snapshot {group_id} are in the arrays {' and '.join(sorted(homes))}",
                remedy="A group snapshot is of volumes in one array: make one for each.",
            )
        (home,) = homes
        self._require(home, Feature.GROUP_SNAPSHOTS)
        group = await self.children[home].create_group(group_id, name, volume_ids)
        self._search.note(Kind.GROUP, group_id, home)
        return group

    async def delete_group(self, group_id: str) -> None:
        await self._delete(Kind.GROUP, group_id, _group(group_id), lambda child: child.delete_group(group_id))

    async def get_group(self, group_id: str) -> SnapshotGroup:
        return (await self._search.find(Kind.GROUP, group_id, _group(group_id)))[1]

    # The whole

    async def capacity(self, pool: str) -> Capacity:
        """Of one array: what is free in the others is of no use to a volume in this one."""
        name, own_pool = self._place(pool)
        self._require(name, Feature.CAPACITY)
        return await self.children[name].capacity(own_pool)

    # Where things are, and where they go

    def _place(self, pool: str) -> tuple[str, str]:
        """The array that ``pool`` names, and its own pool there ("": the one that it takes by itself)."""
        name, separator, own_pool = pool.partition("/")
        if not pool:
            return self._default, ""
        if name not in self.children or bool(separator) != bool(own_pool):
            raise InvalidArgument(
                f"there is no pool {pool[:64]!r}{nearest(name, sorted(self.children))}",
                remedy=f"It is an array, or array/pool; the arrays are {', '.join(self.children)}.",
            )
        return name, own_pool

    async def _destination(self, pool: str, source: ContentSource | None) -> tuple[str, str]:
        """Where a new volume goes: to its source, whose data no other array has."""
        name, own_pool = self._place(pool)
        if source is None:
            return name, own_pool
        if source.kind is SourceKind.SNAPSHOT:
            home, _ = await self._search.find(Kind.SNAPSHOT, source.source_id, _snapshot(source.source_id))
        else:
            home, _ = await self._search.find(Kind.VOLUME, source.source_id, _volume(source.source_id))
        if pool and home != name:
            raise InvalidArgument(
                f"{source.kind.value} {source.source_id} is in the array {home}, not in {name}",
                remedy="Restore and clone with a StorageClass of the same array: data is not copied between arrays.",
            )
        return home, own_pool if pool else ""

    def _check_can_make(self, name: str, spec: VolumeSpec) -> None:
        _check_size(name, self.children[name], spec.size)
        if spec.source is not None:
            self._require(name, Feature.SNAPSHOTS if spec.source.kind is SourceKind.SNAPSHOT else Feature.CLONES)

    def _require(self, name: str, feature: Feature) -> None:
        if feature not in self.children[name].traits.features:
            raise FailedPrecondition(
                f"the array {name} cannot {_ABILITIES[feature]}",
                remedy="Others behind this driver can: choose by the parameter 'pool' of the StorageClass.",
            )

    async def _on_volume(self, volume_id: str, action: Callable[[str, Array], Awaitable[T]]) -> tuple[str, T]:
        """Do ``action``, which says NotFound for an absent volume, in the array that has it. No look where it was
        seen last: the action is one."""
        hint = self._search.last_seen(Kind.VOLUME, volume_id)
        if hint:
            try:
                return hint, await action(hint, self.children[hint])
            except NotFound:
                self._search.forget(Kind.VOLUME, volume_id)
        name, _ = await self._search.find(Kind.VOLUME, volume_id, _volume(volume_id))
        return name, await action(name, self.children[name])

    async def _delete(
        self,
        kind: Kind,
        object_id: str,
        look: Callable[[Array], Awaitable[object]],
        delete: Callable[[Array], Awaitable[None]],
    ) -> None:
        """Never in two at once; where none has it any more, a deletion that stopped half-way may have left something
        that only the array itself finds."""
        try:
            name, _ = await self._search.find(kind, object_id, look)
        except NotFound:
            answers = await ask(self.children, delete, siblings=self._siblings)
            if answers.failures:
                raise combined(answers.failures, f"what is left of {kind.value} {object_id} is not known") from None
            return
        await delete(self.children[name])
        self._search.forget(kind, object_id)


def _volume(volume_id: str) -> Callable[[Array], Awaitable[Volume]]:
    return lambda child: child.get_volume(volume_id)


def _snapshot(snapshot_id: str) -> Callable[[Array], Awaitable[Snapshot]]:
    return lambda child: child.get_snapshot(snapshot_id)


def _group(group_id: str) -> Callable[[Array], Awaitable[SnapshotGroup]]:
    return lambda child: child.get_group(group_id)


def _placed(name: str, volume: Volume, asked: str = "") -> Volume:
    """The volume with its array in its pool: ``name/pool``, or as it was ``asked`` for when that says the same."""
    pool = f"{name}/{volume.pool}" if volume.pool else name
    return replace(volume, pool=asked if asked and pool.startswith(f"{asked}/") else pool)


def _check_size(name: str, child: Array, size: int) -> None:
    """What all together are offered as largest may be too large for one."""
    largest = child.traits.maximum_volume_size
    if size > largest:
        raise OutOfRange(f"{size} bytes are more than the {largest} that a volume in the array {name} may have")
