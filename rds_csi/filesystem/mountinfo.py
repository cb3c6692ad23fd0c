"""The parser of /proc/self/mountinfo (proc_pid_mountinfo(5)): pure, and never upset by a strange line."""

import re
from functools import lru_cache

from rds_csi.errors import InvalidArgument
from rds_csi.filesystem.protocol import Mount, MountTable
from rds_csi.model.devices import DeviceNumber

# seq_escape() in fs/proc_namespace.c writes blanks, tabs, newlines, backslashes and "#" as three octal digits.
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
# The fields before the optional ones: id, parent, major:minor, root, mount point, options.
_FIXED_FIELDS = 6
# About the mounts of a node with a hundred pods.
_CACHED_LINES = 2048


def decode(field: bytes) -> str:
    """A field without its octal escapes; bytes that are no UTF-8 become surrogates, as os.fsdecode has them."""
    if b"\\" not in field:
        return field.decode("utf-8", "surrogateescape")
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field).decode("utf-8", "surrogateescape")


# From one look to the next nearly every line is the same: a line is parsed once while it is there.
@lru_cache(maxsize=_CACHED_LINES)
def parse_line(line: bytes) -> Mount | None:
    """One mount, or None for a line that is not of mountinfo's form."""
    before, separator, after = line.rstrip(b"\n").partition(b" - ")
    fields = before.split(b" ")
    tail = after.split(b" ")
    if not separator or len(fields) < _FIXED_FIELDS or len(tail) < 2 or not fields[0].isdigit():
        return None
    try:
        number = DeviceNumber.parse(fields[2].decode("ascii"))
    except (InvalidArgument, ValueError):
        return None
    return Mount(
        mount_id=int(fields[0]),
        number=number,
        root=decode(fields[3]),
        path=decode(fields[4]),
        options=tuple(decode(fields[5]).split(",")),
        fs_type=decode(tail[0]),
        source=decode(tail[1]),
        super_options=tuple(decode(tail[2]).split(",")) if len(tail) > 2 else (),
    )


def parse(text: bytes) -> MountTable:
    """The whole file. A line that cannot be read is left out: the kernel's next field must not stop a node."""
    return MountTable(tuple(mount for line in text.split(b"\n") if (mount := parse_line(line)) is not None))
