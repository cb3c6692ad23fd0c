"""What the device decides is what this driver would, at the promised cost, and garbage is never read as absence."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.commands import (
    AddDisk,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    RemoveDisk,
    RemoveFile,
    SetDisk,
    decide,
)
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, NotPermitted
from rds_csi.arrays.routeros.names import slot_for
from rds_csi.arrays.routeros.options import RestOptions, RouterosOptions
from rds_csi.arrays.routeros.ssh_client import SshClient
from rds_csi.model.sizes import GIB, MIB
from rds_csi.simulator.device_options import GroupOptions, UserOptions
from tests.support.clock import FakeClock
from tests.support.routeros_arrays import PREFIX, VOLUME, array_on, spec
from tests.support.routeros_bench import (
    ANCHORS,
    ATTACHED,
    BASE,
    BEGINS,
    CREATE,
    DELETE,
    DISK,
    MARK,
    NQN,
    PATH,
    Bench,
    Benches,
    ExecConsole,
    benches,
    grow,
)
from tests.support.routeros_memory import MemoryDevice


@pytest.fixture(params=["ssh", "rest"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Benches]:
    """Benches over SSH, then over REST."""
    async with benches(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def bench(make: Benches) -> Bench:
    """A bench whose device has the base directory."""
    bench = make()
    await bench.client.execute(Command(Anchors(slots=("none",)), (Deed(Expect(0), (MakeDirectory(BASE),)),)))
    return bench


async def test_the_comment_is_changed_only_when_it_still_is_what_was_seen(bench: Bench) -> None:
    (disk,) = (await bench.client.execute(CREATE)).disks

    def swap(old: str, new: str, disk_id: str = disk.id) -> Command:
        expect = Expect(1, disk_id=disk_id, comment=old)
        return Command(ANCHORS, (Deed(expect, (SetDisk({"comment": new}),)),))

    for old, new, disk_id in (("", "x", disk.id), (MARK[:-1], "x", disk.id), (MARK, "x", "*FFF")):
        assert (await bench.client.execute(swap(old, new, disk_id))).done == -1
    outcome = await bench.client.execute(swap(MARK, ATTACHED))
    assert (outcome.done, outcome.disks) == (0, (replace(disk, comment=ATTACHED),))
    assert (await bench.client.execute(swap(MARK, ATTACHED))).done == -1
    assert (await bench.client.execute(swap(ATTACHED, ""))).disks[0].comment == ""
    assert (await bench.client.execute(swap("", MARK))).disks[0] == disk


async def test_a_longest_comment_is_compared_and_kept_whole(bench: Bench) -> None:
    long = BEGINS + "x" * (16_000 - len(BEGINS))
    await bench.client.execute(CREATE)
    await bench.client.execute(Command(ANCHORS, (Deed(Expect(1), (SetDisk({"comment": long}),)),)))
    outcome = await bench.client.execute(
        Command(ANCHORS, (Deed(Expect(1, comment=long), (SetDisk({"comment": long[:-1] + "y"}),)),))
    )
    assert (outcome.done, outcome.disks[0].comment) == (0, long[:-1] + "y")


async def test_the_cost_of_each_call(bench: Bench) -> None:
    """Execs over SSH, requests over REST: exact."""
    ssh = bench.transport == "ssh"
    client = bench.client
    attach = Command(ANCHORS, (Deed(Expect(1, comment=MARK), (SetDisk({"comment": ATTACHED}),)),))
    detach = Command(ANCHORS, (Deed(Expect(1, comment=ATTACHED), (SetDisk({"comment": MARK}),)),))
    assert await bench.asked(client.execute(CREATE)) == (1 if ssh else 3)
    assert await bench.asked(client.execute(CREATE)) == 1
    assert await bench.asked(client.execute(attach)) == (1 if ssh else 2)
    assert await bench.asked(client.execute(detach)) == (1 if ssh else 2)
    assert await bench.asked(client.execute(grow(2 * GIB))) == (1 if ssh else 2)
    assert await bench.asked(client.list_disks()) == 1
    assert await bench.asked(client.list_files(BASE)) == 1
    assert await bench.asked(client.execute(DELETE)) == (1 if ssh else 3)
    assert await bench.asked(client.execute(DELETE)) == (1 if ssh else 3)
    assert await bench.asked(client.facts()) == (1 if ssh else 4)


async def test_facts_of_every_version(make: Benches) -> None:
    for version in ("7.15", "7.17", "7.21", "7.24"):
        bench = make(version=version)
        facts = await bench.client.facts()
        assert str(facts.version).startswith(version)
        assert facts.version.is_at_least(7, 21) == (version in ("7.21", "7.24"))
        assert "rose-storage" in facts.packages
        assert {"read", "write"} <= facts.policies
        assert (facts.user, facts.board, facts.architecture) == ("admin", "RDS2216", "arm64")


async def test_a_user_who_may_only_read_is_told_so_and_changes_nothing(make: Benches) -> None:
    groups = (GroupOptions("looking", frozenset({"ssh", "read", "api", "rest-api"})),)
    bench = make(user="looker", groups=groups, users=(UserOptions("looker", "looking"),))
    assert {"read"} <= (await bench.client.facts()).policies
    try:
        words = (await bench.client.execute(replace(CREATE, deeds=(Deed(Expect(0), (MakeDirectory(BASE),)),)))).error
    except NotPermitted as error:
        words = error.text
    assert "not enough permissions" in words
    assert BASE not in {row["name"] for row in bench.rows("/file")}


async def test_a_late_growth_leaves_what_has_become_larger(bench: Bench) -> None:
    await bench.client.execute(CREATE)

    def grow_to(size: int) -> Command:
        expect = Expect(1, comment=MARK, smaller=size)
        return Command(ANCHORS, (Deed(expect, (SetDisk({"file-size": str(size)}),)),))

    assert (await bench.client.execute(grow_to(3 * GIB))).done == 0
    for size in (2 * GIB, 3 * GIB):
        outcome = await bench.client.execute(grow_to(size))
        assert (outcome.done, outcome.error, outcome.disks[0].size) == (-1, "", 3 * GIB)
    assert [file.size for file in await bench.client.list_files(BASE)] == [3 * GIB]
    # Without the disk there is no size to be compared, and nothing is refused.
    await bench.client.execute(DELETE)
    outcome = await bench.client.execute(grow_to(4 * GIB))
    assert (outcome.done, outcome.error, outcome.disks) == (-1, "", ())


async def test_an_array_over_a_wire_plans_a_late_growth_anew(bench: Bench) -> None:
    """Two controllers: the one whose size is old by then leaves the larger size."""
    options = RouterosOptions(
        transport=RestOptions("192.0.2.1", user="csi"),
        pool="raid10",
        driver_name="d",
        nqn_prefix=PREFIX,
        nvme_addresses=("192.0.2.1",),
        cluster="c",
    )
    first, second = (RouterosArray(options, bench.client, clock=FakeClock().clock) for _ in range(2))
    await first.create_volume(spec())
    assert (await second.expand_volume(VOLUME, 3 * GIB)).size == 3 * GIB
    assert (await first.expand_volume(VOLUME, 2 * GIB)).size == 3 * GIB
    assert [row["size"] for row in bench.rows("/disk") if row["slot"] == slot_for(VOLUME)] == [3 * GIB]


async def test_an_array_over_a_device_of_memory_plans_a_late_growth_anew() -> None:
    device = MemoryDevice()
    first, second = array_on(device), array_on(device)
    await first.create_volume(spec())
    assert (await second.expand_volume(VOLUME, 3 * GIB)).size == 3 * GIB
    assert (await first.expand_volume(VOLUME, 2 * GIB)).size == 3 * GIB
    assert device.by_slot(slot_for(VOLUME)).size == 3 * GIB


COMMENTS = ("", MARK, ATTACHED, "foreign", BEGINS, MARK[:-1])


def _expectations(chance: random.Random, ids: list[str]) -> Expect:
    disks = chance.choice((0, 1, 1, 1, 2))
    if disks != 1:
        return Expect(disks, no_file=chance.random() < 0.3)
    return Expect(
        1,
        disk_id=chance.choice(("", "", *ids)),
        comment=chance.choice((None, None, *COMMENTS)),
        smaller=chance.choice((0, 0, MIB - 1, MIB, MIB + 1)),
        no_file=chance.random() < 0.2,
    )


@pytest.mark.parametrize("seed", range(4))
async def test_the_device_and_this_driver_decide_alike(bench: Bench, seed: int) -> None:
    """``decide`` is what REST goes by, the script what SSH goes by: for random states and expectations they agree."""
    chance = random.Random(seed)
    client = bench.client
    other = f"{BASE}/other.img"
    anchors = Anchors(slots=("pvc-1", "pvc-2"), nqns=(NQN,), paths=(PATH, other))
    for _ in range(60):
        for disk in await client.find_disks(anchors):
            await client.execute(Command(Anchors(slots=(disk.slot,)), (Deed(Expect(1), (RemoveDisk(),)),)))
        none = Command(anchors, (Deed(Expect(0), (RemoveFile(PATH), RemoveFile(other))),))
        await client.execute(none)
        for slot, path, nqn in (("pvc-1", PATH, NQN), ("pvc-2", other, f"{NQN}2")):
            if chance.random() < 0.6:
                comment = chance.choice(COMMENTS)
                one = {**DISK, "slot": slot, "file-path": path, "file-size": str(MIB), "nvme-tcp-server-nqn": nqn}
                told = {**one, "comment": comment} if comment else {k: v for k, v in one.items() if k != "comment"}
                await client.execute(Command(Anchors(slots=(slot,)), (Deed(Expect(0), (AddDisk(told),)),)))
                if chance.random() < 0.3:
                    await client.execute(Command(Anchors(slots=(slot,)), (Deed(Expect(1), (RemoveDisk(),)),)))
        looked = await client.execute(Command(anchors, (Deed(Expect(9, no_file=True)), Deed(Expect(9)))))
        files = tuple(file for file in await client.list_files(BASE) if file.name in anchors.paths)
        ids = [disk.id for disk in looked.disks]
        command = Command(anchors, tuple(Deed(_expectations(chance, ids)) for _ in range(3)))
        outcome = await client.execute(command)
        assert outcome.done == decide(command, looked.disks, files), (command, looked)
        assert outcome.disks == looked.disks


async def test_garbage_from_the_device_is_never_read_as_absence(bench: Bench) -> None:
    """The JSON of a look is cut, or broken in the middle: an error, not an empty list."""
    await bench.client.execute(CREATE)
    if not isinstance(bench.wire, ExecConsole):
        return
    plainly = bench.wire.run

    class Breaking(ExecConsole):
        async def run(self, script: str, *, timeout: float = 1.0, output_limit: int = 1, whole: bool = False) -> str:
            text = await plainly(script)
            return text.replace('"slot":', '"slot', 1)

    client = SshClient(Breaking(bench.device, "admin"))
    with pytest.raises(GarbageReply):
        await client.list_disks()
    with pytest.raises(LostReply):
        await client.execute(grow(2 * GIB))
    assert (await bench.client.find_disks(ANCHORS))[0].size == 2 * GIB


async def test_other_peoples_comments_do_not_break_a_list(bench: Bench) -> None:
    odd = 'quotes " and \\ and $x and [y] and {z}; ümläut'
    item_id = await bench.device.menus["/disk"].add({**DISK, "comment": odd})
    (disk,) = await bench.client.find_disks(ANCHORS)
    assert (disk.id, disk.comment) == (item_id, odd)
    assert (await bench.client.execute(DELETE)).done == -1
