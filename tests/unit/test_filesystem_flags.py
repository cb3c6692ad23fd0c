"""Mount flags of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import InvalidArgument
from rds_csi.filesystem.flags import check_flags, reader_flags, superblock_options
from rds_csi.filesystem.mountapi import attributes

RDONLY, NOEXEC, NOATIME, ATIME_MASK = 0x1, 0x8, 0x10, 0x70


@pytest.mark.parametrize(
    ("fs_type", "flags"),
    [
        ("ext4", ["exec", "noatime", "discard", "data=ordered", "commit=30", "errors=remount-ro"]),
        ("xfs", ["nouuid", "logbsize=256k", "prjquota", "norecovery", "ro"]),
        ("btrfs", ["compress=zstd:3", "space_cache=v2", "discard=async", "rescue=nologreplay"]),
        ("ext4", ['context="system_u:object_r:container_file_t:s0:c1,c2"']),
        ("", ["nouuid", "discard"]),
        ("ext4", []),
    ],
)
def test_what_users_need_is_allowed(fs_type: str, flags: list[str]) -> None:
    assert check_flags(flags, fs_type) == tuple(flags)


@pytest.mark.parametrize(
    "flag",
    [
        "bind",
        "rbind",
        "remount",
        "move",
        "loop",
        "loop=/dev/loop0",
        "offset=512",
        "shared",
        "X-mount.mkdir",
        "x-systemd.automount",
        "logdev=/dev/sda",
        "device=/dev/sda",
        "journal_path=/dev/sda",
        "errors=panic",
        "fatal_errors=panic",
        "subvolid=5",
        "helper=evil",
        "nofail",
        "noatime,bind",
        "context=a:b,bind",
        'context="a:b",bind',
        "commit=5,remount",
        "noatime\n",
        "commit=٣",
        "-o",
        "",
        "noatime=1",
        "commit",
    ],
)
def test_what_would_do_something_else_is_refused(flag: str) -> None:
    with pytest.raises(InvalidArgument):
        check_flags([flag], "ext4")
    with pytest.raises(InvalidArgument):
        check_flags([flag])


def test_flags_with_commas_between_them_are_taken_apart() -> None:
    assert check_flags(["noatime,discard", "ro"], "ext4") == ("noatime", "discard", "ro")


def test_a_flag_of_another_filesystem_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="'nouuid' is not allowed for ext4"):
        check_flags(["nouuid"], "ext4")


def test_a_misspelt_flag_gets_a_hint() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'noatime'"):
        check_flags(["noattime"], "xfs")


def test_contradicting_flags_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="contradict"):
        check_flags(["ro", "rw"])


@given(st.text())
def test_no_allowed_flag_has_an_unquoted_comma_or_a_path(flag: str) -> None:
    try:
        words = check_flags([flag])
    except InvalidArgument:
        return
    assert all(word and "," not in word.partition('"')[0] and "/" not in word for word in words)


def test_xfs_always_gets_nouuid_once() -> None:
    assert superblock_options(["noatime"], "xfs") == ("noatime", "nouuid")
    assert superblock_options(["nouuid", "noatime", "noatime"], "xfs") == ("nouuid", "noatime")
    assert superblock_options(["noatime"], "ext4") == ("noatime",)


@pytest.mark.parametrize("fs_type", ["ext2", "ext3", "ext4", "xfs", "btrfs"])
def test_reader_flags_are_read_only_and_allowed(fs_type: str) -> None:
    flags = reader_flags(fs_type)
    assert flags[0] == "ro"
    assert check_flags(flags, fs_type) == flags


def test_mount_attributes_follow_the_flags() -> None:
    assert attributes([]) == (0, 0)
    assert attributes(["ro", "noexec", "discard"]) == (RDONLY | NOEXEC, 0)
    assert attributes(["noatime"]) == (NOATIME, ATIME_MASK)
    assert attributes(["relatime"]) == (0, ATIME_MASK)
    assert attributes(["exec"]) == (0, NOEXEC)


def test_of_two_contradicting_flags_the_later_counts() -> None:
    assert attributes(["noexec", "exec"]) == (0, NOEXEC)
    assert attributes(["exec", "noexec"])[0] == NOEXEC
