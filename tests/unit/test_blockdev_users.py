"""Who uses which device: what each of the kernel's tables tells, and what could not be looked at."""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from rds_csi.blockdev import programs
from rds_csi.blockdev.disks import Disk, disk_of, node_name, read_names
from rds_csi.blockdev.mounts import Mounted, parse_mounts
from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.blockdev.programs import _is_served
from rds_csi.blockdev.usage import why_in_use
from rds_csi.blockdev.users import DeviceUsers, Uses
from rds_csi.model.devices import DeviceNumber
from rds_csi.workers import Workers
from tests.support.sweep_host import INIT, SELF, SweepHost


@pytest.fixture
def host(tmp_path: Path) -> SweepHost:
    made = SweepHost(tmp_path)
    made.session("v0")
    return made


def disk(host: SweepHost, session: int = 0) -> Disk:
    return Disk(f"nvme{session}n1", host.number(session))


async def looked(host: SweepHost, nodes: BlockNodes | None = None) -> Uses:
    return await DeviceUsers(host.tree.host, Workers(), nodes or host.tree.nodes).look([disk(host)])


async def closer(host: SweepHost, nodes: BlockNodes | None = None) -> Uses:
    return await DeviceUsers(host.tree.host, Workers(), nodes or host.tree.nodes).look_closer([disk(host)])


def phrases(uses: Uses) -> Mapping[str, Sequence[str]]:
    assert uses.blind == ""
    return {name: tuple(found) for name, found in uses.by_disk.items()}


async def test_a_free_device_has_no_users(host: SweepHost) -> None:
    host.mount("/", "8:1", "/dev/sda1")
    host.mount("/run", "0:24", "tmpfs", fs_type="tmpfs")
    host.loop("loop0", "/images/disk.img")
    host.loop("loop1", "/dev/nvme10n1")
    host.swap("nvme0n10")
    assert phrases(await looked(host)) == {}
    assert phrases(await closer(host)) == {}


@pytest.mark.parametrize("process", [SELF, INIT])
async def test_mounts_are_told_by_number_and_by_name(host: SweepHost, process: str) -> None:
    host.mount("/by number", host.number(0), "/dev/root", process=process)
    host.mount("/by-name", "0:77", "/dev/nvme0n1", process=process)
    host.mount("/by-alias", "0:78", "/host/dev/nvme0n1", process=process)
    uses = await looked(host)
    expected = [f"nvme0n1 is mounted at {path}" for path in ("/by number", "/by-name", "/by-alias")]
    assert phrases(uses) == {"nvme0n1": tuple(expected)}
    assert {"/by number", "/by-name"} <= uses.mount_points


# What str.splitlines() takes for the end of a line, and the kernel does not escape.
LINE_ENDS = ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("character", LINE_ENDS, ids=ascii)
async def test_only_a_newline_ends_a_line(host: SweepHost, character: str) -> None:
    path = f"/mnt/a{character}b"
    host.mount(path, "8:1", f"/dev/sda{character}1")
    host.mount_disk(0, path)
    with host.tree.path("proc/swaps").open("a", encoding="utf-8") as stream:
        stream.write(f"/a{character}b/nvme0n1    partition 1 0 -2\n")
    host.loop("loop7", f"/a{character}b/nvme0n1")
    expected = (f"nvme0n1 is mounted at {path}", "nvme0n1 is used as swap", "nvme0n1 is behind loop7")
    assert phrases(await looked(host)) == {"nvme0n1": expected}
    assert why_in_use(host.tree.host, "nvme0n1", "/dev/nvme0n1", host.tree.nodes) == f"it is mounted at {path}"


@pytest.mark.parametrize("character", LINE_ENDS, ids=ascii)
async def test_only_a_newline_ends_a_line_in_other_namespaces(host: SweepHost, character: str) -> None:
    host.program(77, namespace="mnt:[5]")
    host.mount_disk(0, f"/in{character}side", process="77")
    assert f"/in{character}side" in phrases(await closer(host))["nvme0n1"][0]


async def test_a_bare_word_as_source_is_no_device(host: SweepHost) -> None:
    host.mount("/run/x", "0:24", "nvme0n1", fs_type="tmpfs")
    assert phrases(await looked(host)) == {}


async def test_partitions_count_for_their_disk(host: SweepHost) -> None:
    host.mount("/part", host.partition(0), "/dev/disk/by-id/x")
    host.hold(0, "dm-3", part="nvme0n1p1")
    host.swap("nvme0n1p1")
    host.loop("loop7", "/dev/nvme0n1p1")
    assert phrases(await looked(host)) == {
        "nvme0n1": (
            "nvme0n1 is mounted at /part",
            "nvme0n1p1 is held by dm-3",
            "nvme0n1p1 is used as swap",
            "nvme0n1p1 is behind loop7",
        )
    }


