"""The commands of menus through the simulated console: adding, finding, printing, changing, removing."""

import json
from pathlib import Path

import pytest

from rds_csi.simulator.console import Console
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions, GroupOptions, UserOptions

MIB = 1 << 20


@pytest.fixture
def device(tmp_path: Path) -> Device:
    users = (UserOptions("admin"), UserOptions("reader", "reader"))
    groups = (GroupOptions("reader", frozenset({"ssh", "read"})),)
    return Device(DeviceOptions(directory=tmp_path, version="7.24", users=users, groups=groups, seed_tenants=False))


async def said(device: Device, line: str, user: str = "admin") -> list[str]:
    known = device.user(user)
    assert known is not None
    text = "".join([piece async for piece in Console(device, known).run(line)])
    return text.split("\r\n")[:-1]


def add(slot: str, more: str = "") -> str:
    return f'/disk add type=file slot="{slot}" file-path="raid10/{slot}.img" file-size={MIB} {more}'


async def listed(device: Device, rest: str = "") -> list[dict[str, object]]:
    line = f":put [:serialize to=json options=json.no-string-conversion value=[/disk print as-value {rest}]]"
    [text] = await said(device, line)
    rows: list[dict[str, object]] = json.loads(text)
    return rows


async def test_add_prints_nothing_and_gives_the_id(device: Device) -> None:
    assert await said(device, add("one")) == []
    [printed] = await said(device, f":put [{add('two')}]")
    [row] = await listed(device, "where slot=two")
    assert row[".id"] == printed


@pytest.mark.parametrize("path", ["/disk print", "/disk/print", "/disk; print"])
async def test_paths_are_written_in_more_than_one_way(device: Device, path: str) -> None:
    assert await said(device, f"{path} count-only") == ["5"]


async def test_menus_within_menus_are_found(device: Device) -> None:
    assert await said(device, "/disk/btrfs/subvolume/print count-only") == ["0"]
    assert await said(device, "/disk btrfs subvolume print count-only") == ["0"]
    assert await said(device, ":put [/system/resource/get version]") == ["7.24 (stable)"]


@pytest.mark.parametrize(
    ("condition", "slots"),
    [
        ('where slot="a"', ["a"]),
        ("where slot=a", ["a"]),
        ("where slot=a || slot=c", ["a", "c"]),
        ("where (slot=a || slot=c) && comment=hello", ["c"]),
        ('where slot~"^[ab]\\$"', ["a", "b"]),
        ("where comment", ["c"]),
        ("where !comment && type=file", ["a", "b"]),
        ('where type=file comment=""', ["a", "b"]),
        ("where type=file && size>1048576", ["b"]),
        ("where type=file && size>=1048576 && size!=2097152", ["a", "c"]),
        ("where nvme-tcp-export=yes", ["a"]),
        ("where nvme-tcp-export", ["a"]),
        ("where type=file and !nvme-tcp-export", ["b", "c"]),
        ("where file-path=/raid10/b.img", ["b"]),
        ("where file-path=raid10/b.img", []),
        ("where slot=nobody", []),
        ("where type=file && (false || slot=b)", ["b"]),
        ("where slot=[:tostr a]", ["a"]),
        ('where comment~"^hel+o"', ["c"]),
    ],
)
async def test_where_chooses_items(device: Device, condition: str, slots: list[str]) -> None:
    await said(device, f"{add('a', 'nvme-tcp-export=yes')}; {add('b')}; {add('c', 'comment=hello')}")
    await said(device, f"/disk set b file-size={2 * MIB}")
    assert [row["slot"] for row in await listed(device, condition)] == slots
    found = await said(device, f":foreach i in=[/disk find {condition}] do={{:put [/disk get $i slot]}}")
    assert found == slots


async def test_find_takes_pairs_without_where(device: Device) -> None:
    await said(device, f"{add('a')}; {add('b')}")
    assert await said(device, ":put [:len [/disk find type=file slot=b]]") == ["1"]
    assert await said(device, ":put [/disk get [/disk find slot=b] file-size]") == [str(MIB)]


async def test_a_property_hides_a_variable_of_its_name(device: Device) -> None:
    """As on a device: the condition then compares the property with itself, and holds for every item."""
    await said(device, f"{add('a')}; {add('b')}")
    assert await said(device, ':local slot "a"; :put [:len [/disk find where type=file && slot=$slot]]') == ["2"]
    assert await said(device, ':local s "a"; :put [:len [/disk find where type=file && slot=$s]]') == ["1"]


async def test_items_are_named_by_id_name_list_and_number(device: Device) -> None:
    await said(device, "; ".join(add(slot) for slot in "abcdef"))
    [row] = await listed(device, "where slot=a")
    assert await said(device, f"/disk set {row['.id']} comment=one; /disk set numbers=b comment=one") == []
    assert await said(device, "/disk set c,d comment=one; /disk set [find slot=e || slot=f] comment=one") == []
    assert await said(device, '/disk set [:toarray "a,b"] comment=two') == []
    assert len(await listed(device, "where comment=one")) == 4
    assert len(await listed(device, "where comment=two")) == 2
    lines = await said(device, "/disk print; /disk remove 5; /disk print count-only")
    assert lines[-1] == "10"
    assert not await listed(device, "where slot=a")


