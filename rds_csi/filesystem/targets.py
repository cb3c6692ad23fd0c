"""The staging and target paths themselves: made before a mount, removed after it, never recursively."""

import errno
import os
import stat

from rds_csi.errors import FailedPrecondition
from rds_csi.model.oserrors import as_driver_error

# The kubelet's own mode for the directories of volumes.
_DIRECTORY_MODE = 0o750


def ensure_directory(path: str) -> bool:
    """Blocking. A real directory is at ``path``; True when this call made it. Symlinks are refused, since a mount
    would land where they point."""
    try:
        os.makedirs(os.path.dirname(path), mode=_DIRECTORY_MODE, exist_ok=True)
        try:
            os.mkdir(path, _DIRECTORY_MODE)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise FailedPrecondition(
                    f"{path} is there already and is not a directory", remedy="Remove it; the driver does not."
                ) from None
            return False
    except OSError as error:
        raise as_driver_error(f"{path} cannot be made", error) from error
    return True


def remove(path: str) -> None:
    """Blocking. Nothing is at ``path``, which the mount table has shown as unmounted.

    Only what a driver puts there goes: an empty directory, an empty file, a block node. A directory or file with
    content is FailedPrecondition: it may be the volume's data (lessons L2). So is anything else (a symlink, a
    socket…): somebody else has put it there.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
            return
        if stat.S_ISREG(status.st_mode):
            if status.st_size:
                raise FailedPrecondition(f"{path} is a file with content, so it is not removed")
        elif not stat.S_ISBLK(status.st_mode):
            raise FailedPrecondition(
                f"{path} is neither a directory, a file nor a block node, so it is not removed",
                remedy="Look at who put it there, and remove it by hand.",
            )
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FailedPrecondition(
                f"{path} is not empty, so it is not removed", remedy="Look at what was left there."
            ) from error
        raise as_driver_error(f"{path} cannot be removed", error) from error