async def test_a_deleted_swap_or_loop_still_uses_its_device(host: SweepHost) -> None:
    host.loop("loop7", "/dev/nvme0n1 (deleted)")
    with host.tree.path("proc/swaps").open("a") as stream:
        stream.write("/dev/nvme0n1\\040(deleted) partition 1 0 -2\n")
    assert phrases(await looked(host)) == {"nvme0n1": ("nvme0n1 is used as swap", "nvme0n1 is behind loop7")}


async def test_mounts_of_devices_that_have_gone_are_told_apart(host: SweepHost) -> None:
    host.mount("/a", "259:900", "/dev/nvme9n1")
    host.mount("/b", "259:901", "/dev/disk/by-id/nvme-x")
    host.mount("/c", "0:50", "/dev/nvme9n2p1")
    host.mount("/d", "8:1", "/dev/sda1")
    host.mount("/e", "0:51", "server:/export", fs_type="nfs4")
    host.mount_disk(0, "/f")
    assert [mount.path for mount in (await looked(host)).lost] == ["/a", "/b", "/c"]


async def test_tables_that_cannot_be_read_are_no_proof(host: SweepHost) -> None:
    for process in (SELF, INIT):
        host.table(process).unlink()
    assert "tables of mounts" in (await looked(host)).blind


async def test_an_error_that_is_no_absence_is_no_proof_either(host: SweepHost) -> None:
    swaps = host.tree.path("proc/swaps")
    swaps.unlink()
    swaps.symlink_to(swaps)
    assert "symbolic links" in (await looked(host)).blind


# The closer look


async def test_mounts_of_other_namespaces_name_a_process_in_them(host: SweepHost) -> None:
    host.program(77, namespace="mnt:[5]")
    host.mount_disk(0, "/inside", process="77")
    host.program(78, namespace="mnt:[5]")
    assert phrases(await closer(host)) == {
        "nvme0n1": ("nvme0n1 is mounted at /inside in the mount namespace of pid 77 (postgres)",)
    }


async def test_programs_are_told_by_the_name_of_the_node(host: SweepHost) -> None:
    host.program(77, "socket:[1]", "/dev/null", "/dev/nvme0n1 (deleted)")
    assert phrases(await closer(host)) == {"nvme0n1": ("nvme0n1 is open in pid 77 (postgres)",)}


async def test_a_program_that_ends_during_the_look_is_passed_over(host: SweepHost) -> None:
    host.program(77)
    for name in ("fd", "ns/mnt", "ns", "comm"):
        path = host.tree.path("proc/77", name)
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    assert phrases(await closer(host)) == {}


