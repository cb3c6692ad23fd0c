"""What the operating system refused, in the words of a CSI user."""

import errno

from rds_csi.errors import DriverError, OutOfRange, ResourceExhausted, Unavailable

# What a filesystem without room says, or one whose quota is used up.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def fault(error: OSError, what: str) -> DriverError:
    """The driver's error for ``error``, which happened while doing ``what``."""
    where = f" ({error.filename})" if error.filename else ""
    message = f"{what} failed: {error.strerror or error}{where}"
    if error.errno in FULL:
        return ResourceExhausted(message, remedy="Free some space below the array's directory.")
    if error.errno == errno.EFBIG:
        return OutOfRange(message, remedy="No file of this filesystem can be so large.")
    return Unavailable(message, remedy="Look at the array's directory and the kernel's log.")
