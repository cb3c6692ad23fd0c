"""What an OSError means to a CSI user: the one place where errno is turned into an error of this driver."""

import errno
import os

from rds_csi.errors import DriverError, FailedPrecondition, ResourceExhausted, Unavailable

# What sysfs, procfs and /dev say of a thing that is not there, goes while it is read, or is not for this process.
# Anything else (EMFILE, ENOMEM, EIO…) is "could not look" and never absence (lessons 3.3, 22b).
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.EINVAL, errno.EACCES})

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FORBIDDEN = frozenset(
    {errno.EROFS, errno.EPERM, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EBUSY}
)


def as_driver_error(what: str, error: OSError) -> DriverError:
    """``error`` in the words of a CSI user. What is not known to need somebody's hand is Unavailable: absence is
    never concluded from an I/O error (lessons 3.3, 22b)."""
    if error.errno in _FORBIDDEN:
        return FailedPrecondition(_text(what, error))
    return as_look_error(what, error)


def as_look_error(what: str, error: OSError) -> DriverError:
    """``as_driver_error`` for a mere look: ResourceExhausted when this node has run out of something, else
    Unavailable; a later look may succeed."""
    if error.errno in _FULL:
        return ResourceExhausted(
            _text(what, error), remedy="Free the resource on this node; the call is repeated by itself."
        )
    return Unavailable(_text(what, error))


def _text(what: str, error: OSError) -> str:
    return f"{what}: {os.strerror(error.errno) if error.errno else error}"
