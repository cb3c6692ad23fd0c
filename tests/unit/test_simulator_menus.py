"""/disk, /file and /disk/btrfs of the simulated device, in every version that tests choose from."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rds_csi.model.sizes import GIB, MIB
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions, ExistingFile, Growth, LongSlot, PoolOptions
from rds_csi.simulator.exports import Export
from rds_csi.simulator.menu import Item, Menu, RouterosError
from rds_csi.simulator.menus.base import size
from rds_csi.simulator.versions import SUPPORTED

_POOLS = (PoolOptions("raid10", size=16 * GIB, overhead=0), PoolOptions("bt", 16 * GIB, "btrfs", "data", overhead=0))


def a_device(root: Path, version: str = "7.24", *, tenants: bool = False, **changes: Any) -> Device:
    options = DeviceOptions(root, version=version, pools=_POOLS, seed_tenants=tenants)
    return Device(dataclasses.replace(options, **changes))


def file_disk(slot: str = "v1", **more: str) -> dict[str, str]:
    values = {"type": "file", "slot": slot, "file-path": f"raid10/{slot}.img", "file-size": str(GIB)}
    return values | {name.replace("_", "-"): value for name, value in more.items()}


def the(menu: Menu, item_id: str) -> Item:
    item = menu.item(item_id)
    assert item is not None
    return item


def in_slot(device: Device, slot: str) -> Item | None:
    return next(iter(device.disks.lookup("slot", slot) or ()), None)


def free(device: Device, slot: str = "raid10") -> object:
    item = in_slot(device, slot)
    assert item is not None
    return item.values["free"]


# Versions.


@pytest.mark.parametrize(("version", "count"), [("7.15", 45), ("7.17", 57), ("7.21", 64), ("7.24", 64)])
def test_each_version_knows_as_many_arguments_as_its_tree(tmp_path: Path, version: str, count: int) -> None:
    assert len(a_device(tmp_path, version).disks.arguments("add") or {}) == count


def test_file_disks_nqns_and_commands_follow_the_version(tmp_path: Path) -> None:
    devices = {version: a_device(tmp_path / version, version) for version in SUPPORTED}
    files = {version: "file" in device.disks.choices("add", "type") for version, device in devices.items()}
    assert files == {"7.15": False, "7.17": True, "7.21": True, "7.24": True}
    nqns = {v: "nvme-tcp-server-nqn" in (device.disks.arguments("set") or {}) for v, device in devices.items()}
    assert nqns == {"7.15": False, "7.17": False, "7.21": True, "7.24": True}
    assert [v for v, device in devices.items() if device.files.arguments("copy") is not None] == ["7.24"]
    assert [v for v, device in devices.items() if "/disk/btrfs/subvolume" in device.menus] == ["7.17", "7.21", "7.24"]
    assert devices["7.17"].subvolumes.arguments("add") is None
    assert devices["7.21"].subvolumes.arguments("add") is not None
    services = {v: devices[v].services.arguments("set") or {} for v in ("7.21", "7.24")}
    assert "address" in services["7.21"]
    assert "available-from" in services["7.24"]
    assert "address" not in services["7.24"]


async def test_before_7_17_there_is_no_file_disk(tmp_path: Path) -> None:
    device = a_device(tmp_path, "7.15")
    with pytest.raises(RouterosError, match="unknown parameter file-path"):
        await device.disks.add(file_disk())
    with pytest.raises(RouterosError, match="input does not match any value of type"):
        await device.disks.add({"type": "file", "slot": "x"})


async def test_before_7_21_the_nqn_is_the_slot(tmp_path: Path) -> None:
    device = a_device(tmp_path, "7.17")
    await device.disks.add(file_disk(nvme_tcp_export="yes"))
    assert [export.nqn for export in device.exports()] == ["v1"]


# Adding and removing.


async def test_a_file_disk_shows_exact_values(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    nqn = "nqn.2026-09.com.mikrotik:rds2216.v1"
    values = file_disk(nvme_tcp_export="yes", nvme_tcp_server_port="4420", nvme_tcp_server_nqn=nqn, comment="mark")
    item = the(device.disks, await device.disks.add(values | {"mount-filesystem": "no"}))
    expected = {
        "type": "file",
        "size": GIB,
        "file-size": GIB,
        "file-path": "/raid10/v1.img",
        "file-offset": 0,
        "nvme-tcp-export": True,
        "nvme-tcp-server-port": 4420,
        "nvme-tcp-server-nqn": nqn,
        "mount-filesystem": False,
        "comment": "mark",
        "mounted": False,
    }
    assert {name: item.values[name] for name in expected} == expected
    assert next(iter(device.files.lookup("name", "raid10/v1.img") or ())).values["size"] == GIB


async def test_removing_a_disk_leaves_the_file_and_its_space(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.disks.add(file_disk())
    file = next(iter(device.files.lookup("name", "raid10/v1.img") or ()))
    with pytest.raises(RouterosError, match="in use"):
        await device.files.remove(file.id)
    assert free(device) == 15 * GIB
    await device.disks.remove(item_id)
    assert free(device) == 15 * GIB
    assert (tmp_path / "pools" / "raid10" / "v1.img").exists()
    await device.files.remove(file.id)
    assert free(device) == 16 * GIB
    with pytest.raises(RouterosError, match="no such item"):
        await device.disks.remove(item_id)


async def test_a_taken_slot_is_refused_and_makes_no_file(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await device.disks.add(file_disk())
    with pytest.raises(RouterosError, match="failure: already have such entry"):
        await device.disks.add(file_disk(file_path="raid10/other.img"))
    assert device.storage.find("raid10/other.img") is None


async def test_a_full_pool_and_the_switch_refuse(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    with pytest.raises(RouterosError, match="failure: not enough space"):
        await device.disks.add(file_disk(file_size=str(17 * GIB)))
    device.switches.no_space = True
    with pytest.raises(RouterosError, match="failure: not enough space"):
        await device.disks.add(file_disk())
    device.switches.no_space = False
    await device.disks.add(file_disk())


@pytest.mark.parametrize(("version", "taken"), [("7.21", True), ("7.24", False)])
async def test_a_slot_of_forty_characters_depends_on_the_version(tmp_path: Path, version: str, taken: bool) -> None:
    device = a_device(tmp_path, version)
    slot = "pvc-4a1d1c0e-6a53-4f4e-9b6e-3a0f9f3c7d21"
    try:
        await device.disks.add(file_disk(slot))
    except RouterosError:
        assert not taken
    else:
        assert taken
    assert (in_slot(device, slot) is not None) == taken


async def test_a_long_slot_can_be_cut_instead(tmp_path: Path) -> None:
    device = a_device(tmp_path, long_slot=LongSlot.CUT)
    await device.disks.add(file_disk("x" * 40))
    assert in_slot(device, "x" * 32) is not None


async def test_without_a_slot_the_path_makes_the_name(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    values = file_disk()
    del values["slot"]
    assert device.disks.name_of(the(device.disks, await device.disks.add(values))) == "file-raid10-v1.img"


async def test_an_existing_file_is_attached_with_its_contents_and_grows(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    device.storage.make_file("raid10/v1.img", MIB)
    real = tmp_path / "pools" / "raid10" / "v1.img"
    real.write_bytes(b"x" * MIB)
    item = the(device.disks, await device.disks.add(file_disk(file_size=str(2 * MIB))))
    assert item.values["size"] == 2 * MIB
    assert real.read_bytes() == (b"x" * MIB).ljust(2 * MIB, b"\0")
    with pytest.raises(RouterosError, match="in use"):
        await device.disks.add(file_disk("v2", file_path="/raid10/v1.img"))


async def test_an_existing_file_can_keep_its_size_or_be_refused(tmp_path: Path) -> None:
    as_is = a_device(tmp_path / "1", existing_file=ExistingFile.ATTACH_AS_IS)
    as_is.storage.make_file("raid10/v1.img", MIB)
    assert the(as_is.disks, await as_is.disks.add(file_disk())).values["size"] == MIB
    refusing = a_device(tmp_path / "2", existing_file=ExistingFile.REFUSE)
    refusing.storage.make_file("raid10/v1.img", MIB)
    with pytest.raises(RouterosError, match="already have such entry"):
        await refusing.disks.add(file_disk())


async def test_the_directory_of_a_file_must_be_there(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    with pytest.raises(RouterosError, match="no such directory"):
        await device.disks.add(file_disk(file_path="raid10/rds-csi/v1.img"))
    await device.files.add({"type": "directory", "name": "/raid10/rds-csi"})
    await device.disks.add(file_disk(file_path="raid10/rds-csi/v1.img"))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"slot": "x"}, "missing value(s) of argument(s) type"),
        ({"type": "nonsense"}, "input does not match any value of type"),
        ({"type": "file", "slot": "x", "colour": "red"}, "unknown parameter colour"),
        ({"type": "file", "slot": "x"}, "missing value(s) of argument(s) file-path"),
        ({"type": "file", "slot": "x", "file-path": "raid10/x"}, "missing value(s) of argument(s) file-size"),
        (file_disk(file_size="1Q"), "invalid value for argument file-size"),
        (file_disk(nvme_tcp_server_port="99999"), "value of nvme-tcp-server-port out of range (1..65535)"),
        (file_disk(nvme_tcp_export="maybe"), "input does not match any value of nvme-tcp-export"),
        (file_disk(compress="yes"), "compression only available for btrfs"),
    ],
)
async def test_a_bad_add_is_refused_in_words_and_changes_nothing(
    tmp_path: Path, values: dict[str, str], text: str
) -> None:
    device = a_device(tmp_path)
    before = len(device.disks.items()), free(device)
    with pytest.raises(RouterosError) as refused:
        await device.disks.add(values)
    assert refused.value.text == text
    assert (len(device.disks.items()), free(device)) == before


@pytest.mark.parametrize(("text", "value"), [("1073741824", GIB), ("1G", GIB), ("512M", 512 * MIB), ("1GiB", GIB)])
def test_sizes_are_binary(text: str, value: int) -> None:
    assert size("file-size", text) == value


async def test_copy_from_copies_properties_and_no_data(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    source = await device.disks.add(file_disk(comment="first"))
    (tmp_path / "pools" / "raid10" / "v1.img").write_bytes(b"data")
    values = {"type": "file", "slot": "v2", "file-path": "raid10/v2.img", "copy-from": source}
    copy = the(device.disks, await device.disks.add(values))
    assert (copy.values["comment"], copy.values["size"]) == ("first", GIB)
    assert (tmp_path / "pools" / "raid10" / "v2.img").stat().st_blocks == 0


# Changing.


async def test_growing_changes_size_file_and_space(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.disks.add(file_disk())
    await device.disks.set(item_id, {"file-size": str(2 * GIB)})
    values = the(device.disks, item_id).values
    assert (values["size"], values["file-size"], free(device)) == (2 * GIB, 2 * GIB, 14 * GIB)
    with pytest.raises(RouterosError):
        await device.disks.set(item_id, {"file-size": str(GIB)})
    with pytest.raises(RouterosError, match="not enough space"):
        await device.disks.set(item_id, {"file-size": str(99 * GIB)})
    assert the(device.disks, item_id).values["size"] == 2 * GIB


@pytest.mark.parametrize("growth", [Growth.REFUSED, Growth.IGNORED])
async def test_growth_may_be_refused_or_silently_not_happen(tmp_path: Path, growth: Growth) -> None:
    device = a_device(tmp_path, growth=growth)
    item_id = await device.disks.add(file_disk())
    refused = False
    try:
        await device.disks.set(item_id, {"file-size": str(2 * GIB)})
    except RouterosError:
        refused = True
    assert refused == (growth is Growth.REFUSED)
    assert the(device.disks, item_id).values["size"] == GIB


async def test_a_renamed_disk_keeps_its_place_and_is_found_by_its_new_slot(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.disks.add(file_disk("v1"))
    await device.disks.add(file_disk("v2"))
    await device.disks.set(item_id, {"slot": "renamed", "comment": "by hand"})
    assert in_slot(device, "v1") is None
    assert [item.values["slot"] for item in device.disks.items()][-2:] == ["renamed", "v2"]
    with pytest.raises(RouterosError, match="already have"):
        await device.disks.set(item_id, {"slot": "v2"})
    await device.disks.run("comment", [item_id], {"comment": ""})
    assert "comment" not in the(device.disks, item_id).values


async def test_pools_and_drives_cannot_be_removed(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    for item in list(device.disks.items()):
        with pytest.raises(RouterosError):
            await device.disks.remove(item.id)


async def test_two_disks_cannot_have_one_nqn(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await device.disks.add(file_disk(nvme_tcp_server_nqn="nqn.a"))
    other = await device.disks.add(file_disk("v2"))
    with pytest.raises(RouterosError, match="already have"):
        await device.disks.set(other, {"nvme-tcp-server-nqn": "nqn.a"})
    with pytest.raises(RouterosError, match="already have"):
        await device.disks.add(file_disk("v3", nvme_tcp_server_nqn="nqn.a"))


async def test_port_and_nqn_are_remembered_while_not_exported(tmp_path: Path) -> None:
    for shown in (False, True):
        device = a_device(tmp_path / str(shown), export_settings_hidden=not shown)
        item_id = await device.disks.add(file_disk(nvme_tcp_export="yes", nvme_tcp_server_nqn="nqn.a"))
        await device.disks.set(item_id, {"nvme-tcp-export": "no"})
        assert ("nvme-tcp-server-nqn" in the(device.disks, item_id).values) == shown
        assert bool(device.disks.lookup("nvme-tcp-server-nqn", "nqn.a")) == shown
        await device.disks.set(item_id, {"nvme-tcp-export": "yes"})
        assert [item.id for item in device.disks.lookup("nvme-tcp-server-nqn", "nqn.a") or ()] == [item_id]


async def test_a_lost_file_leaves_a_disk_without_size(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.disks.add(file_disk(nvme_tcp_export="yes"))
    entry = device.storage.find("raid10/v1.img")
    assert entry is not None
    device.storage.lose(entry)
    item = the(device.disks, item_id)
    assert "size" not in item.values or device.disks.item(item_id) is None
    assert device.exports() == []
    await device.disks.remove(item_id)


async def test_state_and_mount_of_a_pool_follow_the_switches(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.disks.add(file_disk())
    device.switches.only = frozenset({"raid10"})
    device.switches.degraded_raid = "clean, degraded"
    device.switches.pool_unmounted = True
    pool, other = in_slot(device, "raid10"), in_slot(device, "bt")
    assert pool is not None
    assert other is not None
    assert (pool.values["state"], pool.values["mounted"]) == ("clean, degraded", False)
    assert "free" not in pool.values
    assert (other.values["state"], other.values["mounted"], other.values["mount-point"]) == ("clean", True, "bt")
    assert "size" not in the(device.disks, item_id).values
    device.switches.pool_unmounted = False
    assert the(device.disks, item_id).values["size"] == GIB


# Exports.


async def test_listeners_are_told_of_every_change_of_an_export(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    told: list[tuple[Export | None, Export | None]] = []

    async def listen(before: Export | None, after: Export | None) -> None:
        told.append((before, after))

    device.on_export_changed.append(listen)
    item_id = await device.disks.add(file_disk())
    assert told == []
    await device.disks.set(item_id, {"nvme-tcp-export": "yes", "nvme-tcp-server-nqn": "nqn.a"})
    await device.disks.set(item_id, {"comment": "no change of the export"})
    await device.disks.set(item_id, {"file-size": str(2 * GIB)})
    await device.disks.set(item_id, {"nvme-tcp-server-allow-host-name": "nqn.h1,nqn.h2"})
    await device.disks.remove(item_id)
    first = Export(item_id, "v1", "nqn.a", 4420, (), tmp_path / "pools" / "raid10" / "v1.img", GIB)
    grown = dataclasses.replace(first, size=2 * GIB)
    fenced = dataclasses.replace(grown, allowed_hosts=("nqn.h1", "nqn.h2"))
    assert told == [(None, first), (first, grown), (grown, fenced), (fenced, None)]


async def test_removal_of_an_exported_disk_can_be_refused(tmp_path: Path) -> None:
    device = a_device(tmp_path, remove_while_exported=False)
    item_id = await device.disks.add(file_disk(nvme_tcp_export="yes"))
    with pytest.raises(RouterosError):
        await device.disks.remove(item_id)
    await device.disks.set(item_id, {"nvme-tcp-export": "no"})
    await device.disks.remove(item_id)


# /file.


async def test_files_carry_text_up_to_sixty_kilobytes(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.files.add({"name": "raid10/key.pub", "contents": "text"})
    assert item_id.startswith("**")
    assert the(device.files, item_id).values["contents"] == "text"
    await device.files.set(item_id, {"contents": "other", "name": "raid10/renamed.pub"})
    assert (tmp_path / "pools" / "raid10" / "renamed.pub").read_text() == "other"
    with pytest.raises(RouterosError, match="failure: new contents too long"):
        await device.files.set(item_id, {"contents": "x" * (60 * 1024 + 1)})
    assert await device.files.run("read", (), {"file": "raid10/renamed.pub", "chunk-size": "3"}) == {
        "data": "oth",
        "size": 3,
    }


async def test_print_of_files_can_be_narrowed_to_a_directory(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    for name in ("raid10/a", "raid10/a/b"):
        await device.files.add({"type": "directory", "name": name})
    await device.files.add({"name": "raid10/a/b/x.txt"})
    assert [item.values["name"] for item in device.files.select({"path": "/raid10/a"})] == ["raid10/a/b"]
    names = [item.values["name"] for item in device.files.select({"path": "raid10/a", "recursive": ""})]
    assert names == ["raid10/a/b", "raid10/a/b/x.txt"]
    assert len(device.files.select({})) == 5


async def test_a_file_can_be_copied_from_7_23_on(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    item_id = await device.files.add({"name": "raid10/x.txt", "contents": "text"})
    with pytest.raises(RouterosError, match=r"missing value\(s\) of argument\(s\) name"):
        await device.files.run("copy", [item_id], {})
    await device.files.run("copy", [item_id], {"name": "/raid10/y.txt"})
    assert (tmp_path / "pools" / "raid10" / "y.txt").read_text() == "text"


# btrfs.


async def test_a_subvolume_with_a_parent_is_a_snapshot_of_it(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await device.files.add({"type": "directory", "name": "bt/csi"})
    source = await device.subvolumes.add({"fs": "data", "name": "csi/vol-1"})
    await device.disks.add(file_disk(file_path="bt/csi/vol-1/volume.img"))
    (tmp_path / "pools" / "bt" / "csi" / "vol-1" / "volume.img").write_bytes(b"data")
    values = {"fs": "data", "name": "csi/snap-1", "parent": "csi/vol-1", "read-only": "yes"}
    snapshot = await device.subvolumes.add(values)
    shown = the(device.subvolumes, snapshot).values
    assert (shown["name"], shown["snapshot"], shown["read-only"]) == ("csi/snap-1", True, True)
    assert the(device.subvolumes, source).values["snapshots"] == 1
    clone = await device.subvolumes.add({"fs": "data", "name": "csi/vol-2", "parent": "csi/snap-1"})
    image = the(device.disks, await device.disks.add(file_disk("v2", file_path="bt/csi/vol-2/volume.img")))
    assert image.values["size"] == GIB
    assert (tmp_path / "pools" / "bt" / "csi" / "vol-2" / "volume.img").read_bytes()[:4] == b"data"
    with pytest.raises(RouterosError, match="in use"):
        await device.subvolumes.remove(clone)
    await device.disks.remove(image.id)
    await device.subvolumes.remove(clone)
    await device.subvolumes.remove(snapshot)
    assert [item.values["name"] for item in device.subvolumes.items()] == ["<FS_ROOT>", "csi/vol-1"]
    assert free(device, "bt") == 15 * GIB


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": "x"}, "missing value(s) of argument(s) fs"),
        ({"fs": "none", "name": "x"}, "input does not match any value of fs"),
        ({"fs": "data", "name": "x", "parent": "none"}, "input does not match any value of parent"),
        ({"fs": "data", "name": "taken"}, "failure: already have such entry"),
        ({"fs": "data", "name": "none/x"}, "failure: no such directory"),
    ],
)
async def test_a_bad_subvolume_is_refused(tmp_path: Path, values: dict[str, str], text: str) -> None:
    device = a_device(tmp_path)
    await device.subvolumes.add({"fs": "data", "name": "taken"})
    with pytest.raises(RouterosError) as refused:
        await device.subvolumes.add(values)
    assert refused.value.text == text
    assert len(device.subvolumes.items()) == 2


async def test_the_top_and_subvolumes_as_directories_cannot_be_removed(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await device.subvolumes.add({"fs": "data", "name": "v"})
    with pytest.raises(RouterosError, match="builtin"):
        await device.subvolumes.remove(device.subvolumes.items()[0].id)
    directory = next(iter(device.files.lookup("name", "bt/v") or ()))
    with pytest.raises(RouterosError, match="subvolume"):
        await device.files.remove(directory.id)


async def test_ids_of_the_top_and_of_subvolumes_never_meet(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    for number in range(5):
        await device.subvolumes.add({"fs": "data", "name": f"v{number}"})
    ids = [item.id for item in device.subvolumes.items()]
    assert len(set(ids)) == 6


async def test_a_file_in_a_read_only_snapshot_carries_no_disk(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    await device.subvolumes.add({"fs": "data", "name": "v"})
    await device.disks.add(file_disk(file_path="bt/v/volume.img"))
    snapshot = await device.subvolumes.add({"fs": "data", "name": "s", "parent": "v", "read-only": "yes"})
    over = file_disk("s", file_path="bt/s/volume.img")
    with pytest.raises(RouterosError, match="read-only file system"):
        await device.disks.add(over)
    await device.subvolumes.set(snapshot, {"read-only": "no"})
    await device.disks.add(over)


async def test_a_subvolume_on_a_read_only_pool_stays_as_it_is(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    subvolume = await device.subvolumes.add({"fs": "data", "name": "v"})
    device.switches.read_only_pool = True
    with pytest.raises(RouterosError, match="read-only file system"):
        await device.subvolumes.set(subvolume, {"read-only": "yes"})
    assert the(device.subvolumes, subvolume).values["read-only"] is False