async def test_a_program_that_cannot_be_looked_at_is_no_proof(host: SweepHost) -> None:
    host.program(77)
    descriptors = host.tree.path("proc/77/fd")
    descriptors.rmdir()
    descriptors.symlink_to(descriptors)
    assert "programs" in (await closer(host)).blind


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(12, "Cannot allocate memory")])
async def test_a_descriptor_that_cannot_be_followed_is_no_proof(
    host: SweepHost, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """As in a container without CAP_SYS_PTRACE: the listing may be read, the links may not."""
    host.program(77, "/dev/nvme0n1")
    readlink = os.readlink

    def refuse(path: str) -> str:
        if path.endswith("/fd/0"):
            raise error
        return readlink(path)

    monkeypatch.setattr(os, "readlink", refuse)
    assert "programs" in (await closer(host)).blind


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), ProcessLookupError(3, "gone")])
async def test_a_descriptor_that_was_closed_is_passed_over(
    host: SweepHost, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    host.program(77, "/dev/nvme0n1")

    def gone(path: str) -> str:
        raise error

    monkeypatch.setattr(os, "readlink", gone)
    assert phrases(await closer(host)) == {}


async def test_a_namespace_that_cannot_be_named_is_read_all_the_same(
    host: SweepHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.program(77)
    host.mount_disk(0, "/inside", process="77")

    def refuse(path: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "readlink", refuse)
    assert "/inside" in phrases(await closer(host))["nvme0n1"][0]


@pytest.mark.parametrize(
    ("place", "is_served"),
    [
        ("/dev/x", False),
        ("/data/x", True),
        ("/data/local/x", False),
        ("/data/local", False),
        ("/data/locals", True),
        ("/over/x", False),
        ("/fuse/x", True),
        ("//x", False),
    ],
)
def test_the_deepest_mount_above_a_path_has_it(place: str, is_served: bool) -> None:
    served = {"/": True, "/dev": False, "/data/local": False, "/over": False, "/fuse": True}
    assert _is_served(place, served) == is_served
    assert not _is_served(place, {})


async def test_on_a_diskless_node_open_devices_are_found_by_number(
    host: SweepHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = str(host.tree.path("dev/by-name"))
    host.program(77, node, "/exported/file")
    host.mount("/", "0:20", "server:/root", process="77", fs_type="nfs4")
    host.mount(str(host.tree.path("dev")), "0:6", "udev", process="77", fs_type="devtmpfs")
    asked: list[str] = []

    def number(path: str) -> str:
        asked.append(os.path.basename(path))
        return str(host.number(0))

    monkeypatch.setattr(programs, "_block_number", number)
    assert phrases(await closer(host)) == {"nvme0n1": ("nvme0n1 is open in pid 77 (postgres)",)}
    assert asked == ["0"]


async def test_a_loop_device_over_a_node_of_another_name_is_found(host: SweepHost) -> None:
    host.loop("loop3", "/publish/pod-1")
    host.tree.nodes.numbers[str(host.tree.path("publish/pod-1"))] = host.number(0)
    assert phrases(await closer(host)) == {"nvme0n1": ("nvme0n1 is behind loop3, as /publish/pod-1",)}


async def test_a_claim_is_what_is_left_to_ask(host: SweepHost) -> None:
    host.claim(0)
    assert phrases(await closer(host)) == {"nvme0n1": ("nvme0n1 is claimed by another part of the kernel",)}


class StuckNodes(BlockNodes):
    """An open that does not come back until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.opens = 0

    def number_of(self, path: str) -> DeviceNumber | None:
        return None

    def is_claimed(self, path: str) -> bool:
        self.opens += 1
        self.go.wait()
        return False


async def test_an_open_that_sticks_is_no_proof_and_is_not_repeated(host: SweepHost) -> None:
    nodes = StuckNodes()
    workers = Workers()
    users = DeviceUsers(host.tree.host, workers, nodes, claim_seconds=0.05)
    try:
        for _ in range(3):
            uses = await users.look_closer([disk(host)])
            assert set(uses.unseen) == {"nvme0n1"}
        assert nodes.opens == 1
        # The threads of everybody else are still there.
        assert await workers.run(lambda: 1, timeout=5.0) == 1
    finally:
        nodes.go.set()


async def test_many_stuck_opens_take_the_time_of_one(host: SweepHost) -> None:
    nodes = StuckNodes()
    users = DeviceUsers(host.tree.host, Workers(), nodes, claim_seconds=0.05)
    disks = [Disk(f"nvme{number}n1", host.number(number)) for number in range(40)]
    try:
        async with asyncio.timeout(20):
            assert len((await users.look_closer(disks)).unseen) == 40
        assert nodes.opens <= 4
    finally:
        nodes.go.set()


class BrokenNodes(BlockNodes):
    def number_of(self, path: str) -> DeviceNumber | None:
        return None

    def is_claimed(self, path: str) -> bool:
        raise PermissionError(13, "Permission denied")


async def test_a_node_that_is_missing_in_dev_is_no_proof(host: SweepHost) -> None:
    host.tree.nodes.numbers.clear()
    assert (await closer(host)).unseen == {}
    host.real_proc()
    assert "no such block device" in (await closer(host)).unseen["nvme0n1"]


async def test_an_open_that_is_not_allowed_is_no_proof(host: SweepHost) -> None:
    assert "Permission denied" in (await closer(host, BrokenNodes())).unseen["nvme0n1"]


# The small parts


def test_names_of_partitions_lead_to_their_disk() -> None:
    assert [disk_of(name) for name in ("nvme0n1", "nvme0n1p3", "md0p1", "sda1", "dm-0", "loop0p2", "")] == [
        *("nvme0n1", "nvme0n1", "md0", "sda1", "dm-0", "loop0", "")
    ]
    assert [node_name(path) for path in ("/dev/x", "x", "", "/dev/x (deleted)")] == ["x", "", "", "x"]


def test_only_the_disks_own_partitions_are_its_partitions(host: SweepHost) -> None:
    number = host.partition(0)
    for name in ("nvme0n1p", "nvme0n1px", "power", "nvme0n1p1p1"):
        host.tree.path("sys/block/nvme0n1", name).mkdir()
    names = read_names(host.tree.host.sys, [disk(host)])
    assert names.parts == {"nvme0n1": ("nvme0n1p1",)}
    assert names.by_number == {str(host.number(0)): "nvme0n1", str(number): "nvme0n1"}


def test_mountinfo_is_read_line_by_line() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/r\\134oot rw,errors=continue\n"
        "garbage\n"
        "1 2 0:3 / / rw - proc proc rw\n"
        "\n"
    )
    assert list(parse_mounts(text)) == [
        Mounted("98:0", "/mnt 2", "ext3", "/dev/r\\oot"),
        Mounted("0:3", "/", "proc", "proc"),
    ]


def test_the_connectors_own_question_is_still_answered(host: SweepHost) -> None:
    path = f"{host.tree.host.dev}/nvme0n1"

    def why() -> str:
        return why_in_use(host.tree.host, "nvme0n1", path, host.tree.nodes)

    assert why() == ""
    host.claim(0)
    assert "claimed" in why()
    host.swap("nvme0n1")
    assert "swap" in why()
    host.mount_disk(0, "/mnt/x y")
    assert why() == "it is mounted at /mnt/x y"
    host.hold(0, "dm-0")
    assert why() == "it is held by dm-0"
