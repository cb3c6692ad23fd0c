"""Attachments and mutable parameters: kept in the comment of a volume's disk, changed by compare-and-set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rds_csi.arrays.routeros import fencing
from rds_csi.arrays.routeros.commands import SetDisk, Step
from rds_csi.arrays.routeros.copy_records import BeingCopied, Copy, writes
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.volumes import not_found
from rds_csi.errors import Unavailable
from rds_csi.model.volumes import Attachment, check_compatible


class Attaching:
    """Lets nodes in and shuts them out. Comment and export change in one ``set``, so a host that is let in is always
    accounted for, and one that is forgotten is shut out."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def attach(self, volume_id: str, attachment: Attachment) -> Owned:
        """Record the attachment in place of an older one of the same node. NotFound; FailedPrecondition, also when
        another node has the volume in a way that does not go with it."""
        node_id = attachment.node.node_id

        def change(mark: Mark) -> Mark:
            others = tuple(item for item in mark.attachments if item.node.node_id != node_id)
            # On the very mark that is replaced: another controller may have let a node in since the service looked.
            check_compatible(volume_id, others, attachment)
            fencing.check_host(self._core.options.fencing, attachment, others)
            if writes(attachment) and mark.job:
                raise BeingCopied(f"volume {volume_id} is being copied to {Copy.decode(mark.job).title}")
            return replace(mark, attachments=(*others, attachment))

        return await self.rewrite(volume_id, change, f"volume {volume_id} could not be attached to {node_id}")

    async def detach(self, volume_id: str, node_id: str) -> None:
        """Forget the node's attachment, or all for ""; absent ones, and an absent volume, are fine."""

        def change(mark: Mark) -> Mark:
            rest = tuple(item for item in mark.attachments if node_id and item.node.node_id != node_id)
            return replace(mark, attachments=rest)

        what = f"volume {volume_id} could not be detached from {node_id or 'all nodes'}"
        await self._core.change(Kind.VOLUME, volume_id, self._plan(change, creating=False), what=what)

    async def modify(self, volume_id: str, parameters: Mapping[str, str]) -> Owned:
        """Replace the mutable parameters."""
        return await self.rewrite(
            volume_id,
            lambda mark: replace(mark, mutable_parameters=dict(parameters)),
            f"the parameters of volume {volume_id} could not be changed",
        )

    async def rewrite(self, volume_id: str, change: Callable[[Mark], Mark], what: str) -> Owned:
        """Change the volume's mark, and its export as the attachments ask; NotFound for an absent volume."""
        done = await self._core.change(Kind.VOLUME, volume_id, self._plan(change, creating=True), what=what)
        if done.after is None:
            raise not_found(volume_id)
        return done.after

    def _plan(self, change: Callable[[Mark], Mark], *, creating: bool) -> Callable[[Owned], Sequence[Step] | None]:
        """The plan that makes the mark what ``change`` says; ``creating`` refuses volumes that are not made yet."""

        def plan(owned: Owned) -> Sequence[Step] | None:
            if creating and not owned.mark.ready:
                raise Unavailable(f"volume {owned.object_id} is being made from its source")
            mark = change(owned.mark)
            properties = dict(fencing.changes(self._core.options.fencing, mark.attachments, owned.disk))
            if mark != owned.mark:
                properties["comment"] = mark.encode()
            return (SetDisk(properties),) if properties else None

        return plan
