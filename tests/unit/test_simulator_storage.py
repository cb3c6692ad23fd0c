"""Files of the simulated device: real bytes, thick accounting, snapshots and copies."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rds_csi.model.sizes import GIB, MIB
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions, PoolOptions
from rds_csi.simulator.menu import RouterosError
from rds_csi.simulator.pools import EntryKind
from rds_csi.simulator.tree import existing, normalise

_POOL = PoolOptions("raid10", size=GIB, filesystem="btrfs", label="data", overhead=0)


def a_device(root: Path, *, rate: int = 0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> Device:
    options = DeviceOptions(root, version="7.24", pools=(_POOL,), seed_tenants=False, copy_rate=rate)
    return Device(options, sleep=sleep)


def free(device: Device) -> int:
    return device.storage.pools["raid10"].free


@pytest.mark.parametrize("path", ["raid10/x.img", "/raid10/x.img", "/raid10/x.img/"])
def test_a_leading_slash_makes_no_difference(path: str) -> None:
    assert normalise(path) == "raid10/x.img"


@pytest.mark.parametrize(
    "path", ["", "/", "a//b", "../x", "raid10/../../etc/passwd", "a/./b", "a\x00b", "a/\ud800", "ä" * 128]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(RouterosError, match="bad file name"):
        normalise(path)


def test_a_file_is_real_and_sparse_and_its_space_is_taken_in_full(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    entry = device.storage.make_file("raid10/x.img", 100 * MIB)
    assert entry.real_path == tmp_path / "pools" / "raid10" / "x.img"
    assert entry.real_path.stat().st_size == 100 * MIB
    assert entry.real_path.stat().st_blocks == 0
    assert free(device) == GIB - 100 * MIB
    device.storage.remove(entry)
    assert not entry.real_path.exists()
    assert free(device) == GIB


def test_a_directory_that_is_in_use_is_refused(tmp_path: Path) -> None:
    a_device(tmp_path).storage.make_file("raid10/x.img", MIB)
    with pytest.raises(ValueError, match="must be empty"):
        a_device(tmp_path)


def test_a_full_pool_refuses_and_keeps_nothing(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    device.storage.make_file("raid10/x.img", 900 * MIB)
    with pytest.raises(RouterosError, match="not enough space"):
        device.storage.make_file("raid10/y.img", 200 * MIB)
    assert device.storage.find("raid10/y.img") is None
    assert [path.name for path in (tmp_path / "pools" / "raid10").iterdir()] == ["x.img"]
    with pytest.raises(RouterosError, match="not enough space"):
        device.storage.grow(existing(device.storage.find("raid10/x.img")), 2 * GIB)
    assert free(device) == GIB - 900 * MIB


def test_growing_keeps_the_bytes_and_takes_only_what_is_new(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    entry = device.storage.make_file("raid10/x.img", MIB)
    entry.real_path.write_bytes(b"data" * 4 + b"\0" * (MIB - 16))
    device.storage.grow(entry, 2 * MIB)
    assert entry.real_path.read_bytes() == (b"data" * 4).ljust(2 * MIB, b"\0")
    assert free(device) == GIB - 2 * MIB


def test_removing_a_directory_removes_what_is_in_it(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    device.storage.make_directory("raid10/a/b", parents=True)
    device.storage.make_file("raid10/a/b/x.img", MIB)
    device.storage.remove(existing(device.storage.find("raid10/a")))
    assert not (tmp_path / "pools" / "raid10" / "a").exists()
    assert [entry.path for entry in device.storage.entries()] == ["raid10"]
    assert free(device) == GIB


def test_a_directory_with_a_used_file_stays_whole(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    directory = device.storage.make_directory("raid10/a")
    device.storage.make_file("raid10/a/1.img", MIB)
    device.storage.make_file("raid10/a/2.img", MIB).users += 1
    with pytest.raises(RouterosError, match="in use"):
        device.storage.remove(directory)
    assert sorted(path.name for path in directory.real_path.iterdir()) == ["1.img", "2.img"]


def test_what_the_filesystem_below_refuses_is_refused_in_words_and_spoils_no_name(tmp_path: Path) -> None:
    # Files of that size are in no filesystem of Linux.
    huge = PoolOptions("raid10", size=1 << 70, overhead=0)
    device = Device(DeviceOptions(tmp_path, pools=(huge,), seed_tenants=False))
    with pytest.raises(RouterosError, match="not enough space"):
        device.storage.make_file("raid10/x.img", (1 << 63) - 1)
    assert list((tmp_path / "pools/raid10").iterdir()) == []
    entry = device.storage.make_file("raid10/x.img", MIB)
    with pytest.raises(RouterosError, match="not enough space"):
        device.storage.grow(entry, (1 << 63) - 1)
    assert (entry.size, entry.filesystem.used) == (MIB, MIB)
    (tmp_path / "pools/raid10/other").touch()
    for make in (device.storage.make_file, device.storage.make_directory):
        with pytest.raises(RouterosError, match="file exists"):
            make("raid10/other")
    (tmp_path / "pools/raid10/x.img").unlink()
    with pytest.raises(RouterosError, match="no such file"):
        device.storage.read(entry, 0, 1)


async def test_a_copy_that_the_filesystem_below_refuses_is_refused_in_words(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    source = device.storage.make_file("raid10/x.img", MIB)
    source.real_path.unlink()
    with pytest.raises(RouterosError, match="no such file"):
        await device.storage.copy(source, "raid10/y.img")
    assert source.users == 0


def test_nothing_can_be_made_where_there_is_no_directory(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    for path in ("raid10/none/x.img", "other/x.img"):
        with pytest.raises(RouterosError, match="no such directory"):
            device.storage.make_file(path, MIB)


def test_an_unmounted_pool_shows_nothing_and_its_name_is_not_taken_for_a_directory(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    device.storage.make_file("raid10/x.img", MIB)
    device.switches.pool_unmounted = True
    assert list(device.storage.entries()) == []
    for path in ("raid10/x.img", "raid10"):
        with pytest.raises(RouterosError, match="no such directory"):
            device.storage.make_file(path, MIB)
    device.switches.pool_unmounted = False
    assert existing(device.storage.find("raid10/x.img")).size == MIB


def test_a_switch_can_mean_one_pool_only(tmp_path: Path) -> None:
    options = DeviceOptions(tmp_path, pools=(_POOL, PoolOptions("other", size=GIB)), seed_tenants=False)
    device = Device(options)
    device.switches.read_only_pool = True
    device.switches.only = frozenset({"other"})
    device.storage.make_file("raid10/x.img", MIB)
    with pytest.raises(RouterosError, match="read-only"):
        device.storage.make_file("other/x.img", MIB)


async def test_a_snapshot_keeps_what_was_there_and_shares_its_space(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    source = device.storage.make_directory("raid10/v", EntryKind.SUBVOLUME)
    image = device.storage.make_file("raid10/v/volume.img", 10 * MIB)
    _write(image.real_path, 5 * MIB, b"before")
    snapshot = await device.storage.snapshot(source, "raid10/s", read_only=True)
    _write(image.real_path, 5 * MIB, b"after!")
    copy = existing(device.storage.find("raid10/s/volume.img"))
    assert _read(copy.real_path, 5 * MIB, 6) == b"before"
    assert copy.real_path.stat().st_size == 10 * MIB
    assert copy.real_path.stat().st_blocks * 512 < MIB
    assert free(device) == GIB - 10 * MIB
    with pytest.raises(RouterosError, match="read-only"):
        device.storage.grow(copy, 20 * MIB)
    device.storage.remove(source, subvolumes=True)
    assert free(device) == GIB - 10 * MIB
    device.storage.remove(snapshot, subvolumes=True)
    assert free(device) == GIB


async def test_a_copy_runs_at_its_rate_and_shows_how_far_it_is(tmp_path: Path) -> None:
    sizes: list[int] = []
    slept: list[float] = []
    device: Device

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        sizes.append(existing(device.storage.find("raid10/y.img")).size)

    device = a_device(tmp_path, rate=4 * MIB, sleep=sleep)
    source = device.storage.make_file("raid10/x.img", 4 * MIB)
    _write(source.real_path, 3 * MIB, b"data")
    copy = await device.storage.copy(source, "raid10/y.img")
    assert sizes == [MIB, 2 * MIB, 3 * MIB, 4 * MIB]
    assert sum(slept) == pytest.approx(1.0)
    assert copy.real_path.read_bytes() == source.real_path.read_bytes()
    assert copy.real_path.stat().st_blocks * 512 < MIB
    assert free(device) == GIB - 8 * MIB


async def test_both_ends_of_a_running_copy_are_in_use_and_a_cancelled_one_is_partial(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        started.set()
        await asyncio.Event().wait()

    device = a_device(tmp_path, rate=4 * MIB, sleep=sleep)
    source = device.storage.make_file("raid10/x.img", 4 * MIB)
    task = asyncio.create_task(device.storage.copy(source, "raid10/y.img"))
    await started.wait()
    for path in ("raid10/x.img", "raid10/y.img"):
        with pytest.raises(RouterosError, match="in use"):
            device.storage.remove(existing(device.storage.find(path)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    partial = existing(device.storage.find("raid10/y.img"))
    assert partial.size == MIB
    device.storage.remove(partial)
    device.storage.remove(source)
    assert free(device) == GIB


async def test_a_copy_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    source = device.storage.make_file("raid10/x.img", 600 * MIB)
    with pytest.raises(RouterosError, match="not enough space"):
        await device.storage.copy(source, "raid10/y.img")
    assert device.storage.find("raid10/y.img") is None
    assert free(device) == GIB - 600 * MIB
    assert source.users == 0


async def test_a_directory_is_copied_with_what_is_in_it(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    directory = device.storage.make_directory("raid10/a")
    device.storage.make_directory("raid10/a/b")
    device.storage.make_file("raid10/a/b/t.txt", contents="text")
    await device.storage.copy(directory, "raid10/c")
    assert existing(device.storage.find("raid10/c/b/t.txt")).real_path.read_text() == "text"
    with pytest.raises(RouterosError, match="into itself"):
        await device.storage.copy(directory, "raid10/a/b/again")


def _write(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def _read(path: Path, position: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(position)
        return file.read(length)
