"""The parser of mountinfo."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.filesystem.mountinfo import parse, parse_line
from rds_csi.model.devices import DeviceNumber

LINE = b"36 35 98:0 /mnt1 /mnt/parent\\040dir rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue"

# No field of mountinfo may be empty, and NUL and newline do not occur in paths.
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map("/".__add__)


def escaped(path: str) -> bytes:
    """As the kernel's seq_escape(" \\t\\n\\\\#") writes it."""
    special = b" \t\n\\#"
    return b"".join(b"\\%03o" % byte if byte in special else bytes([byte]) for byte in path.encode())


def test_a_line_gives_its_fields_with_any_number_of_optional_ones() -> None:
    mount = parse_line(LINE)
    assert mount is not None
    assert (mount.mount_id, mount.number, mount.root) == (36, DeviceNumber(98, 0), "/mnt1")
    assert mount.path == "/mnt/parent dir"
    assert mount.options == ("rw", "noatime")
    assert (mount.fs_type, mount.source) == ("ext3", "/dev/root")
    assert mount.super_options == ("rw", "errors=continue")


@pytest.mark.parametrize(
    ("options", "super_options", "read_only"),
    [("rw", "rw", False), ("ro,nosuid", "rw", True), ("rw", "ro,nouuid", True), ("rw", "rw,errors=remount-ro", False)],
)
def test_a_mount_is_read_only_by_itself_or_by_its_filesystem(options: str, super_options: str, read_only: bool) -> None:
    (mount,) = parse(f"1 2 7:0 / /a {options} - ext4 /dev/loop0 {super_options}\n".encode()).mounts
    assert mount.read_only is read_only


@given(path=PATHS, source=PATHS)
def test_every_path_survives_the_kernels_escapes(path: str, source: str) -> None:
    line = b"1 2 7:0 / %s rw - ext4 %s rw" % (escaped(path), escaped(source))
    mount = parse_line(line)
    assert mount is not None
    assert (mount.path, mount.source) == (path, source)


@given(st.binary())
def test_no_text_upsets_the_parser(text: bytes) -> None:
    parse(text)


@given(st.integers(0, len(LINE)), st.binary(max_size=8))
def test_a_damaged_line_is_left_out_and_its_neighbours_stay(position: int, noise: bytes) -> None:
    damaged = LINE[:position] + noise + LINE[position + len(noise) :]
    table = parse(b"\n".join([b"1 2 7:0 / /before rw - ext4 /dev/loop0 rw", damaged, LINE, b""]))
    assert table.mounts[0].path == "/before"
    assert table.mounts[-1].path == "/mnt/parent dir"


def test_stacked_mounts_are_found_in_order_and_those_below_apart() -> None:
    table = parse(
        b"1 0 7:0 / /a rw - ext4 /dev/loop0 rw\n"
        b"2 1 7:1 / /a rw - ext4 /dev/loop1 rw\n"
        b"3 2 7:2 / /a/b rw - ext4 /dev/loop2 rw\n"
        b"4 2 7:3 / /ab rw - ext4 /dev/loop3 rw\n"
    )
    assert [mount.mount_id for mount in table.at("/a")] == [1, 2]
    assert [mount.mount_id for mount in table.below("/a")] == [3]
