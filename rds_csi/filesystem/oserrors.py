"""What an OSError means to a CSI user: the one place of this room where errno is turned into an error."""

import errno
import os

from rds_csi.errors import DriverError, FailedPrecondition, ResourceExhausted, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FORBIDDEN = frozenset(
    {errno.EROFS, errno.EPERM, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EBUSY}
)


def as_driver_error(what: str, error: OSError) -> DriverError:
    """``error`` in the words of a CSI user. What is not known to need somebody's hand is Unavailable: absence is
    never concluded from an I/O error (lessons 3.3, 22b)."""
    text = f"{what}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno in _FULL:
        return ResourceExhausted(text, remedy="Free the resource on this node; the call is repeated by itself.")
    if error.errno in _FORBIDDEN:
        return FailedPrecondition(text)
    return Unavailable(text)
