"""What the simulated device prints for people, against captures of devices."""

from datetime import datetime
from pathlib import Path

import pytest

from rds_csi.model.sizes import GIB
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions, PoolOptions
from rds_csi.simulator.menu import Item
from rds_csi.simulator.printing import grouped, print_terse, rounded

_TIB = 1024 * GIB
_BIG = PoolOptions("raid10", 16_003_143_565_312, label="ocp-storage")


def a_device(root: Path, version: str = "7.24") -> Device:
    options = DeviceOptions(root, version=version, pools=(_BIG,), seed_tenants=False)
    return Device(options, now=lambda: datetime(2025, 11, 11, 14, 32, 41))


async def a_disk(device: Device, slot: str, size: int, nqn: str) -> Item:
    values = {"type": "file", "slot": slot, "file-path": f"raid10/{slot}.img", "file-size": str(size)}
    values |= {"nvme-tcp-export": "yes", "nvme-tcp-server-nqn": nqn, "mount-filesystem": "no"}
    item = device.disks.item(await device.disks.add(values))
    assert item is not None
    return item


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (GIB, "1024.0MiB"),
        (50 * GIB, "50.0GiB"),
        (10 * GIB, "10.0GiB"),
        (_TIB, "1024.0GiB"),
        (_TIB * 11 // 2, "5.5TiB"),
        (3_088_486, "3016.1KiB"),
        (512, "512B"),
        (0, "0B"),
    ],
)
def test_sizes_are_rounded_as_seen(size: int, text: str) -> None:
    assert rounded(size) == text


def test_numbers_are_grouped_by_blanks() -> None:
    assert [grouped(number) for number in (0, 512, 53_687_091_200)] == ["0", "512", "53 687 091 200"]


