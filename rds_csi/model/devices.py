"""Block devices as the kernel numbers them."""

import os
from dataclasses import dataclass
from typing import Self

from rds_csi.errors import InvalidArgument


@dataclass(frozen=True, slots=True, order=True)
class DeviceNumber:
    """The kernel's identity of a device (``dev`` in sysfs, the third field of mountinfo)."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``"259:3"``."""
        major, separator, minor = text.strip().partition(":")
        if not (separator and major.isdecimal() and minor.isdecimal()):
            raise InvalidArgument(f"not a device number: {text!r}")
        return cls(int(major), int(minor))

    @classmethod
    def of(cls, rdev: int) -> Self:
        """From ``st_rdev`` or ``st_dev`` of stat(2)."""
        return cls(os.major(rdev), os.minor(rdev))

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


@dataclass(frozen=True, slots=True)
class Device:
    """A block device that is there now: its node below /dev, its number, its size in bytes."""

    path: str
    number: DeviceNumber
    size: int
