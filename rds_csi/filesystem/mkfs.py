"""What mkfs is told: the programs' arguments, and which ``mkfsOptions`` of a StorageClass may be added."""

import re
from collections.abc import Mapping, Sequence

from rds_csi.errors import InvalidArgument, OutOfRange
from rds_csi.model.mounts import FILESYSTEMS
from rds_csi.model.sizes import MIB

# Below these the tools refuse: mkfs.xfs(8) since xfsprogs 5.19 (300 MB), mkfs.btrfs(8) without --mixed (109 MiB),
# mke2fs needs room for one block group with a journal.
MINIMUM_BYTES: Mapping[str, int] = {"ext4": 2 * MIB, "xfs": 300 * MIB, "btrfs": 114_294_784}

# A value has no blanks, no path and no quotes; "^" switches a feature off, ":" separates a quota from a type.
_VALUE = re.compile(r"[A-Za-z0-9_^][A-Za-z0-9_^.,=:+-]*", re.ASCII)

# option → names within its value that are refused, because they would choose another device, size or UUID.
# What is not here is refused as a whole: forcing (-f, -F), dry runs (-n, -N), UUIDs (-U), other devices, reading
# host files (-d DIR, -r DIR, -p FILE, -c FILE), writing only a superblock (-S), discarding.
_ALLOWED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "ext4": {
        "-b": frozenset(),
        "-C": frozenset(),
        "-E": frozenset({"offset", "resize", "discard", "test_fs", "hash_seed"}),
        "-e": frozenset({"panic"}),
        "-G": frozenset(),
        "-g": frozenset(),
        "-I": frozenset(),
        "-i": frozenset(),
        "-J": frozenset({"device"}),
        "-L": frozenset(),
        "-m": frozenset(),
        "-N": frozenset(),
        "-O": frozenset({"journal_dev"}),
        "-T": frozenset(),
    },
    "xfs": {
        "-b": frozenset(),
        "-d": frozenset({"name", "file", "size", "rtinherit"}),
        "-i": frozenset(),
        "-l": frozenset({"name", "file", "logdev"}),
        "-L": frozenset(),
        "-m": frozenset({"uuid"}),
        "-n": frozenset(),
        "-s": frozenset(),
    },
    "btrfs": {
        "-d": frozenset(),
        "-L": frozenset(),
        "-m": frozenset(),
        "-n": frozenset(),
        "-O": frozenset(),
        "-s": frozenset(),
        "--checksum": frozenset(),
        "--csum": frozenset(),
    },
}

# No discard: the device has just been proven blank, so there is nothing to give back, and discarding a large thin
# volume can take minutes. Inode tables and journal are zeroed later by the kernel ("lazy"): writing 1.6 % of the
# volume now would fill thin space and make a large volume's first stage outlast the caller's patience.
_EXT_EXTENDED = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"


def check_format(fs_type: str, size: int, options: Sequence[str]) -> None:
    """Whether mkfs for ``fs_type`` can be started on a device of ``size`` bytes with these ``mkfsOptions``.

    InvalidArgument for an unknown filesystem or a refused option, OutOfRange for a device that is too small.
    """
    check_options(fs_type, options)
    if size < MINIMUM_BYTES[fs_type]:
        raise OutOfRange(
            f"{size} bytes are too few for {fs_type}",
            remedy=f"Ask for a volume of at least {-(-MINIMUM_BYTES[fs_type] // MIB)} MiB.",
        )


def check_options(fs_type: str, options: Sequence[str]) -> None:
    """Whether every one of ``options`` is a ``-x value`` pair that may be added; InvalidArgument names the first
    that is not."""
    if fs_type not in _ALLOWED:
        raise InvalidArgument(f"filesystem {fs_type[:32]!r} is not known; known are {', '.join(FILESYSTEMS)}")
    allowed = _ALLOWED[fs_type]
    for position in range(0, len(options), 2):
        name, value = options[position], "".join(options[position + 1 : position + 2])
        if name not in allowed:
            raise InvalidArgument(
                f"mkfsOptions: {name[:64]!r} is not allowed for {fs_type}; pairs of {', '.join(sorted(allowed))} "
                "and a value are"
            )
        if not _VALUE.fullmatch(value):
            raise InvalidArgument(f"mkfsOptions: {name} has no value, or not a plain one: {value[:64]!r}")
        refused = allowed[name] & {part.partition("=")[0] for part in value.split(",")}
        if refused:
            raise InvalidArgument(f"mkfsOptions: {sorted(refused)[0]!r} is not allowed within {name}")


def arguments(device_path: str, fs_type: str, uuid: str, options: Sequence[str]) -> tuple[str, ...]:
    """The whole command. Never forced: mkfs.xfs and mkfs.btrfs refuse a device with any signature that they know,
    and all three one that is in use, a third look after the two of the proof."""
    check_options(fs_type, options)
    if fs_type == "ext4":
        pairs = list(zip(options[::2], options[1::2], strict=True))
        # The last -E of several would replace the others.
        extended = ",".join([_EXT_EXTENDED, *(value for name, value in pairs if name == "-E")])
        others = [part for name, value in pairs if name != "-E" for part in (name, value)]
        # No blocks kept for root: in a pod nobody would find them, and the claim asked for the whole.
        return ("mkfs.ext4", "-q", "-m", "0", "-U", uuid, "-E", extended, *others, device_path)
    if fs_type == "xfs":
        return ("mkfs.xfs", "-q", "-K", "-m", f"uuid={uuid}", *options, device_path)
    return ("mkfs.btrfs", "-q", "-K", "-U", uuid, *options, device_path)
