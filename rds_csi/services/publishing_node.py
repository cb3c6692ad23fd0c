"""NodePublish and NodeUnpublish: a staged volume at a pod's path, as a bind mount or a block node."""

from dataclasses import replace

from rds_csi.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from rds_csi.filesystem.protocol import Filesystems, Mount, StageRecords
from rds_csi.locks import OperationLocks
from rds_csi.model.context import StageContext
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import Target
from rds_csi.services.locating import Located, Locator
from rds_csi.services.wishes import PublishWish, missing_flags
from rds_csi.tasks import finish


class NodePublishing:
    """Publishes volumes to pods; what is published as asked is not touched."""

    def __init__(
        self, filesystems: Filesystems, records: StageRecords, locator: Locator, locks: OperationLocks
    ) -> None:
        self._filesystems = filesystems
        self._records = records
        self._locator = locator
        self._locks = locks

    async def publish(self, wish: PublishWish, context: dict[str, str]) -> None:
        """NodePublishVolume. ``context``: volume and publish context merged, for a volume without a record."""
        with self._locks.hold("NodePublishVolume", wish.volume_id):
            record = await self._records.load(wish.volume_id)
            target: Target = record.target if record is not None else StageContext.parse(context, {}).target
            located = await self._locator.of_target(target, record)
            if located is None:
                await self._locator.check_not_dead(record, wish.staging_path, located)
                raise FailedPrecondition(
                    f"volume {wish.volume_id} is not connected to this node", remedy="Stage it first."
                )
            if wish.block:
                await self._publish_block(wish, located)
            else:
                await self._publish_mount(wish, located)

    async def unpublish(self, volume_id: str, path: str) -> None:
        """NodeUnpublishVolume; a volume that is not there is fine. Never recursive (lessons L2)."""
        with self._locks.hold("NodeUnpublishVolume", volume_id):
            record = await self._records.load(volume_id)
            if record is not None and path == record.staging_path:
                raise InvalidArgument(f"target_path is where volume {volume_id} is staged, not published: {path!r}")
            await self._check_ours(volume_id, record, path)
            await finish(self._take_away(record, path))

    async def _publish_mount(self, wish: PublishWish, located: Located) -> None:
        staged = located.mounts_at(wish.staging_path)
        if not staged:
            await self._locator.check_not_dead(located.record, wish.staging_path, located)
            raise FailedPrecondition(
                f"volume {wish.volume_id} is not staged at {wish.staging_path}", remedy="Stage it there first."
            )
        stacked = (await self._filesystems.mount_table()).at(wish.path)
        if stacked:
            _check_same(wish, stacked[-1], located)
            # A repeated call goes on where a slow one stopped; a tree that is given already is left alone.
            await finish(self._give(wish))
            return
        _check_writable(wish, staged[-1])
        others = [mount.path for mount in located.mounts if mount.path != wish.staging_path]
        _check_exclusive(wish, others)
        await finish(self._bind(wish))

    async def _bind(self, wish: PublishWish) -> None:
        await self._filesystems.bind(wish.staging_path, wish.path, read_only=wish.read_only, flags=wish.flags)
        await self._give(wish)

    async def _give(self, wish: PublishWish) -> None:
        if wish.group is not None and not wish.read_only:
            await self._filesystems.set_group(wish.path, wish.group)

    async def _publish_block(self, wish: PublishWish, located: Located) -> None:
        record = located.record
        if located.mounts or (record is not None and not record.block):
            raise FailedPrecondition(
                f"volume {wish.volume_id} is staged with a filesystem, and asked for as a block volume",
                remedy="Unstage it first.",
            )
        if record is None:
            raise FailedPrecondition(f"volume {wish.volume_id} is not staged", remedy="Stage it first.")
        used = await self._locator.block_targets_in_use(record, located.device.number)
        _check_exclusive(wish, [path for path in used if path != wish.path])
        await finish(self._place(wish, located, record))

    async def _place(self, wish: PublishWish, located: Located, record: StageRecord) -> None:
        # Written first: the record may name a path without a node, but never miss one.
        if wish.path not in record.block_targets:
            await self._records.store(replace(record, block_targets=(*record.block_targets, wish.path)))
        await self._filesystems.place_block_node(located.device, wish.path, read_only=wish.read_only)

    async def _check_ours(self, volume_id: str, record: StageRecord | None, path: str) -> None:
        """FailedPrecondition when what is at ``path`` is not of this volume."""
        located = await self._locator.of_target(record.target, record) if record is not None else None
        stacked = (await self._filesystems.mount_table()).at(path)
        for mount in stacked:
            await self._locator.check_ours(volume_id, mount, located, record)
        if stacked:
            return
        number = await self._filesystems.block_node_at(path)
        known = record is not None and path in record.block_targets
        if number is not None and not known and not await self._locator.may_be_of(volume_id, number):
            raise FailedPrecondition(
                f"{path} is a block node of device {number}, which is not of volume {volume_id}",
                remedy="Look what it is, and remove it by hand if it is not needed.",
            )

    async def _take_away(self, record: StageRecord | None, path: str) -> None:
        await self._filesystems.unmount(path)
        await self._filesystems.remove_target(path)
        if record is not None and path in record.block_targets:
            left = tuple(target for target in record.block_targets if target != path)
            await self._records.store(replace(record, block_targets=left))


def _check_same(wish: PublishWish, mount: Mount, located: Located) -> None:
    """AlreadyExists when what is mounted at the target path is not what is asked for."""
    if mount not in located.mounts:
        raise AlreadyExists(
            f"{wish.path} has {mount.source} mounted, which is not the device of volume {wish.volume_id}",
            remedy="Unpublish what is there first.",
        )
    is_read_only = "ro" in mount.options
    missing = missing_flags(wish.flags, mount)
    if is_read_only != wish.read_only or missing:
        raise AlreadyExists(
            f"volume {wish.volume_id} is published at {wish.path} already, "
            f"{'read-only' if is_read_only else 'writable'}{' and without ' + ', '.join(missing) if missing else ''}",
            remedy="Unpublish it first.",
        )


def _check_writable(wish: PublishWish, staged: Mount) -> None:
    """A filesystem that the kernel has turned read-only after an error is not given to a pod that writes."""
    if staged.read_only and not wish.read_only:
        raise FailedPrecondition(
            f"volume {wish.volume_id} is read-only at {wish.staging_path}, and is asked for writable",
            remedy="Delete the pods that use it on this node, so that it is unstaged and checked.",
        )


def _check_exclusive(wish: PublishWish, others: list[str]) -> None:
    """SINGLE_NODE_SINGLE_WRITER: one target path at a time (CSI 1.13, NodePublishVolume)."""
    if wish.exclusive and others:
        raise FailedPrecondition(
            f"volume {wish.volume_id} is published at {', '.join(others[:8])} already, "
            "and access mode SINGLE_NODE_SINGLE_WRITER allows one target path",
            remedy="Unpublish it there first.",
        )