async def test_a_search_without_result_is_silent_success(device: Device) -> None:
    assert await said(device, "/disk set [find slot=none] comment=x; /disk remove [find slot=none]") == []


async def test_remove_leaves_the_file_and_file_remove_takes_it(device: Device) -> None:
    await said(device, add("a"))
    await said(device, "/disk remove a")
    assert await said(device, ":put [:len [/file find where name=raid10/a.img]]") == ["1"]
    await said(device, "/file/remove [find name=raid10/a.img]")
    assert await said(device, ":put [:len [/file find where name=raid10/a.img]]") == ["0"]


async def test_values_come_typed_and_exact(device: Device) -> None:
    await said(device, add("a", "nvme-tcp-export=yes"))
    [row] = await listed(device, "where slot=a")
    assert row["size"] == MIB
    assert row["nvme-tcp-export"] is True
    assert row["file-path"] == "/raid10/a.img"
    script = ':put [:typeof ([/disk print as-value where slot=a]->0->"size")]; :put [:typeof [/disk get a swap]]'
    assert await said(device, script) == ["num", "bool"]


async def test_proplist_narrows_what_is_listed(device: Device) -> None:
    await said(device, add("a"))
    [row] = await listed(device, "proplist=slot,size where slot=a")
    assert set(row) == {".id", "slot", "size"}


async def test_put_flattens_a_listing(device: Device) -> None:
    await said(device, add("a"))
    [line] = await said(device, ":put [/disk print as-value proplist=slot,size where slot=a]")
    assert line.endswith(f";slot=a;size={MIB}")
    assert line.startswith(".id=*")


async def test_print_is_for_people(device: Device) -> None:
    await said(device, add("a"))
    lines = await said(device, "/disk print detail where slot=a")
    assert lines[0].startswith("Flags: ")
    assert "size=1 048 576" in " ".join(lines)
    assert await said(device, "/disk print as-value") == []


@pytest.mark.parametrize("argument", ["follow", "interval=1s", "stats", "value-list", "file=x"])
async def test_a_form_of_print_that_is_not_simulated_says_so(device: Device, argument: str) -> None:
    name = argument.partition("=")[0]
    assert await said(device, f"/disk print {argument}") == [f"failure: /disk print {name} is not simulated"]


async def test_terse_is_one_line_for_each_item(device: Device) -> None:
    await said(device, f"{add('a')}; {add('b')}")
    lines = await said(device, "/disk print terse where type=file")
    assert ["slot=a" in lines[0], "slot=b" in lines[1], len(lines)] == [True, True, 2]


async def test_from_narrows_what_is_printed(device: Device) -> None:
    await said(device, f"{add('a')}; {add('b')}")
    assert [row["slot"] for row in await listed(device, "from=[find slot=b]")] == ["b"]
    assert not await listed(device, "from=[find slot=b] where slot=a")


async def test_a_singleton_is_set_and_read_without_items(device: Device) -> None:
    assert await said(device, "/system/identity/set name=box; :put [/system/identity/get name]") == ["box"]


async def test_enable_and_comment_are_commands_of_a_menu(device: Device) -> None:
    await said(device, f"{add('a')}; /disk comment a comment=hello; /disk disable a")
    [row] = await listed(device, "where slot=a")
    assert row["comment"] == "hello"


async def test_a_user_without_the_policy_is_refused(device: Device) -> None:
    assert await said(device, f":put before; {add('a')}", "reader") == ["before", "not enough permissions (9)"]
    assert await said(device, ":put [:len [/disk find]]", "reader") == ["5"]


async def test_secrets_are_shown_only_with_the_policy_sensitive(device: Device) -> None:
    await said(device, add("a", "nvme-tcp-server-password=hunter2"))
    assert "hunter2" not in "".join(await said(device, ":put [/disk print as-value]; /disk print detail", "reader"))


async def test_a_job_is_listed_while_it_runs(device: Device) -> None:
    line = ":local j [:execute script={:delay 1h}]; :put [:len [/system/script/job find where .id=$j]]; "
    assert await said(device, line + ":put [/system/script/job get $j owner]; /system/script/job remove $j") == [
        "1",
        "admin",
    ]
    assert await said(device, "/system/script/job print count-only") == ["0"]
    await device.close()


async def test_an_error_of_a_menu_is_caught_with_its_text(device: Device) -> None:
    await said(device, add("a"))
    line = f':onerror e in={{{add("a")}}} do={{:put "ERR $e"}}; :put END'
    assert await said(device, line) == ["ERR failure: already have such entry", "END"]
