"""NodeStage: connect, prove, format, mount. Undoes only what this very call did (design, rule 4)."""

import logging
from collections.abc import Callable
from dataclasses import replace

from rds_csi.connectors.protocol import Connected, Connector
from rds_csi.errors import AlreadyExists, DriverError, FailedPrecondition, Unavailable
from rds_csi.filesystem.protocol import Filesystems, Mount, StageRecords
from rds_csi.locks import OperationLocks
from rds_csi.model.devices import Device
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.services.formatting import FormatGate, Plan
from rds_csi.services.locating import Located, Locator
from rds_csi.services.wishes import StageWish, missing_flags
from rds_csi.tasks import finish

log = logging.getLogger(__name__)


class Staging:
    """Stages volumes. Every step first looks what is there, so that a call killed anywhere can be repeated."""

    def __init__(
        self,
        connector: Connector,
        filesystems: Filesystems,
        records: StageRecords,
        locator: Locator,
        locks: OperationLocks,
        boot_id: str,
        new_uuid: Callable[[], str],
    ) -> None:
        self._connector = connector
        self._filesystems = filesystems
        self._records = records
        self._locator = locator
        self._locks = locks
        self._boot_id = boot_id
        self._gate = FormatGate(filesystems, new_uuid)

    async def stage(self, wish: StageWish) -> None:
        """NodeStageVolume. What is staged already, and as asked, is not touched."""
        with self._locks.hold("NodeStageVolume", wish.volume_id, wish.target.identity):
            previous = await self._records.load(wish.volume_id)
            located = await self._locator.of_target(wish.target, previous)
            if await self._is_staged(wish, located, previous):
                return
            await self._give_up_earlier(wish, located, previous)
            # Before the session: a volume that this process does not live to finish can still be unstaged.
            record = self._first_record(wish, previous)
            step = _Step(self._connector, self._filesystems, self._records, wish, previous, record, self._boot_id)
            try:
                # A half-made filesystem must stay known as ours; the rest ends with this boot.
                await self._records.store(record, durable=record.format_state is FormatState.FORMATTING)
                connected = await self._connector.connect(wish.target, wish.config)
                step.connected = connected
                device = await self._with_full_size(wish, connected)
                plan = None if wish.block else await self._gate.decide(device, wish, record)
            except BaseException:
                await finish(step.undo())
                raise
            if plan is not None:
                # To its end, whatever becomes of the caller: the repeated call finds the result.
                await finish(step.complete(device, plan))

    async def _is_staged(self, wish: StageWish, located: Located | None, record: StageRecord | None) -> bool:
        """Whether the volume is staged as asked; AlreadyExists when it is staged in another way."""
        if wish.block:
            return self._is_staged_block(wish, located, record)
        if located is not None and record is not None and record.block:
            raise AlreadyExists(f"volume {wish.volume_id} is staged as a block volume", remedy="Unstage it first.")
        stacked = (await self._filesystems.mount_table()).at(wish.path)
        if not stacked:
            _check_not_elsewhere(wish, located, record)
            return False
        if located is None or stacked[-1] not in located.mounts:
            await self._locator.check_not_dead(record, wish.path, located)
            raise FailedPrecondition(
                f"{wish.path} has {stacked[-1].source} mounted, which is not the device of volume {wish.volume_id}",
                remedy="Unstage what is there, then stage again.",
            )
        _check_attachment(wish, record)
        _check_compatible(wish, stacked[-1])
        if record is None or record.format_state is not FormatState.FORMATTED or not record.settled:
            # The record was lost, or its writer killed between mount and record.
            found = replace(self._first_record(wish, record), fs_type=wish.fs_type, format_state=FormatState.FORMATTED)
            found = on_device(found, located.device, self._boot_id)
            await self._records.store(found)
            await finish(settle(self._filesystems, self._records, wish, located.device, found))
        return True

    async def _give_up_earlier(self, wish: StageWish, located: Located | None, record: StageRecord | None) -> None:
        """Leave the session of an earlier attachment, before it is used for this one.

        Another node may have written meanwhile: what this kernel holds of the filesystem is older than the disk.
        FailedPrecondition while anything, in whatever mount namespace, still holds it.
        """
        if located is None or not is_of_earlier_attachment(wish, record):
            return
        if located.mounts:
            _check_attachment(wish, record)
        await finish(self._connector.disconnect(wish.target))

    def _is_staged_block(self, wish: StageWish, located: Located | None, record: StageRecord | None) -> bool:
        if located is None:
            return False
        _check_attachment(wish, record)
        if located.mounts:
            raise AlreadyExists(
                f"volume {wish.volume_id} is mounted at {located.mounts[0].path}, and asked for as a block volume",
                remedy="Unstage it first.",
            )
        # Nothing is at the staging path of a block volume (lessons I9): record and device are the whole stage.
        return record is not None and record.block and record.target.identity == wish.target.identity

    def _first_record(self, wish: StageWish, previous: StageRecord | None) -> StageRecord:
        """The record of a stage that begins: what an older one knows about the filesystem is kept, as far as
        it is about the same target."""
        record = StageRecord(
            volume_id=wish.volume_id,
            staging_path=wish.path,
            target=wish.target,
            config=wish.config,
            size=wish.size,
            attachment=wish.attachment,
            boot_id=self._boot_id,
            block=wish.block,
            fs_type=wish.fs_type,
        )
        if previous is None or previous.target.identity != wish.target.identity:
            return record
        record = replace(record, block_targets=previous.block_targets)
        if previous.format_state is FormatState.FORMATTED:
            return replace(
                record, format_state=previous.format_state, fs_type=previous.fs_type, fs_uuid=previous.fs_uuid
            )
        if previous.format_state is FormatState.FORMATTING and previous.attachment == wish.attachment:
            # What mkfs has begun: under which boot and with which UUID.
            return replace(previous, staging_path=wish.path, config=wish.config, size=wish.size)
        return record

    async def _with_full_size(self, wish: StageWish, connected: Connected) -> Device:
        """The device, once it has the size that the array gave the volume: a smaller one is another volume,
        or one whose growth the kernel has not seen."""
        device = connected.device
        if device.size >= wish.size:
            return device
        device = await self._connector.rescan(wish.target, wish.size)
        if device.size < wish.size:
            raise FailedPrecondition(
                f"{device.path} has {device.size} bytes, but volume {wish.volume_id} has {wish.size}",
                remedy="Look on the array which volume is exported there.",
            )
        return device


