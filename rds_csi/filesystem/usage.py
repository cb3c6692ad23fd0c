"""How full a volume is: statvfs(3), or the size of a block device by sysfs, without opening anything."""

import os
import stat

from rds_csi.errors import NotFound, Unavailable
from rds_csi.filesystem.protocol import Usage
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.oserrors import as_driver_error

# The unit of /sys/dev/block/*/size, whatever the device's own block size is (Documentation/ABI/stable/sysfs-block).
_SECTOR_BYTES = 512


def read_usage(path: str, sys: str) -> Usage:
    """Blocking; can stick on a dead device. NotFound when nothing is at ``path``."""
    try:
        status = os.lstat(path)
        if stat.S_ISBLK(status.st_mode):
            return Usage(total_bytes=_device_size(DeviceNumber.of(status.st_rdev), sys))
        figures = os.statvfs(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"nothing is at {path}") from error
    except OSError as error:
        raise as_driver_error(f"{path} cannot be looked at", error) from error
    unit = figures.f_frsize
    return Usage(
        total_bytes=figures.f_blocks * unit,
        available_bytes=figures.f_bavail * unit,
        used_bytes=(figures.f_blocks - figures.f_bfree) * unit,
        total_inodes=figures.f_files,
        available_inodes=figures.f_favail,
        used_inodes=figures.f_files - figures.f_ffree,
        read_only=bool(figures.f_flag & os.ST_RDONLY),
    )


def _device_size(number: DeviceNumber, sys: str) -> int:
    try:
        with open(os.path.join(sys, "dev", "block", str(number), "size"), encoding="ascii") as stream:
            return int(stream.read()) * _SECTOR_BYTES
    except FileNotFoundError as error:
        raise Unavailable(f"the block device {number} is gone, though its node is there") from error
