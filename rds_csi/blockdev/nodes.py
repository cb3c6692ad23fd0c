"""Device nodes below /dev: which device a node is, and whether somebody has claimed it."""

import errno
import os
import stat

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.oserrors import GONE

# What open(2) says of a node that is gone, or of a device that is dead.
_DEAD = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM, errno.EIO})


class BlockNodes:
    """What stat(2) and open(2) tell about block special files. Blocking: call it in a worker;
    OSError when it could not be looked at.

    Injected, so that tests on made-up trees need no mknod(2).
    """

    def number_of(self, path: str) -> DeviceNumber | None:
        """The device behind the block special file at ``path``; None when there is none."""
        try:
            status = os.stat(path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        return DeviceNumber.of(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None

    def is_claimed(self, path: str) -> bool:
        """Whether a filesystem, swap, dm or md in any mount namespace has claimed the device exclusively.

        open(2): O_EXCL without O_CREAT on a block device fails with EBUSY while it is in use by the system.
        A node that is gone, or a device that is dead, is claimed by nobody who could be asked.
        """
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            if error.errno not in _DEAD:
                raise
        return False