async def test_detail_of_a_wide_console_is_that_of_the_capture(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item = await a_disk(device, "vm-storage-001", _TIB, "nqn.2026-09.com.mikrotik:rds2216.vm-storage-001")
    text = device.print_human(device.disks, [item], detail=True, width=234)
    first = (
        ' 0 Bt type=file slot="vm-storage-001" slot-default="" parent="" fs=- model="/raid10/vm-storage-001.img"'
        " size=1 099 511 627 776 mount-filesystem=no mount-read-only=no compress=no sector-size=512 raid-master=none"
        " nvme-tcp-export=yes"
    )
    second = (
        '      nvme-tcp-server-port=4420 nvme-tcp-server-nqn="nqn.2026-09.com.mikrotik:rds2216.vm-storage-001"'
        ' nvme-tcp-server-allow-host-name="" iscsi-export=no nfs-sharing=no smb-sharing=no media-sharing=no'
        " media-interface=none swap=no"
    )
    assert text.split("\r\n") == [
        "Flags: B - BLOCK-DEVICE; t - NVME-TCP-EXPORT",
        first,
        second,
        "      file-path=/raid10/vm-storage-001.img file-size=1024.0GiB file-offset=0",
        "",
    ]


async def test_detail_before_7_24_has_the_wide_flags_column(tmp_path: Path) -> None:
    device = a_device(tmp_path, "7.21")
    item = await a_disk(device, "pvc-test-123", 50 * GIB, "nqn.2000-02.com.mikrotik:pvc-test-123")
    lines = device.print_human(device.disks, [item], detail=True).split("\r\n")
    assert lines[1] == ' 0 B      t    type=file slot="pvc-test-123" slot-default="" parent="" fs=-'
    assert lines[2] == '               model="/raid10/pvc-test-123.img" size=53 687 091 200'
    assert "               file-size=50.0GiB file-offset=0" in lines
    assert all(len(line) <= 80 for line in lines)


async def test_the_pool_shows_what_the_capture_shows_in_its_order(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await a_disk(device, "vm-storage-001", _TIB, "nqn.a")
    pool = next(iter(device.disks.lookup("slot", "raid10") or ()))
    text = device.print_human(device.disks, [pool], detail=True, width=4000)
    flags, line, _ = text.split("\r\n")
    assert flags == "Flags: B - BLOCK-DEVICE; M - MOUNTED"
    names = [part.partition("=")[0].split()[-1] for part in line.split("=") if part.strip()][:-1]
    assert names == [
        *("type", "slot", "slot-default", "parent", "fs-label", "fs-uuid", "fs", "model", "size", "free"),
        *("total-inodes", "free-inodes", "use", "mount-point", "mount-filesystem", "mount-read-only", "compress"),
        *("sector-size", "raid-type", "raid-device-count", "raid-max-component-size", "raid-chunk-size"),
        *("raid-master", "state", "raid-uuid", "nvme-tcp-export", "iscsi-export", "nfs-sharing", "smb-sharing"),
        *("media-sharing", "media-interface", "swap"),
    ]
    assert 'use=8% mount-point="raid10"' in line
    assert 'raid-chunk-size=256K raid-master=none state="clean"' in line


async def test_entries_are_separated_and_comments_have_a_line_of_their_own(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    first = await a_disk(device, "v1", GIB, "nqn.a")
    await device.disks.set(first.id, {"comment": "rds-csi/1/driver"})
    await a_disk(device, "v2", GIB, "nqn.b")
    lines = device.print_human(device.disks, device.disks.items()[-2:], detail=True, width=4000).split("\r\n")
    assert lines[1] == " 0 Bt ;;; rds-csi/1/driver"
    assert lines[2].startswith('      type=file slot="v1"')
    assert lines[3] == " "
    assert lines[4].startswith(' 1 Bt type=file slot="v2"')


def test_an_empty_list_has_its_legend(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    for detail in (False, True):
        text = device.print_human(device.disks, [], detail=detail)
        assert text.startswith("Flags: X - DISABLED, E - EMPTY, B - BLOCK-DEVICE; M - MOUNTED, F - FORMATTING; ")
        assert text.count("\r\n") == 1


async def test_files_are_shown_without_quotes_and_rounded(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await device.files.add({"type": "directory", "name": "raid10/metal-csi"})
    name = "raid10/metal-csi/pvc-4a1d1c0e-6a53-4f4e-9b6e-3a0f9f3c7d21.img"
    device.storage.make_file(name, 10 * GIB)
    items = device.files.items()[1:]
    assert device.print_human(device.files, items, detail=True).split("\r\n") == [
        " 0   name=raid10/metal-csi type=directory last-modified=2025-11-11 14:32:41",
        " ",
        f" 1   name={name}",
        "     type=.img file size=10.0GiB last-modified=2025-11-11 14:32:41",
        "",
    ]


def test_old_releases_show_old_dates(tmp_path: Path) -> None:
    device = a_device(tmp_path, "7.15")
    assert device.files.items()[0].values["creation-time"] == "nov/11/2025 14:32:41"


async def test_a_value_longer_than_a_line_is_cut_in_the_middle(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    device.storage.make_file("raid10/" + "x" * 100, GIB)
    lines = device.print_human(device.files, device.files.items()[1:], detail=True).split("\r\n")
    assert lines[0] == " 0   name=raid10/" + "x" * 61
    assert lines[1].startswith("     " + "x" * 39 + " type=file")


async def test_the_table_shows_columns_that_hold_something_and_fit(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    pool = next(iter(device.disks.lookup("slot", "raid10") or ()))
    text = device.print_human(device.disks, [pool], detail=False, width=200)
    assert text.split("\r\n") == [
        "Flags: B - BLOCK-DEVICE; M - MOUNTED",
        "Columns: SLOT, MOUNT-POINT, MODEL, SIZE, FREE, USE, FS",
        "#    SLOT    MOUNT-POINT  MODEL          SIZE                FREE                USE  FS",
        f"0 BM raid10  raid10       RAID0 striped  16 003 143 565 312  {grouped(_free(pool))}  1%   xfs",
        "",
    ]
    narrow = device.print_human(device.disks, [pool], detail=False, width=40)
    assert "Columns: SLOT, MOUNT-POINT, MODEL\r\n" in narrow


async def test_a_single_set_of_properties_is_aligned_to_the_right(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    menu = device.menus["/disk/settings"]
    assert device.print_human(menu, menu.items(), detail=False).split("\r\n")[:2] == [
        "            auto-smb-sharing: no",
        "               auto-smb-user: guest",
    ]


async def test_terse_is_one_line_for_each_item(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item = await a_disk(device, "v1", GIB, "nqn.a")
    text = print_terse(device.disks, [item])
    assert text.startswith(" 0 Bt type=file slot=v1 ")
    assert text.count("\r\n") == 1


def _free(item: Item) -> int:
    free = item.values["free"]
    assert isinstance(free, int)
    return free