class _Step:
    """What one call did to one volume, and how to undo exactly that."""

    def __init__(
        self,
        connector: Connector,
        filesystems: Filesystems,
        records: StageRecords,
        wish: StageWish,
        previous: StageRecord | None,
        record: StageRecord,
        boot_id: str,
    ) -> None:
        self._connector = connector
        self._filesystems = filesystems
        self._records = records
        self._wish = wish
        self._previous = previous
        self._record = record
        self._boot_id = boot_id
        self._mounted = False
        self.connected: Connected | None = None

    async def complete(self, device: Device, plan: Plan) -> None:
        """Format if the plan says so, mount, grow; undone when any of it fails."""
        wish = self._wish
        try:
            if plan.format:
                # Before mkfs: a half-made filesystem must be known as ours.
                await self._note(FormatState.FORMATTING, device, plan)
                # Device names and numbers are given out again: right before the one-way door, look once more.
                if await self._connector.find(wish.target) != device:
                    raise Unavailable(f"{device.path} is not the device of volume {wish.volume_id} any more")
                await self._filesystems.format(device, wish.fs_type, plan.fs_uuid, wish.mkfs_options)
            # Before the first mount: from here on there may be data, and the device is never formatted again.
            await self._note(FormatState.FORMATTED, device, plan)
            await self._filesystems.mount(device, wish.path, wish.fs_type, wish.mount_flags)
            self._mounted = True
            # Names are given out again, and only now does the mount hold this one fast.
            found = await self._connector.find(wish.target)
            if found is None or found.number != device.number:
                raise Unavailable(f"{device.path} is not the device of volume {wish.volume_id} any more")
            await settle(self._filesystems, self._records, wish, device, self._record)
        except BaseException:
            await self.undo()
            raise

    async def undo(self) -> None:
        """Take back what this call did; what cannot be taken back is left to NodeUnstage and the sweep."""
        try:
            if self._mounted:
                await self._filesystems.unmount(self._wish.path)
            if self.connected is not None and self.connected.created:
                await self._connector.disconnect(self._wish.target)
            is_new = self._previous is None and self._record.format_state is FormatState.UNTOUCHED
            # A session that was there before still needs the record, so that it can be unstaged.
            if is_new and await self._connector.find(self._wish.target) is None:
                await self._records.remove(self._wish.volume_id)
        except DriverError as error:
            log.warning("a failed stage of volume %s could not be undone: %s", self._wish.volume_id, error)

    async def _note(self, state: FormatState, device: Device, plan: Plan) -> None:
        """Durably around an mkfs: one that a power cut forgot to have ended would be repeated over data."""
        durable = plan.format or self._record.format_state is FormatState.FORMATTING
        record = replace(self._record, format_state=state, fs_type=self._wish.fs_type, fs_uuid=plan.fs_uuid)
        self._record = on_device(record, device, self._boot_id)
        await self._records.store(self._record, durable=durable)


