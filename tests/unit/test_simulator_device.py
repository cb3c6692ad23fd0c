"""The simulated device as a whole: users, policies, jobs, reboots, tenants, and ten thousand disks."""

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from rds_csi.model.sizes import GIB, MIB
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions, GroupOptions, PoolOptions, UserOptions
from rds_csi.simulator.exports import Export
from rds_csi.simulator.menu import Item, RouterosError
from rds_csi.simulator.menus.system import duration
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.versions import SUPPORTED, parse_version

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKf6 csi@cluster"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def options(root: Path, version: str = "7.24") -> DeviceOptions:
    return DeviceOptions(
        root,
        version=version,
        pools=(PoolOptions("raid10", 64 * GIB, "btrfs", "data", overhead=0),),
        groups=(GroupOptions("csi", frozenset({"ssh", "read", "write"})), GroupOptions("look", frozenset({"read"}))),
        users=(UserOptions("admin"), UserOptions("csi", "csi", "secret", (_KEY,)), UserOptions("viewer", "look")),
    )


def the_user(device: Device, name: str) -> User:
    user = device.user(name)
    assert user is not None
    return user


def only(device: Device, path: str) -> Item:
    (item,) = device.menus[path].items()
    return item


@pytest.mark.parametrize("version", SUPPORTED)
async def test_every_menu_answers_in_every_version(tmp_path: Path, version: str) -> None:
    device = Device(options(tmp_path, version))
    for path, menu in device.menus.items():
        assert menu.path == path
        assert "print" in menu.commands()
        ids = [item.id for item in menu.items()]
        assert len(set(ids)) == len(ids)
        for item in menu.items():
            assert menu.singleton or menu.item(item.id) == item
            assert item.values.keys() <= menu.properties
    assert only(device, "/system/resource").values["version"] == f"{version} (stable)"
    assert "rose-storage" in {item.values["name"] for item in device.menus["/system/package"].items()}


