"""The format gate: whether a device may be given a filesystem (design, rule 11; lessons I12).

mkfs is a one-way door. It needs proof that nothing is lost: a device proved blank, or one on which only an
interrupted mkfs of this very driver can have written. Every doubt is an error for a person to look at.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rds_csi.errors import FormatRefused
from rds_csi.filesystem.protocol import Content, Filesystems
from rds_csi.model.devices import Device
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.services.wishes import StageWish


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a device: mount what is on it, or make a filesystem with ``fs_uuid`` first."""

    format: bool
    fs_uuid: str


class FormatGate:
    """Looks at a device and its record, and decides; changes nothing."""

    def __init__(self, filesystems: Filesystems, new_uuid: Callable[[], str]) -> None:
        self._filesystems = filesystems
        self._new_uuid = new_uuid

    async def decide(self, device: Device, wish: StageWish, record: StageRecord | None) -> Plan:
        """The plan; FormatRefused when the device must not be used as asked, Unavailable when it cannot
        be read. A recognised filesystem is never formatted, but the unfinished one of our own mkfs."""
        content = await self._filesystems.identify(device)
        half_made = record is not None and not wish.read_only and _is_half_made(wish, record)
        if half_made and record is not None and content.uuid == record.fs_uuid:
            # Its UUID is the one chosen for that mkfs, and it was never mounted: a power cut can have kept the
            # superblock and lost the rest.
            return Plan(format=True, fs_uuid=record.fs_uuid)
        if content.fs_type and content.detail:
            # A superblock whose mkfs has not ended, and not ours.
            raise _not_ours(wish, content)
        if content.fs_type:
            _check_type(wish, content)
            return Plan(format=False, fs_uuid=content.uuid)
        if wish.read_only:
            raise FormatRefused(
                f"volume {wish.volume_id} has no filesystem that is known ({content.detail or 'nothing found'}), "
                "and one that is asked for read-only is never formatted"
            )
        proof = await self._filesystems.prove_blank(device)
        if half_made and record is not None and proof.fs_type in ("", record.fs_type):
            return Plan(format=True, fs_uuid=record.fs_uuid)
        if not proof.blank:
            raise _not_ours(wish, proof)
        if record is not None and record.format_state is FormatState.FORMATTED:
            raise FormatRefused(
                f"volume {wish.volume_id} reads as blank, but this node has seen its "
                f"{record.fs_type} before: it will not be formatted again",
                remedy="Look at the volume on the array. If it is new in truth, unstage it, and stage it again.",
            )
        return Plan(format=True, fs_uuid=self._new_uuid())


def _is_half_made(wish: StageWish, record: StageRecord) -> bool:
    """Whether only an interrupted mkfs of ours can have written to the device.

    The record was made after the proof of blankness and before the first mount, and its attachment is still in
    force, so no other node had the volume since. Without attachments (a static volume) nothing can prove that.
    """
    return (
        record.format_state is FormatState.FORMATTING
        and record.target.identity == wish.target.identity
        and wish.attachment != ""
        and record.attachment == wish.attachment
    )


def _check_type(wish: StageWish, content: Content) -> None:
    if content.fs_type != wish.fs_type:
        raise FormatRefused(
            f"volume {wish.volume_id} holds {content.fs_type}, and {wish.fs_type} is asked for",
            remedy=f"Use fsType {content.fs_type}; a volume that holds data is never formatted.",
        )


def _not_ours(wish: StageWish, proof: Content) -> FormatRefused:
    found = proof.detail or proof.fs_type or "data of an unknown kind"
    return FormatRefused(
        # Without the device: it is another one at each try, and soon that of another volume.
        f"volume {wish.volume_id} is neither blank nor a known filesystem ({found}): it will not be formatted",
        remedy="If its data is not needed in truth, make a new volume, or wipe this one (wipefs) where nothing else "
        "can be hit: a device name on a node is soon another volume's.",
    )
