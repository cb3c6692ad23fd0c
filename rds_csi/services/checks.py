"""The checks of ids and paths that every request goes through first."""

from rds_csi.errors import NotFound
from rds_csi.model.names import check_name, is_id
from rds_csi.model.paths import check_path


def may_exist(identifier: str, field: str) -> bool:
    """Whether this driver could have given ``identifier``; InvalidArgument when no id looks like that.

    What cannot exist is already deleted: the deleting calls answer OK for it.
    """
    return is_id(check_name(identifier, field))


def require_id(identifier: str, field: str, what: str) -> str:
    """``identifier`` itself; InvalidArgument when it is missing, NotFound when this driver never gave it."""
    if not may_exist(identifier, field):
        raise NotFound(f"{what} {identifier!r} does not exist: it is not an id of this driver")
    return identifier


def require_volume_id(volume_id: str) -> str:
    """``require_id`` for volumes."""
    return require_id(volume_id, "volume_id", "volume")


def require_path_of_volume(path: str, field: str, volume_id: str) -> str:
    """A path where a volume should be: missing is InvalidArgument, but a relative one is NotFound, since no
    volume can ever be there (CSI 1.13, NodeGetVolumeStats and NodeExpandVolume errors)."""
    if path and not path.startswith("/"):
        raise NotFound(f"volume {volume_id} is not at {path[:256]!r}: {field} is not an absolute path")
    return check_path(path, field)
