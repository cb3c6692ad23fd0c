"""Every script and chain of requests done by the simulated device: both clients tell and do the same."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    Step,
)
from rds_csi.arrays.routeros.records import Disk
from rds_csi.model.sizes import GIB, MIB
from rds_csi.simulator.device_options import PoolOptions
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
    benches,
    grow,
    until_ended,
)


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


async def test_a_created_disk_is_told_as_it_was_asked_for(bench: Bench) -> None:
    outcome = await bench.client.execute(CREATE)
    assert (outcome.done, outcome.error) == (0, "")
    (disk,) = outcome.disks
    assert disk == Disk(
        disk.id, "pvc-1", "file", MARK, GIB, PATH, exported=True, nqn=NQN, port=4420, fs="", mounted=False
    )
    assert [(file.name, file.size) for file in outcome.files] == [(PATH, GIB)]
    assert await bench.client.find_disks(ANCHORS) == (disk,)
    assert disk in await bench.client.list_disks()
    assert [(file.name, file.size) for file in await bench.client.list_files(BASE)] == [(PATH, GIB)]
    (row,) = [row for row in bench.rows("/disk") if row["slot"] == "pvc-1"]
    assert (row["mount-filesystem"], row["smb-sharing"], row["media-sharing"]) == (False, False, False)


async def test_a_second_create_does_nothing_and_tells_what_is_there(bench: Bench) -> None:
    (disk,) = (await bench.client.execute(CREATE)).disks
    outcome = await bench.client.execute(CREATE)
    assert (outcome.done, outcome.error, outcome.disks) == (-1, "", (disk,))


async def test_a_file_that_is_in_the_way_is_not_adopted(bench: Bench) -> None:
    await bench.client.execute(CREATE)
    await bench.client.execute(Command(ANCHORS, (Deed(Expect(1), (RemoveDisk(),)),)))
    outcome = await bench.client.execute(CREATE)
    assert (outcome.done, outcome.disks, outcome.files_known) == (-1, (), True)
    assert [file.name for file in outcome.files] == [PATH]


async def test_delete_leaves_neither_disk_nor_file_and_can_be_repeated(bench: Bench) -> None:
    before = bench.rows("/disk"), [row["name"] for row in bench.rows("/file")]
    await bench.client.execute(CREATE)
    outcome = await bench.client.execute(DELETE)
    assert (outcome.done, outcome.error, outcome.disks, outcome.files, outcome.files_known) == (0, "", (), (), True)
    assert (bench.rows("/disk"), [row["name"] for row in bench.rows("/file")]) == before
    outcome = await bench.client.execute(DELETE)
    assert (outcome.done, outcome.error, outcome.disks, outcome.files, outcome.files_known) == (1, "", (), (), True)


async def test_delete_completes_what_a_killed_one_left(bench: Bench) -> None:
    await bench.client.execute(CREATE)
    await bench.client.execute(Command(ANCHORS, (Deed(Expect(1), (RemoveDisk(),)),)))
    outcome = await bench.client.execute(DELETE)
    assert (outcome.done, outcome.files, outcome.files_known) == (1, (), True)
    assert await bench.client.list_files(BASE) == ()


async def test_an_attached_foreign_or_damaged_disk_is_not_deleted(bench: Bench) -> None:
    await bench.client.execute(CREATE)
    for comment in (ATTACHED, "somebody", "", f"x{MARK}", BEGINS[:-1], MARK.replace("pvc-1", "pvc-2")):
        await bench.client.execute(Command(ANCHORS, (Deed(Expect(1), (SetDisk({"comment": comment}),)),)))
        outcome = await bench.client.execute(DELETE)
        assert (outcome.done, outcome.error) == (-1, "")
        assert [disk.comment for disk in outcome.disks] == [comment]


async def test_growth_is_told_as_the_device_shows_it(bench: Bench) -> None:
    await bench.client.execute(CREATE)
    outcome = await bench.client.execute(grow(2 * GIB))
    assert (outcome.done, outcome.error, outcome.disks[0].size) == (0, "", 2 * GIB)
    assert (await bench.client.find_disks(ANCHORS))[0].size == 2 * GIB


async def test_a_disk_is_found_by_each_anchor_alone_and_a_hidden_nqn_is_no_match(bench: Bench) -> None:
    (disk,) = (await bench.client.execute(CREATE)).disks
    for anchors in (Anchors(slots=("pvc-1",)), Anchors(nqns=(NQN,)), Anchors(paths=(PATH,), slots=("x",))):
        assert await bench.client.find_disks(anchors) == (disk,)
    for anchors in (Anchors(slots=("pvc-11",)), Anchors(nqns=(NQN[:-1],)), Anchors(paths=(PATH[:-1],))):
        assert await bench.client.find_disks(anchors) == ()


async def test_two_disks_that_clash_are_both_told_and_neither_is_touched(bench: Bench) -> None:
    await bench.client.execute(CREATE)
    other = {
        **DISK,
        "slot": "foreign",
        "file-path": f"{BASE}/other.img",
        "nvme-tcp-server-nqn": NQN + "2",
        "comment": "x",
    }
    both = Anchors(slots=("pvc-1", "foreign"), paths=(PATH,))
    await bench.client.execute(Command(Anchors(slots=("foreign",)), (Deed(Expect(0), (AddDisk(other),)),)))
    outcome = await bench.client.execute(
        Command(both, (Deed(Expect(0)), Deed(Expect(1), (RemoveDisk(),)), Deed(Expect(2))))
    )
    assert outcome.done == 2
    assert {disk.slot for disk in outcome.disks} == {"pvc-1", "foreign"}


async def test_a_refused_step_tells_what_is_there_afterwards(make: Benches) -> None:
    bench = make(pools=(PoolOptions(size=2 * GIB, overhead=0),), seed_tenants=False)
    client = bench.client
    outcome = await client.execute(CREATE)
    assert (outcome.done, outcome.disks, outcome.files) == (0, (), ())
    assert "directory" in outcome.error
    made = Command(ANCHORS, (Deed(Expect(0), (MakeDirectory(BASE), MakeDirectory(BASE), AddDisk(DISK))),))
    assert (await client.execute(made)).error == ""
    outcome = await client.execute(grow(4 * GIB))
    assert outcome.done == 0
    assert outcome.disks[0].size == GIB
    assert "not enough space" in outcome.error


async def test_half_a_deed_is_told_as_half_done(bench: Bench) -> None:
    bad = Command(ANCHORS, (Deed(Expect(0), (AddDisk(DISK), SetDisk({"type": "nonsense"}), RemoveDisk())),))
    outcome = await bench.client.execute(bad)
    assert outcome.done == 0
    if bench.transport == "ssh":
        # The console refuses the whole script before it runs any of it, or the step when it comes to it.
        assert outcome.error
    assert [disk.slot for disk in outcome.disks] == ["pvc-1"]
    assert [file.name for file in outcome.files] == [PATH]


@pytest.mark.parametrize("removable", [True, False])
async def test_an_exported_disk_is_removed_whether_or_not_the_device_likes_it(make: Benches, removable: bool) -> None:
    bench = make(remove_while_exported=removable)
    made = Command(ANCHORS, (Deed(Expect(0), (MakeDirectory(BASE), AddDisk(DISK))),))
    assert (await bench.client.execute(made)).error == ""
    outcome = await bench.client.execute(DELETE)
    assert (outcome.done, outcome.error, outcome.disks, outcome.files) == (0, "", (), ())


async def test_subvolumes_are_made_cloned_and_removed(make: Benches) -> None:
    bench = make(pools=(PoolOptions(filesystem="btrfs", label="pool-fs"),))
    volume, snapshot = "rds-csi/pvc-1.0123456789ab", "rds-csi/s-1.0123456789ab"
    path = f"raid10/{volume}/volume.img"
    anchors = Anchors(slots=("pvc-1",), paths=(path,))
    properties = {**DISK, "file-path": path}
    steps: tuple[Step, ...] = (MakeDirectory(BASE), AddSubvolume("pool-fs", volume), AddDisk(properties))
    outcome = await bench.client.execute(Command(anchors, (Deed(Expect(0, no_file=True), steps),)))
    assert (outcome.done, outcome.error, [disk.file_path for disk in outcome.disks]) == (0, "", [path])
    take = Command(anchors, (Deed(Expect(1), (AddSubvolume("pool-fs", snapshot, parent=volume, read_only=True),)),))
    assert await bench.asked(bench.client.execute(take)) == (1 if bench.transport == "ssh" else 2)
    found = {one.name: one for one in await bench.client.list_subvolumes()}
    assert (found[snapshot].filesystem, found[snapshot].read_only, found[volume].read_only) == ("pool-fs", True, False)
    again = await bench.client.execute(take)
    assert (again.done, bool(again.error)) == (0, True)
    if bench.transport == "ssh":
        assert again.error == "already have such entry"

    remove = Command(anchors, (Deed(Expect(1), (RemoveDisk(), RemoveSubvolume("pool-fs", volume))),))
    outcome = await bench.client.execute(remove)
    assert (outcome.done, outcome.error, outcome.disks, outcome.files) == (0, "", (), ())
    tidy = Command(
        anchors, (Deed(Expect(0), (RemoveSubvolume("pool-fs", snapshot), RemoveSubvolume("pool-fs", volume))),)
    )
    assert (await bench.client.execute(tidy)).error == ""
    assert {one.name for one in await bench.client.list_subvolumes()}.isdisjoint({volume, snapshot})


async def test_a_disk_stays_while_its_file_cannot_be_known_to_go_over_ssh(make: Benches) -> None:
    bench = make(pools=(PoolOptions(filesystem="btrfs", label="pool-fs"),))
    made = Command(ANCHORS, (Deed(Expect(0), (MakeDirectory(BASE), AddDisk(DISK))),))
    assert (await bench.client.execute(made)).error == ""
    subvolume = RemoveSubvolume("pool-fs", "rds-csi/a", mounted=True)
    bench.device.switches.pool_unmounted = True
    for removal, missing in ((RemoveFile(PATH, within=BASE), BASE), (subvolume, "pool-fs")):
        outcome = await bench.client.execute(Command(ANCHORS, (Deed(Expect(1), (RemoveDisk(), removal)),)))
        assert outcome.error == f"not there: {missing}"
        if bench.transport == "rest":
            # There a look before would be a request more in every deletion.
            return
        assert [disk.slot for disk in outcome.disks] == ["pvc-1"]
    bench.device.switches.pool_unmounted = False
    both = (RemoveDisk(), RemoveFile(PATH, within=BASE), subvolume)
    outcome = await bench.client.execute(Command(ANCHORS, (Deed(Expect(1), both),)))
    assert (outcome.error, outcome.disks, outcome.files) == ("", (), ())


async def test_a_subvolume_that_did_not_go_is_told_over_ssh(make: Benches) -> None:
    bench = make(pools=(PoolOptions(filesystem="btrfs", label="pool-fs"),))
    anchors = Anchors(slots=("x",))
    await bench.client.execute(Command(anchors, (Deed(Expect(0), (AddSubvolume("pool-fs", "mine"),)),)))
    if bench.transport == "ssh":
        outcome = await bench.client.execute(Command(anchors, (Deed(Expect(0), (RemoveSubvolume("other", "mine"),)),)))
        assert outcome.error == "the subvolume is still there"
    assert "mine" in {one.name for one in await bench.client.list_subvolumes()}


async def test_a_copy_runs_on_the_device_and_then_does_the_command(make: Benches) -> None:
    bench = make(version="7.24")
    small = {**DISK, "file-size": str(MIB)}
    copy = f"{BASE}/s-1.0123456789ab.img"
    made = Command(ANCHORS, (Deed(Expect(0), (MakeDirectory(BASE), AddDisk(small))),))
    assert (await bench.client.execute(made)).error == ""
    then = Command(ANCHORS, (Deed(Expect(1, comment=MARK), (SetDisk({"comment": ATTACHED}),)),))
    job = await bench.client.copy_file(PATH, copy, then)
    assert job.startswith("*")
    await until_ended(bench.client, job)
    assert {file.name: file.size for file in await bench.client.list_files(BASE)} == {PATH: MIB, copy: MIB}
    assert (await bench.client.find_disks(ANCHORS))[0].comment == ATTACHED


@pytest.mark.parametrize(("source", "target"), [(f"{BASE}/absent.img", f"{BASE}/new.img"), (PATH, PATH)])
async def test_a_copy_without_a_source_or_over_a_file_does_nothing(make: Benches, source: str, target: str) -> None:
    bench = make(version="7.24")
    made = Command(ANCHORS, (Deed(Expect(0), (MakeDirectory(BASE), AddDisk({**DISK, "file-size": str(MIB)}))),))
    await bench.client.execute(made)
    then = Command(ANCHORS, (Deed(Expect(1), (SetDisk({"comment": ""}),)),))
    job = await bench.client.copy_file(source, target, then)
    await until_ended(bench.client, job)
    assert (await bench.client.find_disks(ANCHORS))[0].comment == MARK
    assert [file.name for file in await bench.client.list_files(BASE)] == [PATH]