@pytest.mark.parametrize("text", ["", "7", "7.x", "v7.21", "7.21beta"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a RouterOS version"):
        parse_version(text)


def test_commands_ask_for_policies(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    viewer, csi = the_user(device, "viewer"), the_user(device, "csi")
    disks, users = device.menus["/disk"], device.menus["/user"]
    device.authorize(viewer, disks, "print")
    device.authorize(csi, disks, "add")
    for user, menu, command in ((viewer, disks, "add"), (viewer, device.files, "remove"), (csi, users, "add")):
        with pytest.raises(RouterosError) as refused:
            device.authorize(user, menu, command)
        assert refused.value.text == "not enough permissions (9)"


async def test_a_changed_group_and_a_removed_user_count_at_once(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    csi = the_user(device, "csi")
    group = device.groups.named("csi")
    assert group is not None
    await device.groups.set(group.id, {"policy": "!write,test"})
    assert device.groups.granted("csi") == {"ssh", "read", "test"}
    with pytest.raises(RouterosError, match="not enough permissions"):
        device.authorize(csi, device.disks, "set")
    item = device.users.named("csi")
    assert item is not None
    await device.users.run("disable", [item.id], {})
    assert device.user("csi") is None
    with pytest.raises(RouterosError, match="not enough permissions"):
        device.authorize(csi, device.disks, "print")


async def test_a_user_can_be_made_with_the_lines_of_the_manual(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    await device.groups.add({"name": "k8s", "policy": "ssh,read,write"})
    await device.users.add({"name": "k8s", "group": "k8s", "password": "word", "address": "10.0.0.0/8"})
    await device.files.add({"name": "k8s.pub", "contents": _KEY + "\n"})
    await device.menus["/user/ssh-keys"].run("import", (), {"user": "k8s", "public-key-file": "k8s.pub"})
    user = the_user(device, "k8s")
    assert user.policies == {"ssh", "read", "write"}
    assert user.keys == (_KEY,)
    assert user.may_use("word")
    assert not user.may_use("")
    assert "word" not in repr(user)
    assert all("password" not in item.values for item in device.users.items())
    for values, text in (
        ({"name": "k8s", "group": "k8s"}, "failure: user with the same name already exists"),
        ({"name": "other", "group": "none"}, "input does not match any value of group"),
        ({"name": "other"}, "missing value(s) of argument(s) group"),
    ):
        with pytest.raises(RouterosError) as refused:
            await device.users.add(values)
        assert refused.value.text == text


async def test_an_ecdsa_key_is_refused(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    with pytest.raises(RouterosError, match="unable to load key file"):
        await device.menus["/user/ssh-keys"].add({"user": "csi", "key": "ecdsa-sha2-nistp256 AAAA"})


async def keys_of(device: Device) -> list[tuple[object, object]]:
    return [(item.values["user"], item.values["key"]) for item in device.menus["/user/ssh-keys"].items()]


async def test_keys_follow_their_user_to_another_name_and_go_with_it(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    item = device.users.named("csi")
    assert item is not None
    await device.users.set(item.id, {"name": "renamed"})
    assert the_user(device, "renamed").keys == (_KEY,)
    assert await keys_of(device) == [("renamed", _KEY)]
    await device.users.remove(item.id)
    assert await keys_of(device) == []
    await device.users.add({"name": "renamed", "group": "csi"})
    assert (the_user(device, "renamed").keys, the_user(device, "renamed").password) == ((), "")


async def test_a_user_cannot_take_the_name_of_another(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    item = device.users.named("viewer")
    assert item is not None
    for name, text in (("csi", "same name already exists"), ("", "invalid value for argument name")):
        with pytest.raises(RouterosError, match=text):
            await device.users.set(item.id, {"name": name})
    await device.users.set(item.id, {"name": "viewer", "comment": "the same"})


async def test_access_settings_that_nothing_follows_are_refused(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    user, group = device.users.named("csi"), device.groups.named("csi")
    service = next(item for item in device.services.items() if item.values["name"] == "ssh")
    assert user is not None
    assert group is not None
    key = only(device, "/user/ssh-keys")
    for menu, item, values in (
        (device.users, user, {"inactivity-timeout": "10m"}),
        (device.groups, group, {"name": "other"}),
        (device.services, service, {"port": "2222"}),
        (device.menus["/user/ssh-keys"], key, {"user": "admin"}),
    ):
        with pytest.raises(RouterosError, match="is not simulated"):
            await menu.set(item.id, values)
    for menu, item, values in (
        (device.users, user, {"address": "home"}),
        (device.services, service, {"available-from": "10.0.0.0/99"}),
        (device.services, service, {"max-sessions": "many"}),
    ):
        with pytest.raises(RouterosError, match="invalid value for argument"):
            await menu.set(item.id, values)


async def test_builtin_groups_stay(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    with pytest.raises(RouterosError, match="cannot remove builtin"):
        await device.groups.remove(device.groups.items()[0].id)


async def ended(device: Device) -> None:
    """Some turns of the loop, enough for a job that has nothing left to wait for."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert device.jobs.items() == ()


async def test_jobs_are_listed_while_they_run(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        raise RouterosError("failure: nobody hears this")

    job = device.start_job(work(), owner="csi", script=":delay 1s")
    item = only(device, "/system/script/job")
    assert (item.id, item.values["owner"], item.values["script"]) == (job, "csi", ":delay 1s")
    go.set()
    await ended(device)


async def test_a_reboot_ends_jobs_and_sessions_and_keeps_the_rest(tmp_path: Path) -> None:
    clock = Clock()
    device = Device(options(tmp_path), monotonic=clock)
    await device.disks.add({"type": "file", "slot": "v", "file-path": "raid10/v.img", "file-size": str(MIB)})
    device.start_job(asyncio.sleep(3600), owner="csi")
    device.active.enter(the_user(device, "csi"), "10.0.0.1", "ssh")
    clock.now += 90061
    assert only(device, "/system/resource").values["uptime"] == "1d1h1m1s"
    await device.reboot()
    assert device.jobs.items() == ()
    assert device.active.items() == ()
    assert only(device, "/system/resource").values["uptime"] == "0s"
    assert device.disks.lookup("slot", "v")
    assert device.reboots == 1


async def test_what_waits_for_its_turn_when_the_device_reboots_is_not_done(tmp_path: Path) -> None:
    busy, begun = asyncio.Event(), asyncio.Event()

    async def slow(_before: Export | None, _after: Export | None) -> None:
        begun.set()
        await busy.wait()

    device = Device(options(tmp_path))
    device.on_export_changed.append(slow)
    plain = {"type": "file", "slot": "v2", "file-path": "raid10/v2.img", "file-size": "4096"}
    exported = {**plain, "slot": "v1", "file-path": "raid10/v1.img", "nvme-tcp-export": "yes"}
    first = asyncio.create_task(device.disks.add(exported))
    await begun.wait()
    waiting = asyncio.create_task(device.disks.add(plain))
    await asyncio.sleep(0)
    reboot = asyncio.create_task(device.reboot())
    await asyncio.sleep(0)
    busy.set()
    await reboot
    # What had begun is done by now.
    assert first.done()
    assert device.disks.lookup("slot", "v1")
    with pytest.raises(RouterosError, match="interrupted"):
        await waiting
    assert device.disks.lookup("slot", "v2") == ()
    await device.disks.add(plain)


async def test_a_job_can_be_removed_once(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    job = device.start_job(asyncio.sleep(3600), owner="csi")
    await device.jobs.remove(job)
    with pytest.raises(RouterosError, match="no such item"):
        await device.jobs.remove(job)


def test_an_uptime_is_shown_in_units() -> None:
    assert [duration(seconds) for seconds in (0, 59, 60, 3661, 90061, 604800)] == [
        *("0s", "59s", "1m", "1h1m1s", "1d1h1m1s", "1w"),
    ]


async def test_tenants_have_disks_files_and_subvolumes_that_a_digest_guards(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    tenants = device.tenants
    shown = [device.disks.item(item_id) for item_id in tenants.disk_ids]
    nqns = {item.values.get("nvme-tcp-server-nqn") for item in shown if item is not None}
    assert {"nqn.2000-02.com.mikrotik:nixos-builder", "nqn.2000-02.com.mikrotik:nixos-cache"} <= nqns
    assert tenants.subvolumes == ("vm-images",)
    used = {str(item.values["file-path"]).strip("/") for item in shown if item is not None}
    assert used < set(tenants.files)
    digest = tenants.digest()
    assert Device(dataclasses.replace(options(tmp_path / "other"))).tenants.digest() == digest
    with tenants.paths[0].open("r+b") as file:
        file.write(b"stolen")
    assert tenants.digest() != digest
    tenants.paths[0].unlink()
    assert tenants.digest() != digest


def test_before_file_disks_tenants_have_files_only(tmp_path: Path) -> None:
    device = Device(options(tmp_path, "7.15"))
    assert device.tenants.disk_ids == ()
    assert len(device.tenants.files) == 3


async def test_ten_thousand_disks_are_listed_and_found_fast(tmp_path: Path) -> None:
    device = Device(options(tmp_path))
    for number in range(10_000):
        values = {"type": "file", "slot": f"v{number}", "file-path": f"raid10/v{number}.img", "file-size": str(MIB)}
        await device.disks.add(values)
    started = time.monotonic()
    assert len(device.disks.items()) > 10_000
    # A listing that looks at all of them for each of them would take minutes, and so would such a search.
    assert time.monotonic() - started < 3
    started = time.monotonic()
    for number in range(10_000):
        (item,) = device.disks.lookup("slot", f"v{number}") or ()
        assert item.values["slot"] == f"v{number}"
    assert time.monotonic() - started < 3
