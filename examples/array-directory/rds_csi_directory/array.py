"""The array ``directory:///dir``: image files on this machine, each with a JSON record next to it."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from rds_csi.arrays.protocol import ArrayOptions, ArrayTraits, Feature
from rds_csi.arrays.url import array_directory, parse_array_url
from rds_csi.errors import (
    Aborted,
    ConfigurationError,
    DriverError,
    FailedPrecondition,
    InvalidArgument,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    Finding,
    HealthProblem,
    HealthStatus,
    Snapshot,
    SnapshotGroup,
    SourceKind,
    Volume,
    VolumeSpec,
)
from rds_csi.process import Runner
from rds_csi.workers import Workers
from rds_csi_directory.files import Lock, Shelf, as_driver_error, free_bytes, set_size
from rds_csi_directory.records import R, SnapshotRecord, VolumeRecord

T = TypeVar("T")

_FORM = "directory:///dir"
# Seconds. Small files, and space that is set aside for a large one.
_STEP_SECONDS = 30.0
# Seconds. A whole image is copied.
_COPY_SECONDS = 600.0
# ext4 has files of nearly 16 TiB.
_LARGEST = 8192 * GIB


def open_array(url: str, options: ArrayOptions) -> "DirectoryArray":
    """The array at ``url``; ConfigurationError when it cannot work."""
    parts = parse_array_url(url, form=_FORM)
    if parts.host or parts.port:
        raise ConfigurationError(f"the array's URL names a host: it reads {_FORM}, with three slashes")
    return DirectoryArray(array_directory(parts.path, _FORM), options.runner, options.workers)


class DirectoryArray:
    """Keeps nothing in memory but which volumes are being copied or attached: every call reads what is there."""

    def __init__(self, directory: str, runner: Runner, workers: Workers) -> None:
        self._directory = directory
        self._runner = runner
        self._workers = workers
        # Two processes would not know of each other what they copy or attach.
        self._lock = Lock(directory)
        self._volumes = Shelf(os.path.join(directory, "volumes"), VolumeRecord, "volume")
        self._snapshots = Shelf(os.path.join(directory, "snapshots"), SnapshotRecord, "snapshot")
        # Volumes that are being copied, and those that nodes are being let in to: the two do not go together.
        self._copied: Counter[str] = Counter()
        self._attached: Counter[str] = Counter()

    @property
    def traits(self) -> ArrayTraits:
        return ArrayTraits(
            name=f"directory {self._directory}",
            features=Feature.ALL & ~Feature.GROUP_SNAPSHOTS,
            maximum_volume_size=_LARGEST,
        )

    async def start(self) -> None:
        def make() -> None:
            self._volumes.open()
            self._snapshots.open()
            self._lock.take()

        try:
            await self._run(make, "opening the array")
        except DriverError as error:
            raise ConfigurationError(error.message, remedy=error.remedy) from None

    async def close(self) -> None:
        self._lock.release()

    async def check(self) -> Sequence[Finding]:
        try:
            free = await self._run(partial(free_bytes, self._volumes.directory), "looking at the array")
        except DriverError as error:
            return [Finding("array directory", False, error.message, error.remedy)]
        remedy = "" if free >= MIB else "Free some space there."
        return [Finding("array directory", free >= MIB, f"{free // MIB} MiB are free in {self._directory}", remedy)]

    # Volumes

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        if spec.pool:
            raise InvalidArgument(f"there is no pool {spec.pool!r}: a directory has none")
        what = f"creating volume {spec.volume_id}"
        found = await self._run(partial(self._volumes.find, spec.volume_id), what)
        if found is not None and found.ready:
            return self._told(found)
        if spec.source is None:
            async with self._undone(self._volumes, spec.volume_id):
                return self._told(await self._run(partial(self._make, spec), what, key=spec.volume_id))
        if spec.source.kind is SourceKind.SNAPSHOT:
            snapshot = await self._run(partial(self._snapshots.get, spec.source.source_id), what)
            return await self._make_from(spec, self._snapshots.image(snapshot.id), snapshot.size)
        with self._copying(spec.source.source_id):
            volume = await self._still_volume(spec.source.source_id, what)
            return await self._make_from(spec, self._volumes.image(volume.id), volume.size)

    async def delete_volume(self, volume_id: str) -> None:
        def delete() -> None:
            record = self._volumes.find(volume_id)
            if record is not None and record.attachments:
                raise FailedPrecondition(
                    f"volume {volume_id} is attached to {_nodes(record)}", remedy="Detach it first."
                )
            self._volumes.remove(volume_id)

        await self._run(delete, f"deleting volume {volume_id}", key=volume_id)

    async def get_volume(self, volume_id: str) -> Volume:
        return self._told(await self._run(partial(self._volumes.get, volume_id), f"looking for volume {volume_id}"))

    async def list_volumes(self) -> Sequence[Volume]:
        return [self._told(record) for record in await self._run(self._volumes.all, "listing volumes")]

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        def expand() -> VolumeRecord:
            record = self._volumes.get(volume_id)
            if size <= record.size:
                return record
            # The image first: a record that promises more than there is would be a lie for whoever reads it next.
            set_size(self._volumes.image(volume_id), size, thick=record.provisioning is Provisioning.THICK)
            return self._volumes.put(replace(record, size=size))

        return self._told(await self._run(expand, f"growing volume {volume_id}", key=volume_id))

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        return await self._change(volume_id, lambda record: replace(record, mutable_parameters=dict(parameters)))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        if self._copied[volume_id]:
            raise Aborted(f"volume {volume_id} is being copied; nobody may write to it meanwhile")
        node_id = attachment.node.node_id
        with _counted(self._attached, volume_id):
            return await self._change(
                volume_id, lambda record: replace(record, attachments=(*_others(record, node_id), attachment))
            )

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        def detach() -> None:
            record = self._volumes.find(volume_id)
            if record is None or not record.attachments:
                return
            kept = _others(record, node_id) if node_id else ()
            if kept != record.attachments:
                self._volumes.put(replace(record, attachments=kept), spend_reserve=True)

        await self._run(detach, f"detaching volume {volume_id}", key=volume_id)

    # Snapshots

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        what = f"taking snapshot {snapshot_id}"
        found = await self._run(partial(self._snapshots.find, snapshot_id), what)
        if found is not None and found.ready:
            return found.as_snapshot()
        with self._copying(volume_id):
            volume = await self._still_volume(volume_id, what)
            record = SnapshotRecord(snapshot_id, name, volume.size, False, volume_id, datetime.now(UTC))
            async with self._undone(self._snapshots, snapshot_id):
                await self._run(partial(self._snapshots.begin, record), what)
                await self._copy(self._volumes.image(volume_id), self._snapshots.image(snapshot_id), what)
                return (await self._run(partial(self._snapshots.complete, record), what)).as_snapshot()

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await self._run(partial(self._snapshots.remove, snapshot_id), f"deleting snapshot {snapshot_id}")

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        record = await self._run(partial(self._snapshots.get, snapshot_id), f"looking for snapshot {snapshot_id}")
        return record.as_snapshot()

    async def list_snapshots(self) -> Sequence[Snapshot]:
        return [record.as_snapshot() for record in await self._run(self._snapshots.all, "listing snapshots")]

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        raise Unimplemented("a directory cannot snapshot several volumes at one moment")

    async def delete_group(self, group_id: str) -> None:
        raise Unimplemented("a directory has no group snapshots")

    async def get_group(self, group_id: str) -> SnapshotGroup:
        raise Unimplemented("a directory has no group snapshots")

    # The array as a whole

    async def capacity(self, pool: str) -> Capacity:
        if pool:
            raise InvalidArgument(f"there is no pool {pool!r}: a directory has none")
        free = await self._run(partial(free_bytes, self._volumes.directory), "looking at the free space")
        available = free // MIB * MIB
        return Capacity(available, maximum_volume_size=min(available, _LARGEST), minimum_volume_size=MIB)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        def look() -> Sequence[HealthProblem]:
            record = self._volumes.get(volume_id)
            image = self._volumes.image(volume_id)
            if not os.path.exists(image):
                return [HealthProblem(HealthStatus.DATA_LOSS, "ImageMissing", f"the image {image} is gone")]
            size = os.stat(image).st_size
            if size < record.size:
                message = f"the image {image} has {size} bytes; its record says {record.size}"
                return [HealthProblem(HealthStatus.DATA_LOSS, "ImageTruncated", message)]
            return []

        return await self._run(look, f"looking at volume {volume_id}")

    # Steps

    def _make(self, spec: VolumeSpec) -> VolumeRecord:
        record = _record(spec)
        self._volumes.begin(record)
        set_size(self._volumes.image(record.id), record.size, thick=record.provisioning is Provisioning.THICK)
        return self._volumes.complete(record)

    async def _make_from(self, spec: VolumeSpec, source: str, source_size: int) -> Volume:
        if spec.size < source_size:
            raise OutOfRange(f"volume {spec.volume_id} would be smaller than its source ({source_size} bytes)")
        what, image = f"creating volume {spec.volume_id}", self._volumes.image(spec.volume_id)
        record = _record(spec)
        thick = spec.provisioning is Provisioning.THICK
        async with self._undone(self._volumes, spec.volume_id):
            await self._run(partial(self._volumes.begin, record), what)
            await self._copy(source, image, what)
            await self._run(partial(set_size, image, spec.size, thick=thick), what)
            return self._told(await self._run(partial(self._volumes.complete, record), what))

    async def _copy(self, source: str, destination: str, what: str) -> None:
        # Runs to its end also when the caller is cancelled; a reflink where the filesystem has it.
        done = await self._runner.run_to_end(
            *("cp", "--reflink=auto", "--sparse=always", "--", source, destination), timeout=_COPY_SECONDS
        )
        if done.returncode:
            full = await self._run(partial(free_bytes, self._volumes.directory), what) < MIB
            error = ResourceExhausted if full else Unavailable
            raise error(f"{what}: {done.last_line}", remedy="Look at the array's directory and its free space.")

    @asynccontextmanager
    async def _undone(self, shelf: Shelf[R], item_id: str) -> AsyncIterator[None]:
        """Remove what a failed step has left. If this fails too, it is not ready, and the repeated call removes it."""
        try:
            yield
        except (ResourceExhausted, Unavailable, OutOfRange):
            with suppress(DriverError):
                await self._run(partial(_remove_unready, shelf, item_id), f"removing what is left of {item_id}")
            raise

    @contextmanager
    def _copying(self, volume_id: str) -> Iterator[None]:
        if self._attached[volume_id]:
            raise Aborted(f"volume {volume_id} is being attached; it is not copied now")
        with _counted(self._copied, volume_id):
            yield

    async def _still_volume(self, volume_id: str, what: str) -> VolumeRecord:
        """A volume that nobody can write to: a copy of another would not be of one moment."""
        record = await self._run(partial(self._volumes.get, volume_id), what)
        if record.attachments:
            raise FailedPrecondition(
                f"{what}: volume {volume_id} is attached to {_nodes(record)}", remedy="Stop its pods first."
            )
        return record

    async def _change(self, volume_id: str, change: Callable[[VolumeRecord], VolumeRecord]) -> Volume:
        def step() -> VolumeRecord:
            record = self._volumes.get(volume_id)
            changed = change(record)
            return record if changed == record else self._volumes.put(changed)

        return self._told(await self._run(step, f"changing volume {volume_id}", key=volume_id))

    async def _run(self, function: Callable[[], T], what: str, *, key: str = "") -> T:
        """Run a blocking step in a worker. With ``key`` it is not begun while an earlier one of that key is stuck."""
        try:
            return await self._workers.run(function, timeout=_STEP_SECONDS, key=key)
        except OSError as error:
            raise as_driver_error(error, what) from error

    def _told(self, record: VolumeRecord) -> Volume:
        return record.as_volume(self._volumes.image(record.id))


@contextmanager
def _counted(counter: Counter[str], volume_id: str) -> Iterator[None]:
    counter[volume_id] += 1
    try:
        yield
    finally:
        counter[volume_id] -= 1
        if not counter[volume_id]:
            del counter[volume_id]


def _remove_unready(shelf: Shelf[R], item_id: str) -> None:
    record = shelf.find(item_id)
    if record is not None and not record.ready:
        shelf.remove(item_id)


def _record(spec: VolumeSpec) -> VolumeRecord:
    return VolumeRecord(
        id=spec.volume_id,
        name=spec.name,
        size=spec.size,
        ready=False,
        provisioning=spec.provisioning,
        source=spec.source,
        mutable_parameters=dict(spec.mutable_parameters),
    )


def _others(record: VolumeRecord, node_id: str) -> tuple[Attachment, ...]:
    return tuple(item for item in record.attachments if item.node.node_id != node_id)


def _nodes(record: VolumeRecord) -> str:
    return ", ".join(item.node.node_id for item in record.attachments)
