"""A volume in use whose device the kernel gave up: what has come of it, and what a person must do.

A filesystem or block node stays with the device that it was made for. When the kernel gives that device up
(ctrl_loss_tmo, "do not retry", a namespace that was away), the volume comes back as another one: only unmounting and
mounting anew, so no pod and no call of the kubelet alone, gets a dead mount back to life.
"""

from rds_csi.errors import FailedPrecondition
from rds_csi.filesystem.protocol import Mount
from rds_csi.model.devices import Device

REMEDY = "Delete the pods that use it on this node, so that it is unstaged and staged anew."


def describe(volume_id: str, path: str, old: str, device: Device | None) -> str:
    """What is dead at ``path``: ``old`` names the device that was given up, ``device`` is the volume's now."""
    now = f"is {device.path} ({device.number}) now" if device is not None else "has no device now"
    return f"volume {volume_id} {now}, but {path} is still of {old}, which the kernel has given up"


def error(volume_id: str, dead: Mount, device: Device | None) -> FailedPrecondition:
    """Why nothing can be done where ``dead`` is mounted, before a person has acted."""
    return FailedPrecondition(describe(volume_id, dead.path, name_of(dead), device), remedy=REMEDY)


def name_of(mount: Mount) -> str:
    """The device of a mount, for people."""
    return f"{mount.source} ({mount.number})"