async def settle(
    filesystems: Filesystems, records: StageRecords, wish: StageWish, device: Device, record: StageRecord
) -> None:
    """Grow the mounted filesystem to its device and give it to the group, then note that both are done: a repeated
    stage goes on where a killed or slow one stopped, and leaves alone what is settled."""
    if not wish.read_only:
        await filesystems.grow(device, wish.path, wish.fs_type)
        if wish.group is not None:
            await filesystems.set_group(wish.path, wish.group)
    await records.store(replace(record, settled=True), durable=False)


def on_device(record: StageRecord, device: Device, boot_id: str) -> StageRecord:
    """The record of a volume that is ``device`` under this boot."""
    return replace(record, device_number=str(device.number), device_path=device.path, size=device.size, boot_id=boot_id)


def _check_not_elsewhere(wish: StageWish, located: Located | None, record: StageRecord | None) -> None:
    """A volume has one staging path at a time (CSI 1.13, NodeStageVolume)."""
    if located is None or record is None or record.staging_path == wish.path:
        return
    if located.mounts_at(record.staging_path):
        raise FailedPrecondition(
            f"volume {wish.volume_id} is staged at {record.staging_path} already", remedy="Unstage it there first."
        )


def is_of_earlier_attachment(wish: StageWish, record: StageRecord | None) -> bool:
    """Whether the volume was detached and attached again since the record was written."""
    if record is None or not record.attachment or not wish.attachment:
        return False
    return record.attachment != wish.attachment


def _check_attachment(wish: StageWish, record: StageRecord | None) -> None:
    """FailedPrecondition when the volume was detached and attached again since it was staged.

    Another node may have written to it meanwhile (a forced detach, openebs PR#905): what this kernel still
    holds of the filesystem is then older than the disk.
    """
    if is_of_earlier_attachment(wish, record):
        raise FailedPrecondition(
            f"volume {wish.volume_id} was staged under an earlier attachment, and may have changed since",
            remedy="Delete the pods that used it on this node, so that it is unstaged, then stage it again.",
        )


def _check_compatible(wish: StageWish, mount: Mount) -> None:
    """AlreadyExists when the staging mount is not as asked, as far as mountinfo can tell."""
    differences = []
    if mount.fs_type != wish.fs_type:
        differences.append(f"its filesystem is {mount.fs_type}")
    if ("ro" in mount.options) != wish.read_only:
        differences.append("it is read-only" if "ro" in mount.options else "it is writable")
    missing = missing_flags(wish.flags, mount)
    if missing:
        differences.append(f"it has not the flags {', '.join(missing)}")
    if differences:
        raise AlreadyExists(
            f"volume {wish.volume_id} is staged at {wish.path}, but not as asked: {'; '.join(differences)}",
            remedy="Unstage it first.",
        )
