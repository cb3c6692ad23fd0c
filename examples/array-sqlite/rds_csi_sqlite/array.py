"""The array: what the driver asks for, done with image files and the records of them."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from rds_csi.arrays.protocol import Array, ArrayOptions, ArrayTraits, Place
from rds_csi.arrays.url import array_directory, parse_array_url
from rds_csi.atomic import remove_durably, sync_directory
from rds_csi.errors import (
    Aborted,
    ConfigurationError,
    DriverError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import MIB
from rds_csi.model.targets import FileTarget
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    ContentSource,
    Finding,
    HealthProblem,
    HealthStatus,
    Snapshot,
    SnapshotGroup,
    SourceKind,
    Volume,
    VolumeSpec,
)
from rds_csi_sqlite import images
from rds_csi_sqlite.records import GROUP, SNAPSHOT, VOLUME, Records, Row, translated
from rds_csi_sqlite.rows import as_group, as_snapshot, as_volume, group_row, snapshot_row, volume_row

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_FORM = "sqlite:///directory"
_READ_SECONDS, _WRITE_SECONDS, _COPY_SECONDS = 10.0, 20.0, 50.0


def open_array(url: str, options: ArrayOptions) -> Array:
    """The entry point."""
    parts = parse_array_url(url, form=_FORM)
    if parts.host or parts.port:
        raise ConfigurationError(
            "the array's URL names a host, and this array is a directory", remedy=f"It reads {_FORM}."
        )
    return SqliteArray(array_directory(parts.path, _FORM), options)


class SqliteArray:
    """Keeps ``rds_csi.arrays.protocol.Array``. Methods that end in ``_now`` block, and run in workers."""

    def __init__(self, directory: str, options: ArrayOptions) -> None:
        self._directory = directory
        self._workers = options.workers
        self._owner = f"{options.driver_name} {options.nqn_prefix}"
        self._records = Records(directory)
        self._traits = ArrayTraits(f"sqlite {directory}")

    @property
    def traits(self) -> ArrayTraits:
        return self._traits

    @property
    def place(self) -> Place:
        return Place(self._directory, self._owner)

    async def _run(self, what: str, step: Callable[[], _T], *, timeout: float = _READ_SECONDS, key: str = "") -> _T:
        def translated_step() -> _T:
            with translated(f"{what} in {self._directory}"):
                return step()

        return await self._workers.run(translated_step, timeout=timeout, key=key)

    async def start(self) -> None:
        try:
            await self._run("opening the array", self._start_now, timeout=_WRITE_SECONDS)
        except (Unavailable, ResourceExhausted, Internal) as error:
            raise ConfigurationError(error.message, remedy=error.remedy) from error

    def _start_now(self) -> None:
        for name in (VOLUME, SNAPSHOT):
            os.makedirs(os.path.join(self._directory, f"{name}s"), mode=0o700, exist_ok=True)
        owner = self._records.create(self._owner)
        if owner != self._owner:
            raise ConfigurationError(
                f"the array in {self._directory} is of another driver or cluster: {owner}",
                remedy="Name another directory, or the driver name and NQN prefix that it was made with.",
            )
        sync_directory(self._directory)
        self._records.refill()
        for row in self._records.unfinished():
            # One that another process is at work on is left to it.
            with contextlib.suppress(Aborted), self._records.locked(alone=[(row.kind, row.id)]):
                found = self._records.get(row.kind, row.id)
                if found is not None and not found.ready:
                    _LOG.warning("%s %s was left unfinished: removed", row.kind, row.id)
                    self._clear([found])

    async def close(self) -> None:
        """Nothing is held between calls."""

    async def check(self) -> Sequence[Finding]:
        subject = f"array {self._traits.name}"
        try:
            if await self._run("looking", self._check_now, key=self._directory):
                return [Finding(subject, True, "the records can be read")]
            message = "there is no room for the reserve by which volumes are deleted on a full disk"
            return [Finding(subject, False, message, "Make room in the array's directory.")]
        except DriverError as error:
            return [Finding(subject, False, error.message, error.remedy or "Mount the array's directory.")]
        except Exception as error:
            return [Finding(subject, False, f"{type(error).__name__}: {error}", "See the log.")]

    def _check_now(self) -> bool:
        self._records.get(VOLUME, "")
        return self._records.refill()

    # Volumes

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        return await self._run(
            f"making volume {spec.volume_id}", lambda: self._create_volume_now(spec), timeout=_COPY_SECONDS
        )

    def _create_volume_now(self, spec: VolumeSpec) -> Volume:
        _check_pool(spec.pool)
        shared = [(spec.source.kind.value, spec.source.source_id)] if spec.source else []
        with self._records.locked(alone=[(VOLUME, spec.volume_id)], shared=shared):
            row = self._records.get(VOLUME, spec.volume_id)
            if row is not None and row.ready:
                return as_volume(row)
            source = self._source(spec.source)
            volume = Volume(
                spec.volume_id,
                spec.name,
                spec.size,
                FileTarget(self._image(VOLUME, spec.volume_id)),
                provisioning=spec.provisioning,
                source=spec.source,
                mutable_parameters=dict(spec.mutable_parameters),
            )
            return as_volume(self._make([(volume_row(volume), source)])[0])

    def _source(self, source: ContentSource | None) -> tuple[str, int] | None:
        """The image and size of a content source; its lock is held."""
        if source is None:
            return None
        if source.kind is SourceKind.SNAPSHOT:
            row = self._ready(SNAPSHOT, source.source_id)
            return self._image(SNAPSHOT, row.id), as_snapshot(row).size
        return self._quiet(source.source_id)

    def _quiet(self, volume_id: str) -> tuple[str, int]:
        """The image and size of a volume that nobody can write to."""
        volume = as_volume(self._ready(VOLUME, volume_id))
        _check_detached(volume, "copied")
        return self._whole_image(volume), volume.size

    def _make(self, wanted: Sequence[tuple[Row, tuple[str, int] | None]]) -> list[Row]:
        """Make images, with the locks held: mark first, then the files, then "ready"; all of them or none."""
        rows = [replace(row, ready=False) for row, _ in wanted]
        self._begin(rows)
        made: list[Row] = []
        try:
            for row, source in wanted:
                if row.kind != GROUP:
                    self._make_image(row, source, made)
            for kind in {row.kind for row in made}:
                sync_directory(os.path.join(self._directory, f"{kind}s"))
            done = [replace(row, ready=True) for row in rows]
            self._records.put(done)
        except FileExistsError:
            # Put there since it was looked for: not ours.
            for row in made:
                remove_durably(self._image(row.kind, row.id))
            self._records.remove(rows)
            raise FailedPrecondition(f"a foreign file came in the way of {rows[0].kind} {rows[0].id}") from None
        except Exception:
            self._clear(rows)
            raise
        return done

    def _begin(self, rows: Sequence[Row]) -> None:
        """Clear away what an earlier try has left, and write down what is to be made."""
        for row in rows:
            left = self._records.get(row.kind, row.id)
            if left is not None and left.ready:
                raise FailedPrecondition(f"{row.kind} {row.id} is there already")
            if left is not None:
                self._clear([left])
        for row in rows:
            if row.kind != GROUP:
                self._check_free(row)
        self._records.put(rows)

    def _make_image(self, row: Row, source: tuple[str, int] | None, made: list[Row]) -> None:
        size = as_volume(row).size if row.kind == VOLUME else as_snapshot(row).size
        image = self._image(row.kind, row.id)
        descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        made.append(row)
        try:
            images.grow(
                descriptor, size, thick=row.kind == VOLUME and as_volume(row).provisioning is Provisioning.THICK
            )
            if source is not None:
                images.copy(source[0], descriptor, source[1])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _check_free(self, row: Row) -> None:
        image = self._image(row.kind, row.id)
        if os.path.lexists(image):
            raise FailedPrecondition(
                f"{image} is in the way of {row.kind} {row.id}, and no record of this array names it",
                remedy="Move the file away.",
            )

    def _clear(self, rows: Sequence[Row]) -> None:
        """Remove images and records; those of the rows are not ready."""
        for row in rows:
            if row.kind != GROUP:
                remove_durably(self._image(row.kind, row.id))
        self._records.remove(rows)
        self._records.refill()

    def _remove(self, rows: Sequence[Row]) -> None:
        if any(row.ready for row in rows):
            self._records.put([replace(row, ready=False) for row in rows], spend=True)
        self._clear(rows)

    async def delete_volume(self, volume_id: str) -> None:
        await self._run(
            f"deleting volume {volume_id}", lambda: self._delete_volume_now(volume_id), timeout=_WRITE_SECONDS
        )

    def _delete_volume_now(self, volume_id: str) -> None:
        with self._records.locked(alone=[(VOLUME, volume_id)]):
            row = self._records.get(VOLUME, volume_id)
            if row is not None:
                if row.ready:
                    _check_detached(as_volume(row), "deleted")
                self._remove([row])

    async def get_volume(self, volume_id: str) -> Volume:
        return as_volume(await self._get(VOLUME, volume_id))

    async def list_volumes(self) -> Sequence[Volume]:
        def read() -> list[Volume]:
            return [as_volume(row) for row in self._records.ready(VOLUME)]

        return await self._run("listing volumes", read, key=self._directory)

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        def expand(volume: Volume) -> Volume:
            image = self._whole_image(volume)
            descriptor = os.open(image, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size < size or volume.provisioning is Provisioning.THICK:
                    images.grow(descriptor, max(size, volume.size), thick=volume.provisioning is Provisioning.THICK)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return replace(volume, size=max(volume.size, size))

        return await self._change(f"growing volume {volume_id}", volume_id, expand)

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        return await self._change(
            f"modifying volume {volume_id}",
            volume_id,
            lambda volume: replace(volume, mutable_parameters=dict(parameters)),
        )

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        def attach(volume: Volume) -> Volume:
            self._whole_image(volume)
            others = tuple(old for old in volume.attachments if old.node.node_id != attachment.node.node_id)
            return replace(volume, attachments=(*others, attachment))

        return await self._change(f"attaching volume {volume_id}", volume_id, attach)

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        def detach(volume: Volume) -> Volume:
            left = tuple(old for old in volume.attachments if node_id and old.node.node_id != node_id)
            return replace(volume, attachments=left)

        with contextlib.suppress(NotFound):
            await self._change(f"detaching volume {volume_id}", volume_id, detach, spend=True)

    async def _change(
        self, what: str, volume_id: str, change: Callable[[Volume], Volume], *, spend: bool = False
    ) -> Volume:
        def step() -> Volume:
            old = as_volume(self._ready(VOLUME, volume_id))
            with self._records.locked(alone=[(VOLUME, volume_id)]):
                old = as_volume(self._ready(VOLUME, volume_id))
                new = change(old)
                if new != old:
                    self._records.put([volume_row(new)], spend=spend)
                return new

        return await self._run(what, step, timeout=_WRITE_SECONDS, key=self._image(VOLUME, volume_id))

    # Snapshots

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        def step() -> Snapshot:
            with self._records.locked(alone=[(SNAPSHOT, snapshot_id)], shared=[(VOLUME, volume_id)]):
                row = self._records.get(SNAPSHOT, snapshot_id)
                if row is not None and row.ready:
                    return as_snapshot(row)
                source = self._quiet(volume_id)
                snapshot = Snapshot(snapshot_id, name, volume_id, source[1], datetime.now(UTC))
                return as_snapshot(self._make([(snapshot_row(snapshot), source)])[0])

        return await self._run(f"making snapshot {snapshot_id} of volume {volume_id}", step, timeout=_COPY_SECONDS)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        def step() -> None:
            with self._records.locked(alone=[(SNAPSHOT, snapshot_id)]):
                row = self._records.get(SNAPSHOT, snapshot_id)
                if row is not None:
                    self._remove([row])

        await self._run(f"deleting snapshot {snapshot_id}", step, timeout=_WRITE_SECONDS)

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        return as_snapshot(await self._get(SNAPSHOT, snapshot_id))

    async def list_snapshots(self) -> Sequence[Snapshot]:
        def read() -> list[Snapshot]:
            return [as_snapshot(row) for row in self._records.ready(SNAPSHOT)]

        return await self._run("listing snapshots", read, key=self._directory)

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        def step() -> SnapshotGroup:
            ids = {volume_id: _member_id(group_id, volume_id) for volume_id in volume_ids}
            alone = [(GROUP, group_id), *((SNAPSHOT, member) for member in ids.values())]
            with self._records.locked(alone=alone, shared=[(VOLUME, volume_id) for volume_id in ids]):
                row = self._records.get(GROUP, group_id)
                if row is not None and row.ready:
                    return as_group(row)
                created = datetime.now(UTC)
                wanted: list[tuple[Row, tuple[str, int] | None]] = []
                members: list[Snapshot] = []
                for volume_id, member in ids.items():
                    source = self._quiet(volume_id)
                    members.append(Snapshot(member, member, volume_id, source[1], created, group_id=group_id))
                    wanted.append((snapshot_row(members[-1]), source))
                group = SnapshotGroup(group_id, name, tuple(members), created)
                self._make([(group_row(group), None), *wanted])
                return group

        return await self._run(f"making group {group_id}", step, timeout=_COPY_SECONDS)

    async def delete_group(self, group_id: str) -> None:
        def step() -> None:
            members = self._records.members(group_id)
            alone = [(GROUP, group_id), *((SNAPSHOT, row.id) for row in members)]
            with self._records.locked(alone=alone):
                row = self._records.get(GROUP, group_id)
                rows = [*self._records.members(group_id), *([] if row is None else [row])]
                if rows:
                    self._remove(rows)

        await self._run(f"deleting group {group_id}", step, timeout=_WRITE_SECONDS)

    async def get_group(self, group_id: str) -> SnapshotGroup:
        return as_group(await self._get(GROUP, group_id))

    # The rest

    async def capacity(self, pool: str) -> Capacity:
        _check_pool(pool)
        found = await self._run("asking for room", lambda: os.statvfs(self._directory), key=self._directory)
        free = found.f_bavail * found.f_frsize
        return Capacity(free, free // MIB * MIB, self._traits.minimum_volume_size)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        def step() -> list[HealthProblem]:
            try:
                self._whole_image(as_volume(self._ready(VOLUME, volume_id)))
            except FailedPrecondition as error:
                return [HealthProblem(HealthStatus.DATA_LOSS, "ImageDamaged", error.message)]
            return []

        return await self._run(f"looking at volume {volume_id}", step, key=self._image(VOLUME, volume_id))

    def _whole_image(self, volume: Volume) -> str:
        """The path of its image; FailedPrecondition when that is not whole."""
        image = self._image(VOLUME, volume.volume_id)
        try:
            size = os.stat(image).st_size
        except FileNotFoundError:
            size = -1
        if size < volume.size:
            state = "is gone" if size < 0 else f"has {size} instead of {volume.size} bytes"
            raise FailedPrecondition(
                f"the image {image} of volume {volume.volume_id} {state}", remedy="Restore it from a backup."
            )
        return image

    def _image(self, kind: str, id: str) -> str:
        return os.path.join(self._directory, f"{kind}s", f"{id}.img")

    async def _get(self, kind: str, id: str) -> Row:
        return await self._run(f"reading {kind} {id}", lambda: self._ready(kind, id), key=self._directory)

    def _ready(self, kind: str, id: str) -> Row:
        row = self._records.get(kind, id)
        if row is None or not row.ready:
            raise NotFound(f"there is no {kind} {id} in {self._directory}")
        return row


def _check_pool(pool: str) -> None:
    if pool:
        raise InvalidArgument(f"this array has no pools, and so none of the name {pool!r}")


def _check_detached(volume: Volume, done: str) -> None:
    if volume.attachments:
        nodes = ", ".join(one.node.node_id for one in volume.attachments)
        raise FailedPrecondition(
            f"volume {volume.volume_id} cannot be {done}: it is attached to {nodes}", remedy="Detach it first."
        )


def _member_id(group_id: str, volume_id: str) -> str:
    return f"m-{hashlib.sha256(f'{group_id}/{volume_id}'.encode()).hexdigest()[:40]}"
