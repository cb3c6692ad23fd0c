"""Mount flags of a request: which are understood, and what each means for a mount and for a bind.

An explicit list, because a flag goes into ``mount -o``: one with a comma would smuggle in another, and
``bind``, ``remount``, ``move``, ``loop``, ``X-mount.*`` or ``logdev=`` make mount(8) do something else than mount
this device. Sources: mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS"; Documentation/admin-guide/ext4.rst, xfs.rst;
btrfs(5).
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from rds_csi.errors import InvalidArgument


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Options of the mount itself (VFS): in force for each bind alone.
MOUNT_FLAGS = _words(
    "ro rw exec noexec suid nosuid dev nodev atime noatime diratime nodiratime relatime norelatime strictatime "
    "nostrictatime symfollow nosymfollow"
)
# Options of the superblock that every filesystem understands, or that only mount(8) reads and that change nothing.
_SUPERBLOCK_FLAGS = _words("defaults sync async dirsync lazytime nolazytime mand nomand _netdev silent loud")

_NUMBER = r"[0-9]{1,10}"
_SIZE = r"[0-9]{1,10}[kKmMgG]?"
# An SELinux label, quoted by the kubelet because its categories have commas ("s0:c1,c2").
_LABEL = r'"[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.,-]+)*"|[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+)*'

# name → pattern of its value; "" means that it takes none. ``errors=panic`` and the like are left out on purpose:
# a volume must not bring its node down.
_COMMON_VALUES = dict.fromkeys(("context", "fscontext", "defcontext", "rootcontext"), _LABEL)
_EXT = {
    **dict.fromkeys(
        _words(
            "acl noacl user_xattr nouser_xattr barrier nobarrier discard nodiscard delalloc nodelalloc noload "
            "norecovery journal_checksum nojournal_checksum journal_async_commit auto_da_alloc noauto_da_alloc "
            "dioread_lock dioread_nolock init_itable noinit_itable block_validity noblock_validity bsddf minixdf "
            "grpid nogrpid i_version noquota quota usrquota grpquota prjquota prefetch_block_bitmaps "
            "no_prefetch_block_bitmaps dax nombcache mblk_io_submit nomblk_io_submit"
        ),
        "",
    ),
    "barrier=": "[01]",
    "commit=": _NUMBER,
    "data=": "journal|ordered|writeback",
    "data_err=": "abort|ignore",
    "dax=": "always|inode|never",
    "errors=": "continue|remount-ro",
    "init_itable=": _NUMBER,
    "inode_readahead_blks=": _NUMBER,
    "journal_ioprio=": "[0-7]",
    "max_batch_time=": _NUMBER,
    "max_dir_size_kb=": _NUMBER,
    "min_batch_time=": _NUMBER,
    "stripe=": _NUMBER,
    "resuid=": _NUMBER,
    "resgid=": _NUMBER,
}
_XFS = {
    **dict.fromkeys(
        _words(
            "attr2 noattr2 discard nodiscard grpid nogrpid bsdgroups sysvgroups filestreams ikeep noikeep inode32 "
            "inode64 largeio nolargeio noalign norecovery nouuid wsync swalloc quota noquota uquota usrquota "
            "uqnoenforce gquota grpquota gqnoenforce pquota prjquota pqnoenforce dax"
        ),
        "",
    ),
    "allocsize=": _SIZE,
    "dax=": "always|inode|never",
    "logbsize=": _SIZE,
    "logbufs=": "[2-8]",
    "sunit=": _NUMBER,
    "swidth=": _NUMBER,
}
_BTRFS = {
    **dict.fromkeys(
        _words(
            "acl noacl autodefrag noautodefrag barrier nobarrier compress compress-force datacow nodatacow "
            "datasum nodatasum discard nodiscard enospc_debug noenospc_debug flushoncommit noflushoncommit "
            "skip_balance space_cache nospace_cache clear_cache ssd nossd ssd_spread nossd_spread treelog "
            "notreelog user_subvol_rm_allowed nologreplay rescan_uuid_tree"
        ),
        "",
    ),
    "commit=": _NUMBER,
    "compress=": "(?:zlib|lzo|zstd)(?::[0-9]{1,2})?|no",
    "compress-force=": "(?:zlib|lzo|zstd)(?::[0-9]{1,2})?|no",
    "discard=": "sync|async",
    "max_inline=": _SIZE,
    "metadata_ratio=": _NUMBER,
    "rescue=": "nologreplay|usebackuproot",
    "space_cache=": "v[12]",
    "thread_pool=": "[0-9]{1,3}",
}
_BY_FS_TYPE: Mapping[str, Mapping[str, str]] = {"ext2": _EXT, "ext3": _EXT, "ext4": _EXT, "xfs": _XFS, "btrfs": _BTRFS}
_ANY_FS_TYPE: Mapping[str, str] = {**_BTRFS, **_XFS, **_EXT}

# How to mount without replaying the journal, which would write (see ``reader_flags``).
_READER_FLAGS: Mapping[str, tuple[str, ...]] = {
    "ext2": ("ro",),
    "ext3": ("ro", "noload"),
    "ext4": ("ro", "noload"),
    "xfs": ("ro", "norecovery"),
    "btrfs": ("ro", "rescue=nologreplay"),
}

# A comma that is not within quotes.
_COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')


def check_flags(flags: Iterable[str], fs_type: str = "") -> tuple[str, ...]:
    """``flags``, each a single word, when every one is on the list for ``fs_type`` ("": for any filesystem).

    A StorageClass may write several with commas between them, as mount(8) lets it. InvalidArgument names the
    first that is not known, with the nearest that is.
    """
    checked = tuple(word for flag in flags for word in _COMMA.split(flag))
    for flag in checked:
        if not _is_known(flag, fs_type):
            raise InvalidArgument(
                f"mount flag {flag[:64]!r} is not allowed{f' for {fs_type}' if fs_type else ''}{_hint(flag, fs_type)}"
            )
    if "ro" in checked and "rw" in checked:
        raise InvalidArgument("the mount flags 'ro' and 'rw' contradict each other")
    return checked


def superblock_options(flags: Sequence[str], fs_type: str) -> tuple[str, ...]:
    """What ``mount -o`` is given for ``fs_type``: the flags, checked, each once, and ``nouuid`` for xfs.

    xfs refuses to mount a second filesystem with the same UUID, which is what a clone or a restored snapshot beside
    its origin is (xfs(5), nouuid). That the device is the right one is proven before, by NQN and namespace.
    """
    options = list(dict.fromkeys(check_flags(flags, fs_type)))
    if fs_type == "xfs" and "nouuid" not in options:
        options.append("nouuid")
    return tuple(options)


def reader_flags(fs_type: str) -> tuple[str, ...]:
    """Flags by which several nodes can read one volume: read-only, and no journal replay, which writes even so.

    A filesystem whose journal is not empty looks then as it was before its last transactions; a volume that is
    published to many readers has been unmounted cleanly by its writer first.
    """
    return _READER_FLAGS.get(fs_type, ("ro",))


def _known(fs_type: str) -> Mapping[str, str]:
    return {
        **dict.fromkeys(MOUNT_FLAGS | _SUPERBLOCK_FLAGS, ""),
        **{f"{name}=": pattern for name, pattern in _COMMON_VALUES.items()},
        **(_BY_FS_TYPE.get(fs_type, {}) if fs_type else _ANY_FS_TYPE),
    }


def _is_known(flag: str, fs_type: str) -> bool:
    name, separator, value = flag.partition("=")
    pattern = _known(fs_type).get(name + separator)
    return pattern is not None and re.fullmatch(pattern, value, re.ASCII) is not None


def _hint(flag: str, fs_type: str) -> str:
    found = difflib.get_close_matches(flag[:64], [name.rstrip("=") for name in _known(fs_type)], n=1, cutoff=0.75)
    return f" (did you mean {found[0]!r}?)" if found and found[0] != flag else ""
