"""Replies of RouterOS: both JSON forms give the same records, and nothing odd passes for "not there"."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.arrays.routeros.errors import GarbageReply
from rds_csi.arrays.routeros.records import Disk, File, Job, Subvolume
from rds_csi.arrays.routeros.replies import (
    parse_disks,
    parse_files,
    parse_jobs,
    parse_json,
    parse_object,
    parse_objects,
    parse_subvolumes,
    parse_version,
)

# What as-value gives for a disk of the kind captured on an RDS with RouterOS 7.24 (facts, 1.8).
TYPED: dict[str, Any] = {
    ".id": "*2B",
    "type": "file",
    "slot": "vm-storage-001",
    "slot-default": "",
    "parent": "",
    "fs": "-",
    "model": "/raid10/vm-storage-001.img",
    "size": 1099511627776,
    "mount-filesystem": False,
    "nvme-tcp-export": True,
    "nvme-tcp-server-port": 4420,
    "nvme-tcp-server-nqn": "nqn.2026-09.com.mikrotik:rds2216.vm-storage-001",
    "nvme-tcp-server-allow-host-name": "",
    "file-path": "/raid10/vm-storage-001.img",
    "file-size": 1099511627776,
    "comment": "mine",
}
DISK = Disk(
    id="*2B",
    slot="vm-storage-001",
    type="file",
    comment="mine",
    size=1 << 40,
    file_path="raid10/vm-storage-001.img",
    exported=True,
    nqn="nqn.2026-09.com.mikrotik:rds2216.vm-storage-001",
    port=4420,
)
POOL: dict[str, Any] = {
    ".id": "*1A",
    "type": "raid",
    "slot": "raid10",
    "fs-label": "ocp-storage",
    "fs": "xfs",
    "size": 16003143565312,
    "free": 14789895307264,
    "mount-point": "raid10",
    "raid-master": "none",
    "state": "clean",
    "mounted": True,
    "nvme-tcp-export": False,
}


def as_rest(row: dict[str, Any]) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in row.items()}


def test_serialized_and_rest_rows_are_the_same_disk() -> None:
    assert parse_disks([TYPED]) == parse_disks([as_rest(TYPED)]) == (DISK,)
    assert parse_disks([{**TYPED, "nvme-tcp-export": "yes"}]) == (DISK,)


def test_a_pool_is_told_with_its_space_and_state() -> None:
    (pool,) = parse_disks([as_rest(POOL)])
    assert (pool.slot, pool.fs, pool.fs_label, pool.state, pool.mounted) == (
        "raid10",
        "xfs",
        "ocp-storage",
        "clean",
        True,
    )
    assert (pool.size, pool.free, pool.mount_point) == (16003143565312, 14789895307264, "raid10")
    assert parse_disks([POOL]) == (pool,)


def test_what_is_left_out_is_unset_and_what_is_unknown_is_ignored() -> None:
    assert parse_disks([{".id": "*1", "slot": "usb1", "brand-new": {"a": 1}}]) == (Disk(id="*1", slot="usb1"),)
    assert parse_disks([{".id": "*1", "free": None, "comment": None}]) == (Disk(id="*1"),)
    assert parse_disks([]) == ()


def test_a_whole_number_with_a_fraction_of_zeros_is_that_number() -> None:
    reply = parse_json('[{".id":"*1","slot":"a","size":1234.000000,"free":0.0}]')
    assert parse_disks(reply) == (Disk("*1", slot="a", size=1234, free=0),)
    for odd in ("1234.5", "1e300", "NaN", "Infinity", "-1.0"):
        with pytest.raises(GarbageReply):
            parse_disks(parse_json(f'[{{".id":"*1","size":{odd}}}]'))


def test_ids_are_read_in_one_spelling() -> None:
    assert parse_disks([{".id": "*2b", "slot": "a"}]) == (Disk("*2B", slot="a"),)
    assert parse_jobs([{".id": "*1a"}]) == (Job("*1A"),)
    assert parse_files([{".id": "**a", "name": "x"}]) == (File("**A", "x"),)


@pytest.mark.parametrize(
    "change",
    [
        {"size": "1024.0GiB"},
        {"size": "1 099 511 627 776"},
        {"size": -1},
        {"size": "-1"},
        {"size": 1.5},
        {"size": True},
        {"size": []},
        {"nvme-tcp-export": "maybe"},
        {"nvme-tcp-export": 7},
        {"comment": 7},
        {"comment": ["a"]},
        {"slot": ""},
        {"slot": None},
        {"file-path": ""},
        {"file-path": 5},
        {".id": "2B"},
        {".id": ""},
        {".id": None},
        {"nvme-tcp-server-port": "x"},
    ],
)
def test_an_odd_disk_is_garbage_and_not_an_absent_one(change: dict[str, object]) -> None:
    with pytest.raises(GarbageReply):
        parse_disks([POOL, {**TYPED, **change}])


@pytest.mark.parametrize("reply", [None, {}, "x", 1, [1], [None], [[]], {"error": 404}, [{}]])
def test_what_is_no_list_of_items_is_garbage(reply: object) -> None:
    for parse in (parse_disks, parse_files, parse_subvolumes, parse_jobs):
        with pytest.raises(GarbageReply):
            parse(reply)


def test_the_error_names_the_field_and_not_its_value() -> None:
    with pytest.raises(GarbageReply, match=r"/disk.*0\.size") as caught:
        parse_disks([{**TYPED, "size": "hunter2"}])
    assert "hunter2" not in str(caught.value)


def test_hosts_are_a_list_however_they_are_told() -> None:
    for hosts in ("a,b", ["a", "b"]):
        (disk,) = parse_disks([{**TYPED, "nvme-tcp-server-allow-host-name": hosts}])
        assert disk.allow_hosts == ("a", "b")


def test_files_have_the_paths_that_disks_have() -> None:
    row = {".id": "**abc", "name": "raid10/x.img", "type": ".img file", "size": "1048576"}
    assert parse_files([row]) == (File("**ABC", "raid10/x.img", ".img file", 1 << 20),)
    assert parse_files([{".id": "*1", "name": "/raid10/x.img/", "type": "directory"}]) == (
        File("*1", "raid10/x.img", "directory"),
    )


def test_a_foreign_file_with_an_unheard_of_name_is_listed_as_it_is() -> None:
    names = ["raid10/my file.img", "raid10/größe", "raid10//x"]
    files = parse_files([{".id": "*1", "name": name, "type": "file"} for name in names])
    assert [file.name for file in files] == names


def test_subvolumes_and_jobs() -> None:
    row = {".id": "*3", "fs": "pool-fs", "name": "rds-csi/a.0123", "read-only": "true", "snapshot": "yes"}
    assert parse_subvolumes([row]) == (Subvolume("*3", "pool-fs", "rds-csi/a.0123", read_only=True),)
    assert parse_jobs([{".id": "*126", "owner": "csi", "script": ":delay 1"}]) == (Job("*126", "csi"),)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7.21 (stable)", (7, 21, 0)),
        ("7.21.2 (long-term)", (7, 21, 2)),
        ("7.21rc3 (testing)", (7, 21, 0)),
        ("7.24beta1 (development)", (7, 24, 0)),
        ("7.15", (7, 15, 0)),
    ],
)
def test_versions_compare_by_their_numbers(text: str, numbers: tuple[int, int, int]) -> None:
    version = parse_version(text)
    assert version.numbers == numbers
    assert str(version) == text
    assert version.is_at_least(7, 21) == (numbers >= (7, 21))
    assert not version.is_at_least(8)


@pytest.mark.parametrize("text", ["", "stable", "7", "v7.21", "7.x", "1234.5678"])
def test_what_is_no_version_is_garbage(text: str) -> None:
    with pytest.raises(GarbageReply):
        parse_version(text)


@pytest.mark.parametrize("text", ["", "[", "[{]", "nonsense", "[" * 100_000, '{"a":'])
def test_what_is_no_json_is_garbage(text: str) -> None:
    with pytest.raises(GarbageReply):
        parse_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TYPED, "name", "fs", "x"]), inner),
    max_leaves=12,
)


@given(JSON)
def test_no_json_makes_parsing_fail_otherwise(value: object) -> None:
    for parse in (parse_disks, parse_files, parse_subvolumes, parse_jobs):
        try:
            parse(parse_json(json.dumps(value)))
        except GarbageReply:
            continue


def test_plain_objects_are_checked_for_their_form_only() -> None:
    assert parse_object({"a": 1}, "/x") == {"a": 1}
    assert parse_objects([{"a": 1}], "/x") == [{"a": 1}]
    with pytest.raises(GarbageReply, match="/x"):
        parse_object([], "/x")
