"""``rds-csi adopt``: make a disk that is on the array already a volume, and print the PersistentVolume for it."""

import json

from rds_csi.arrays.protocol import Array
from rds_csi.arrays.routeros.objects import Adoption, Inventory
from rds_csi.arrays.several import SeveralArrays
from rds_csi.errors import ConfigurationError
from rds_csi.metrics import Metrics
from rds_csi.model.sizes import MIB
from rds_csi.parts import Machine, open_array
from rds_csi.settings import Settings


async def adopt(settings: Settings, slot: str, *, volume_id: str = "", dry_run: bool = False) -> int:
    """Adopt the disk in ``slot`` (with several arrays ``name/slot``), or tell what that would do. Exit status 0.

    The array's own errors: NotFound, AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable.
    """
    array = open_array(settings, Machine.of(settings, Metrics()))
    try:
        chosen, own_slot = _choose(array, slot)
        adoption = await chosen.adopt(own_slot, dry_run, volume_id)
    finally:
        await array.close()
    print(describe(adoption, dry_run=dry_run))
    print(persistent_volume(adoption, settings.driver_name))
    return 0


def _choose(array: Array, slot: str) -> tuple[Inventory, str]:
    if isinstance(array, SeveralArrays):
        name, separator, own_slot = slot.partition("/")
        if not separator or name not in array.children:
            raise ConfigurationError(
                f"{slot!r} does not say in which array the disk is",
                remedy=f"It reads ARRAY/SLOT; the arrays are {', '.join(array.children)}.",
            )
        array, slot = array.children[name], own_slot
    if not isinstance(array, Inventory):
        raise ConfigurationError(
            "this array has no disks that could be adopted", remedy="Name a RouterOS array with --array."
        )
    return array, slot


def describe(adoption: Adoption, *, dry_run: bool) -> str:
    """What was done, as comments above the YAML."""
    volume = adoption.volume
    would = "would become" if dry_run else "is now"
    changed = "would be set" if dry_run else "were set"
    disk = f"disk {adoption.slot} with the file {adoption.path}, {volume.size // MIB} MiB,"
    lines = [
        f"# {disk} {would} volume {volume.volume_id}; its data stays.",
        *(f"# {changed}: {change}" for change in adoption.changes),
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
