"""``rds-csi adopt``: make a disk that is on the array already a volume, and print the PersistentVolume for it."""

import json
import uuid
from collections.abc import Mapping, Sequence

from rds_csi.arrays.protocol import Array
from rds_csi.arrays.routeros.objects import Adoption, Inventory
from rds_csi.arrays.several import SeveralArrays
from rds_csi.arrays.several_places import on_one_device
from rds_csi.arrays.several_search import ask, combined
from rds_csi.errors import Aborted, AlreadyExists, ConfigurationError, DeadlineExceeded, Unavailable
from rds_csi.metrics import Metrics
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import AccessMode, Attachment
from rds_csi.parts import Machine, open_array
from rds_csi.services.nodes import NamedNodes
from rds_csi.settings import Settings


async def adopt(
    settings: Settings,
    slot: str,
    *,
    volume_id: str = "",
    dry_run: bool = False,
    attached_to: Sequence[str] = (),
    not_attached: bool = False,
) -> int:
    """Adopt the disk in ``slot`` (with several arrays ``name/slot``), or tell what that would do. Exit status 0.

    ``attached_to``: the CSI ids of the nodes that use it now; ``not_attached``: a person has seen that none does.
    The array's own errors: NotFound, AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable.
    """
    if attached_to and not_attached:
        raise ConfigurationError("--attached-to and --not-attached do not go together", remedy="Leave one of them out.")
    array = open_array(settings, Machine.of(settings, Metrics()))
    try:
        chosen, own_slot, others = _choose(array, slot)
        if not isinstance(chosen, Inventory):
            raise ConfigurationError(
                "this array has no disks that could be adopted", remedy="Name a RouterOS array with --array."
            )
        nodes = attachments(attached_to, needs_host_nqn=chosen.traits.needs_host_nqn)
        told = nodes if nodes or not_attached else None
        adoption = await chosen.adopt(own_slot, True, volume_id, told)
        await check_elsewhere(chosen, others, adoption.volume.volume_id)
        if not dry_run:
            adoption = await chosen.adopt(own_slot, False, volume_id, told)
    finally:
        await array.close()
    print(describe(adoption, dry_run=dry_run))
    for name in sorted(set(others) - set(_askable(others))):
        print(f"# array {name} was not asked: see that it has no volume {adoption.volume.volume_id}.")
    print(persistent_volume(adoption, settings.driver_name))
    return 0


def _choose(array: Array, slot: str) -> tuple[Array, str, Mapping[str, Array]]:
    """The array that has the slot, the slot there, and the other arrays by name."""
    if not isinstance(array, SeveralArrays):
        return array, slot, {}
    name, separator, own_slot = slot.partition("/")
    if not separator or name not in array.children:
        raise ConfigurationError(
            f"{slot!r} does not say in which array the disk is",
            remedy=f"It reads ARRAY/SLOT; the arrays are {', '.join(array.children)}.",
        )
    others = {other: child for other, child in array.children.items() if other != name}
    return array.children[name], own_slot, others


def attachments(node_ids: Sequence[str], *, needs_host_nqn: bool) -> tuple[Attachment, ...]:
    """The attachments of those nodes, for writing; NotFound for what is no node's CSI id. One node has the volume for
    itself, which is the strictest that may have been."""
    mode = AccessMode.SINGLE_NODE_WRITER if len(set(node_ids)) == 1 else AccessMode.MULTI_NODE_MULTI_WRITER
    nodes = NamedNodes(needs_host_nqn=needs_host_nqn)
    return tuple(Attachment(nodes.lookup(node_id), str(uuid.uuid4()), mode) for node_id in dict.fromkeys(node_ids))


def _askable(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Those that know their volumes without being started, which is the running driver's to do."""
    return {name: child for name, child in arrays.items() if isinstance(child, Inventory)}


async def check_elsewhere(chosen: Array, others: Mapping[str, Array], volume_id: str) -> None:
    """AlreadyExists when another of the arrays has a volume of that id, Unavailable while one of them cannot tell: with
    two, the driver would do nothing to either."""
    answers = await ask(_askable(others), lambda child: child.get_volume(volume_id))
    if answers.values:
        raise AlreadyExists(
            f"array {next(iter(answers.values))} has a volume {volume_id} already",
            remedy="Adopt the disk under another id, or delete that volume.",
        )
    away = (Unavailable, DeadlineExceeded, Aborted)
    # The very disk is in the way of an array on the same device.
    failures = {
        name: error
        for name, error in answers.failures.items()
        if isinstance(error, away) or not on_one_device(chosen, others[name])
    }
    if failures:
        raise combined(failures, f"whether another array has a volume {volume_id} is not known")


def describe(adoption: Adoption, *, dry_run: bool) -> str:
    """What was done, as comments above the YAML."""
    volume = adoption.volume
    would = "would become" if dry_run else "is now"
    changed = "would be set" if dry_run else "were set"
    lost = "would be" if dry_run else "are"
    disk = f"disk {adoption.slot} with the file {adoption.path}, {volume.size // MIB} MiB,"
    lines = [
        f"# {disk} {would} volume {volume.volume_id}; its data stays.",
        *(f"# {changed}: {change}" for change in adoption.changes),
        *(f"# forgotten {lost}: {what}, which an earlier mark may have told" for what in adoption.lost),
    ]
    if dry_run:
        lines.append("# Nothing was changed (--dry-run).")
    return "\n".join(lines)


def persistent_volume(adoption: Adoption, driver_name: str) -> str:
    """The PersistentVolume by which a cluster uses the volume; ``Retain``, so that no claim's end deletes its data."""
    volume = adoption.volume
    attributes = "\n".join(
        f"      {key}: {json.dumps(value)}" for key, value in sorted(volume.target.to_context().items())
    )
    # A JSON string is a YAML string.
    return f"""\
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {json.dumps(volume.volume_id)}
  annotations:
    pv.kubernetes.io/provisioned-by: {json.dumps(driver_name)}
spec:
  capacity:
    storage: "{volume.size}"
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  csi:
    driver: {json.dumps(driver_name)}
    volumeHandle: {json.dumps(volume.volume_id)}
    # fsType: ext4   # what is on it already; leave it out for volumeMode: Block
    volumeAttributes:
{attributes}
"""
