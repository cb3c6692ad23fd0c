"""What mkfs is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import InvalidArgument, OutOfRange
from rds_csi.filesystem.mkfs import arguments, check_format, check_options
from rds_csi.model.sizes import GIB, MIB

UUID = "0f3a9a5e-7c1b-4d6e-8f00-112233445566"
DEVICE = "/dev/nvme0n1"


def test_ext4_keeps_its_extended_options_beside_those_of_the_user() -> None:
    command = arguments(DEVICE, "ext4", UUID, ("-E", "stride=16", "-m", "1"))
    assert command[0] == "mkfs.ext4"
    assert command.count("-E") == 1
    assert command[command.index("-E") + 1].endswith(",stride=16")
    assert command.index("0") < command.index("1"), "the user's -m comes last and counts"
    assert command[-1] == DEVICE


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_nothing_is_ever_forced(fs_type: str) -> None:
    command = arguments(DEVICE, fs_type, UUID, ())
    assert not {"-f", "-F"} & set(command)
    assert any(UUID in word for word in command)


@pytest.mark.parametrize(
    ("fs_type", "options"),
    [
        ("ext4", ["-b", "4096", "-O", "^has_journal,metadata_csum", "-i", "65536"]),
        ("xfs", ["-m", "crc=1,reflink=1", "-d", "agcount=8,su=64k,sw=4", "-i", "nrext64=0"]),
        ("btrfs", ["-n", "16384", "--csum", "xxhash", "-O", "^free-space-tree"]),
    ],
)
def test_tuning_options_are_allowed(fs_type: str, options: list[str]) -> None:
    check_options(fs_type, options)


@pytest.mark.parametrize(
    ("fs_type", "options"),
    [
        ("ext4", ["-F"]),
        ("ext4", ["-U", UUID]),
        ("ext4", ["-n"]),
        ("ext4", ["-S"]),
        ("ext4", ["-d", "etc"]),
        ("ext4", ["-E", "offset=1048576"]),
        ("ext4", ["-E", "stride=16,discard"]),
        ("ext4", ["-J", "device=UUID=x"]),
        ("ext4", ["-b"]),
        ("ext4", ["4096"]),
        ("ext4", ["-b", "-F"]),
        ("ext4", ["-b4096"]),
        ("ext4", ["-L", "/dev/sda"]),
        ("ext4", ["-e", "panic"]),
        ("ext4", ["--", "x"]),
        ("xfs", ["-f"]),
        ("xfs", ["-m", f"crc=1,uuid={UUID}"]),
        ("xfs", ["-l", "logdev=sda"]),
        ("xfs", ["-d", "file=1,name=x"]),
        ("xfs", ["-N"]),
        ("xfs", ["-c", "options"]),
        ("btrfs", ["-f"]),
        ("btrfs", ["-r", "etc"]),
        ("btrfs", ["-U", UUID]),
        ("ntfs", []),
    ],
)
def test_options_that_reach_beyond_tuning_are_refused(fs_type: str, options: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        check_options(fs_type, options)


@given(st.sampled_from(["ext4", "xfs", "btrfs"]), st.lists(st.text(max_size=12), max_size=4))
def test_no_option_becomes_another_device(fs_type: str, options: list[str]) -> None:
    try:
        command = arguments(DEVICE, fs_type, UUID, options)
    except InvalidArgument:
        return
    assert [word for word in command if "/" in word] == [DEVICE]


@pytest.mark.parametrize(("fs_type", "size"), [("ext4", MIB), ("xfs", 299 * MIB), ("btrfs", 100 * MIB)])
def test_a_device_that_is_too_small_is_out_of_range(fs_type: str, size: int) -> None:
    with pytest.raises(OutOfRange, match="Ask for a volume of at least"):
        check_format(fs_type, size, ())
    check_format(fs_type, GIB, ())
