"""Mounts as they concern block devices: number, source and place of each line of mountinfo (proc_pid_mountinfo(5))."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Blanks, tabs, newlines and backslashes are written as three octal digits.
_OCTAL = re.compile(r"\\([0-3][0-7]{2})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount. ``number`` ("259:3") is of the filesystem, made up for btrfs; ``source`` is the path under which
    the mounting process saw the device."""

    number: str
    path: str
    fs_type: str
    source: str


def parse_mounts(text: str) -> Iterator[Mounted]:
    """Every mount of a mountinfo file; a line that is not of its form is left out."""
    # Not splitlines(): the kernel escapes no carriage return, U+2028 and the like in a path.
    for line in text.split("\n"):
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) > 5 and len(tail) > 1:
            yield Mounted(fields[2], decode(fields[4]), decode(tail[0]), decode(tail[1]))


def decode(field: str) -> str:
    """A field of mountinfo or swaps without its octal escapes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field) if "\\" in field else field
