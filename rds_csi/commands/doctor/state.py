"""The doctor on the state directory: whether it can be written, and whether it survives. Writes nothing. Blocking."""

import os
from collections.abc import Iterator

from rds_csi.commands.doctor.findings import Result, missing, ok, warning
from rds_csi.filesystem.protocol import Mount, MountTable

_SUBJECT = "state directory"
# In memory, or the upper layer of a container that goes with it.
_SHORT_LIVED = {"tmpfs": "in memory", "ramfs": "in memory", "overlay": "in a container's own layer"}
_ELSEWHERE = "Name a directory of the host's disk with --state-dir; in a container, mount one there."


def look_at_state_dir(path: str, table: MountTable) -> Result:
    """What the driver would find at its start."""
    existing = next(part for part in _upwards(path) if os.path.lexists(part))
    if not os.path.isdir(existing):
        return missing(_SUBJECT, f"{existing} is not a directory", "Remove it, or name another --state-dir.")
    if not os.access(existing, os.W_OK | os.X_OK):
        return missing(_SUBJECT, f"{existing} cannot be written by this user", f"Run as root. {_ELSEWHERE}")
    message = path if existing == path else f"{path} will be made in {existing} at the driver's start"
    mount = _mount_of(os.path.realpath(existing), table)
    if mount is not None and mount.fs_type in _SHORT_LIVED:
        where = _SHORT_LIVED[mount.fs_type]
        return warning(_SUBJECT, f"{message}: it is {where} ({mount.fs_type} at {mount.path})", _ELSEWHERE)
    return ok(_SUBJECT, f"{message}{f', on {mount.fs_type}' if mount is not None else ''}")


def _upwards(path: str) -> Iterator[str]:
    while path != "/":
        yield path.rstrip("/")
        path = os.path.dirname(path.rstrip("/")) or "/"
    yield "/"


def _mount_of(path: str, table: MountTable) -> Mount | None:
    """The mount that shows ``path``: the visible one at the nearest mount point above it."""
    return next((table.at(part)[-1] for part in _upwards(path) if table.at(part)), None)
