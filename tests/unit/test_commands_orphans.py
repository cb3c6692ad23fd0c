"""``rds-csi orphans``: what it calls an orphan, what it never deletes, and how long it waits."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.arrays.routeros.objects import ArrayObject, ObjectKind
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.commands import orphan_sightings
from rds_csi.commands.orphan_decision import InUse, Verdict, judge, why_not_deleted
from rds_csi.commands.orphan_lists import FRESH_SECONDS, InUseList, Source
from rds_csi.commands.orphan_report import Line, Outcome, Report
from rds_csi.commands.orphan_sightings import Now
from rds_csi.commands.orphans import orphans
from rds_csi.errors import ConfigurationError, FailedPrecondition
from rds_csi.settings import load_settings
from rds_csi.simulator.server import Simulator, SimulatorOptions
from rds_csi.workers import Workers
from tests.support.routeros_arrays import VOLUME, array_on, attachment, device_for, spec
from tests.support.routeros_memory import MemoryDevice

DAY = 86400.0
NONE = InUse(frozenset(), frozenset(), no_volumes=True, no_snapshots=True)


class Bench:
    """A device, reports on it, and a clock that is set by hand."""

    def __init__(self, directory: Path, means: SnapshotMeans = SnapshotMeans.NONE) -> None:
        self.device: MemoryDevice = device_for(means)
        self.array = array_on(self.device, snapshots=means)
        self.now = Now(1_800_000_000.0, 1000.0, "boot-1")
        self.memory = str(directory / "orphans.json")
        self.most = False

    def later(self, seconds: float) -> None:
        self.now = Now(self.now.wall + seconds, self.now.boottime + seconds, self.now.boot_id)

    async def report(self, in_use: InUse | None, *delete: str, made: float | None = None) -> Outcome:
        """By a process that has just started, with a list that was made just now, or at ``made``."""
        moment = self.now.wall if made is None else made

        async def read() -> InUseList:
            assert in_use is not None
            return InUseList(in_use, moment)

        return await self.report_by(read if in_use is not None else None, *delete)

    async def report_by(self, source: Source | None, *delete: str) -> Outcome:
        report = Report({"": self.array}, self.memory, lambda: self.now, DAY, Workers(), most=self.most)
        return await report.run(source, delete)

    async def verdicts(self, in_use: InUse | None) -> dict[str, Verdict]:
        return {line.judged.key: line.judged.verdict for line in (await self.report(in_use)).lines}

    async def result(self, in_use: InUse, key: str, made: float | None = None) -> str:
        return line_of(await self.report(in_use, key, made=made), key).result

    def remembered(self) -> bool:
        return os.path.exists(self.memory)

    def damage_memory(self) -> None:
        Path(self.memory).write_text("{")

    def slots(self) -> list[str]:
        return sorted(disk.slot for disk in self.device.disks.values() if disk.type == "file")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def used(*volumes: str, snapshots: frozenset[str] | None = None) -> InUse:
    """No snapshots at all are said to be none."""
    return InUse(frozenset(volumes), snapshots, no_snapshots=snapshots == frozenset())


def line_of(outcome: Outcome, key: str) -> Line:
    return next(line for line in outcome.lines if line.judged.key == key)


# What is an orphan


async def test_without_a_list_nothing_is_an_orphan_and_damage_is_told(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    bench.device.change("b", comment="edited by hand")
    assert await bench.verdicts(None) == {"volume/a": Verdict.NOT_JUDGED, "damaged/b": Verdict.DAMAGED}


async def test_a_volume_that_is_not_in_the_list_is_an_orphan(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    assert await bench.verdicts(used("a")) == {"volume/a": Verdict.IN_USE, "volume/b": Verdict.ORPHAN}


async def test_a_volume_in_the_list_without_its_file_or_disk_is_damaged(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec(VOLUME))
    bench.device.files.pop(bench.device.by_slot("a").file_path)
    (long,) = [disk for disk in bench.device.disks.values() if disk.type == "file" and disk.slot != "a"]
    del bench.device.disks[long.id]
    verdicts = await bench.verdicts(used("a", VOLUME))
    assert verdicts == {"volume/a": Verdict.DAMAGED, f"leftover/{long.file_path}": Verdict.DAMAGED}


async def test_an_attached_volume_is_never_an_orphan(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.attach_volume("a", attachment())
    assert await bench.verdicts(NONE) == {"volume/a": Verdict.IN_USE}
    assert (await bench.result(NONE, "volume/a")).startswith("kept: ")


async def test_snapshots_are_judged_only_when_the_list_speaks_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    await bench.array.create_volume(spec("a"))
    await bench.array.create_snapshot("s1", "s1", "a")
    await bench.array.create_snapshot("s2", "s2", "a")
    assert (await bench.verdicts(used("a")))["snapshot/s1"] is Verdict.NOT_JUDGED
    verdicts = await bench.verdicts(used("a", snapshots=frozenset({"s1"})))
    assert verdicts["snapshot/s1"] is Verdict.IN_USE
    assert verdicts["snapshot/s2"] is Verdict.ORPHAN


async def test_a_leftover_whose_id_nobody_knows_is_unproven_and_kept(bench: Bench) -> None:
    await bench.array.create_volume(spec(VOLUME))
    (disk,) = [disk for disk in bench.device.disks.values() if disk.type == "file"]
    del bench.device.disks[disk.id]
    key = f"leftover/{disk.file_path}"
    assert await bench.verdicts(NONE) == {key: Verdict.UNPROVEN}
    bench.later(2 * DAY)
    assert "unproven" in await bench.result(NONE, key)
    assert disk.file_path in bench.device.files


async def test_a_leftover_is_told_by_the_id_that_an_earlier_report_saw(bench: Bench) -> None:
    await bench.array.create_volume(spec(VOLUME))
    await bench.report(used(VOLUME))
    (disk,) = [disk for disk in bench.device.disks.values() if disk.type == "file"]
    del bench.device.disks[disk.id]
    key = f"leftover/{disk.file_path}"
    assert await bench.verdicts(NONE) == {key: Verdict.ORPHAN}
    bench.later(2 * DAY)
    assert await bench.result(NONE, key) == "deleted"
    assert bench.device.files == {}


# What is deleted


async def test_an_orphan_is_deleted_only_by_a_list_and_only_after_two_sightings(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    assert "no earlier report" in await bench.result(used("a"), "volume/b")
    bench.later(DAY - 1)
    assert "have to lie between" in await bench.result(used("a"), "volume/b")
    bench.later(1)
    await bench.report(used("a"))
    assert bench.slots() == ["a", "b"]
    assert await bench.result(used("a"), "volume/b") == "deleted"
    assert bench.slots() == ["a"]


async def test_a_report_that_sees_it_well_begins_the_wait_anew(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.later(2 * DAY)
    await bench.report(used("a", "b"))
    assert "no earlier report" in await bench.result(used("a"), "volume/b")


async def test_a_volume_made_anew_under_the_name_is_seen_for_the_first_time(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    await bench.array.delete_volume("b")
    await bench.array.create_volume(spec("b"))
    bench.later(2 * DAY)
    assert "no earlier report" in await bench.result(used("a"), "volume/b")


async def test_a_clock_that_jumps_ages_nothing(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.now = Now(bench.now.wall + 10 * DAY, bench.now.boottime + 60, bench.now.boot_id)
    assert "have to lie between" in await bench.result(used("a"), "volume/b")
    bench.now = Now(bench.now.wall - 20 * DAY, bench.now.boottime + 60, bench.now.boot_id)
    assert "have to lie between" in await bench.result(used("a"), "volume/b")
    bench.now = Now(bench.now.wall + 30 * DAY, 5.0, "boot-2")
    assert "have to lie between" in await bench.result(used("a"), "volume/b")
    bench.later(DAY)
    assert await bench.result(used("a"), "volume/b") == "deleted"


@pytest.mark.parametrize("comment", ["rds-csi/1/edited", ""])
async def test_what_is_damaged_is_never_deleted(bench: Bench, comment: str) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.device.change("b", comment=comment)
    bench.later(2 * DAY)
    assert "it is damaged" in await bench.result(used("a"), "damaged/b")
    assert bench.slots() == ["a", "b"]


async def test_the_list_of_another_cluster_deletes_and_remembers_nothing(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.report(used("z"))
    bench.later(2 * DAY)
    assert "another cluster" in await bench.result(used("z"), "volume/a")
    assert bench.slots() == ["a"]
    assert not bench.remembered()


async def test_a_snapshot_of_a_group_goes_only_with_its_group(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    await bench.array.create_volume(spec("a"))
    group = await bench.array.create_group("g", "g", ["a"])
    key = f"snapshot/{group.snapshots[0].snapshot_id}"
    in_use = used("a", snapshots=frozenset())
    await bench.report(in_use)
    bench.later(2 * DAY)
    assert "group snapshot g" in await bench.result(in_use, key)


async def test_a_snapshot_that_is_an_orphan_is_deleted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    await bench.array.create_volume(spec("a"))
    await bench.array.create_snapshot("s1", "s1", "a")
    in_use = used("a", snapshots=frozenset())
    await bench.report(in_use)
    bench.later(2 * DAY)
    assert await bench.result(in_use, "snapshot/s1") == "deleted"
    assert bench.slots() == ["a"]


async def test_a_volume_that_is_attached_after_the_look_is_kept_by_the_array(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.later(2 * DAY)
    listed = bench.array.list_objects

    async def attach_meanwhile() -> object:
        found = await listed()
        await bench.array.attach_volume("b", attachment())
        return found

    bench.array.list_objects = attach_meanwhile  # type: ignore[method-assign, assignment]  # what happens in between
    result = await bench.result(used("a"), "volume/b")
    assert result.startswith("failed: ")
    assert bench.slots() == ["a", "b"]


async def test_what_is_no_longer_there_is_told(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    assert (await bench.report(used("a"), "volume/zzz")).absent == ("volume/zzz",)


async def test_damaged_sightings_count_as_none(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.damage_memory()
    bench.later(2 * DAY)
    assert "no earlier report" in await bench.result(used("a"), "volume/b")
    assert orphan_sightings.read(bench.memory).by_key


@given(
    st.sampled_from(ObjectKind),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_what_is_in_use_attached_damaged_or_unproven_never_may_be_deleted(
    kind: ObjectKind, listed: bool, attached: bool, broken: bool, known: bool, grouped: bool, snapshots_told: bool
) -> None:
    item = ArrayObject(
        kind,
        "a" if known else "",
        "a",
        "p",
        attached_to=("n",) if attached else (),
        group_id="g" if grouped else "",
        problem="broken" if broken else "",
    )
    handles = frozenset({"a"}) if listed else frozenset({"z"})
    in_use = InUse(handles, handles if snapshots_told else None)
    judged = judge("", item, in_use, ())
    deletable = not why_not_deleted(judged, 2 * DAY, DAY)
    is_snapshot = kind is ObjectKind.SNAPSHOT
    forbidden = listed or attached or grouped or not known or kind is ObjectKind.DAMAGED
    assert deletable == (not forbidden and (snapshots_told or not is_snapshot))


# The list of what is in use


async def test_a_list_that_makes_most_orphans_deletes_and_remembers_nothing_until_a_person_has_seen_it(
    bench: Bench,
) -> None:
    for volume_id in "abc":
        await bench.array.create_volume(spec(volume_id))
    outcome = await bench.report(used("a"))
    assert "2 of 3 volumes would be orphans" in outcome.doubt
    assert not bench.remembered()
    bench.most = True
    assert (await bench.report(used("a"))).doubt == ""
    bench.later(2 * DAY)
    assert await bench.result(used("a"), "volume/c") == "deleted"


async def test_a_list_without_a_volume_deletes_nothing_unless_it_says_so(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    refused = InUse(frozenset(), frozenset())
    await bench.report(NONE)
    bench.later(2 * DAY)
    assert "names no volumes" in await bench.result(refused, "volume/a")
    assert await bench.result(NONE, "volume/a") == "deleted"


async def test_a_list_whose_snapshots_were_refused_or_are_of_another_cluster_deletes_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    await bench.array.create_volume(spec("a"))
    await bench.array.create_snapshot("s1", "s1", "a")
    await bench.report(used("a", snapshots=frozenset()))
    bench.later(2 * DAY)
    refused = InUse(frozenset({"a"}), frozenset())
    assert "names no snapshots" in await bench.result(refused, "snapshot/s1")
    foreign = used("a", snapshots=frozenset({"zz"}))
    assert "none of the snapshots" in await bench.result(foreign, "snapshot/s1")
    assert await bench.result(used("a", snapshots=frozenset()), "snapshot/s1") == "deleted"


async def test_an_old_list_deletes_nothing_and_neither_does_one_from_the_future(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.later(2 * DAY)
    old = bench.now.wall - FRESH_SECONDS - 1
    assert "s old" in await bench.result(used("a"), "volume/b", old)
    assert "future" in await bench.result(used("a"), "volume/b", bench.now.wall + 3600)
    assert await bench.result(used("a"), "volume/b", old + 2) == "deleted"


async def test_both_lists_have_to_be_as_far_apart_as_the_reports(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    # Somebody copied today's list over the one that the first report read.
    await bench.report(used("a"), made=bench.now.wall + DAY + 1000)
    bench.later(DAY + 1000)
    assert "two lists of handles" in await bench.result(used("a"), "volume/b")


async def test_the_list_is_read_again_right_before_each_deletion(bench: Bench) -> None:
    for volume_id in "abcd":
        await bench.array.create_volume(spec(volume_id))
    await bench.report(used("a", "b"))
    bench.later(2 * DAY)
    lists = [used("a", "b"), used("a", "b"), used("a", "b", "d")]

    async def read() -> InUseList:
        return InUseList(lists.pop(0), bench.now.wall)

    outcome = await bench.report_by(read, "volume/c", "volume/d")
    assert line_of(outcome, "volume/c").result == "deleted"
    assert "the list has changed, and it is in use" in line_of(outcome, "volume/d").result
    assert bench.slots() == ["a", "b", "d"]


# That very thing, and nothing else


async def test_a_disk_that_was_made_anew_since_the_listing_is_kept(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.later(2 * DAY)
    listed = bench.array.list_objects

    async def make_anew() -> object:
        found = await listed()
        await bench.array.delete_volume("b")
        await bench.array.create_volume(spec("b"))
        return found

    bench.array.list_objects = make_anew  # type: ignore[method-assign, assignment]  # what happens in between
    assert "made anew since it was listed" in await bench.result(used("a"), "volume/b")
    assert bench.slots() == ["a", "b"]


async def test_a_snapshot_that_was_taken_anew_since_the_listing_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    await bench.array.create_volume(spec("a"))
    await bench.array.create_snapshot("s1", "s1", "a")
    (item,) = [item for item in await bench.array.list_objects() if item.kind is ObjectKind.SNAPSHOT]
    await bench.array.delete_snapshot("s1")
    await bench.array.create_snapshot("s1", "s1", "a")
    with pytest.raises(FailedPrecondition, match="made anew"):
        await bench.array.delete_object(item)
    assert bench.slots() == ["a", "s-s1"]


async def test_a_leftover_of_the_other_layout_is_deleted_by_its_path(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    plain = array_on(bench.device)
    for volume_id in "ab":
        await plain.create_volume(spec(volume_id))
    path = bench.device.by_slot("b").file_path
    del bench.device.disks[bench.device.by_slot("b").id]
    await bench.report(used("a"))
    bench.later(2 * DAY)
    assert await bench.result(used("a"), f"leftover/{path}") == "deleted"
    assert path not in bench.device.files


async def test_a_leftover_goes_without_the_volume_that_was_made_anew_under_its_id(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SnapshotMeans.BTRFS_SUBVOLUME)
    plain = array_on(bench.device)
    for volume_id in "ab":
        await plain.create_volume(spec(volume_id))
    path = bench.device.by_slot("b").file_path
    del bench.device.disks[bench.device.by_slot("b").id]
    # Nothing of the cluster's: an orphan as well, but not in the list.
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.later(2 * DAY)
    assert await bench.result(used("a"), f"leftover/{path}") == "deleted"
    assert path not in bench.device.files
    assert bench.slots() == ["a", "b"]


async def test_a_leftover_of_a_volume_whose_id_begins_like_a_snapshot_is_deleted(bench: Bench) -> None:
    volume_id = "s-longer-than-any-slot-that-is-plain-0001"
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec(volume_id))
    await bench.report(used("a", volume_id))
    (disk,) = [disk for disk in bench.device.disks.values() if disk.slot.startswith("s-")]
    del bench.device.disks[disk.id]
    key = f"leftover/{disk.file_path}"
    in_use = used("a")
    assert (await bench.verdicts(in_use))[key] is Verdict.ORPHAN
    bench.later(2 * DAY)
    assert await bench.result(in_use, key) == "deleted"
    assert disk.file_path not in bench.device.files


async def test_what_is_still_there_after_its_deletion_has_failed(bench: Bench) -> None:
    await bench.array.create_volume(spec("a"))
    await bench.array.create_volume(spec("b"))
    await bench.report(used("a"))
    bench.later(2 * DAY)

    async def do_nothing(item: ArrayObject) -> None:
        return

    bench.array.delete_object = do_nothing  # type: ignore[method-assign]  # a device that says yes and does nothing
    outcome = await bench.report(used("a"), "volume/b")
    line = line_of(outcome, "volume/b")
    assert (line.failed, line.result.startswith("failed: ")) == (True, True)


async def test_a_report_that_is_stopped_tells_what_was_deleted_and_what_not(bench: Bench) -> None:
    for volume_id in "abcd":
        await bench.array.create_volume(spec(volume_id))
    await bench.report(used("a", "b"))
    bench.later(2 * DAY)
    delete, begun = bench.array.delete_object, asyncio.Event()

    async def delete_slowly(item: ArrayObject) -> None:
        begun.set()
        await asyncio.sleep(0)
        await delete(item)

    async def read() -> InUseList:
        return InUseList(used("a", "b"), bench.now.wall)

    bench.array.delete_object = delete_slowly  # type: ignore[method-assign]  # a moment in which it can be stopped
    report = Report({"": bench.array}, bench.memory, lambda: bench.now, DAY, Workers())
    task = asyncio.create_task(report.run(read, ("volume/c", "volume/d")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert line_of(report.outcome, "volume/c").result == "deleted"
    assert line_of(report.outcome, "volume/d").result == "kept: the command was stopped before it"
    assert bench.slots() == ["a", "b", "d"]


# Arrays that are away


async def test_an_array_that_is_away_is_told_and_keeps_its_sightings(tmp_path: Path) -> None:
    fast, slow = MemoryDevice(), MemoryDevice()
    arrays = {"fast": array_on(fast), "slow": array_on(slow)}
    for volume_id in "ab":
        await arrays["fast"].create_volume(spec(volume_id))
    await arrays["slow"].create_volume(spec("c"))
    bench = Bench(tmp_path)

    async def report(*wanted: str) -> Outcome:
        async def read() -> InUseList:
            return InUseList(used("a"), bench.now.wall)

        made = Report(arrays, bench.memory, lambda: bench.now, DAY, Workers(), most=True)
        return await made.run(read, wanted)

    await report()
    bench.later(DAY)
    slow.away = True
    outcome = await report("fast:volume/b", "slow:volume/c")
    assert line_of(outcome, "fast:volume/b").result == "deleted"
    assert outcome.absent == ()
    assert list(outcome.away or {}) == ["slow"]
    slow.away = False
    bench.later(1)
    assert line_of(await report("slow:volume/c"), "slow:volume/c").result == "deleted"


# The command


async def test_the_command_reports_over_ssh_and_deletes_by_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in-use").write_text("# none\n")
    async with Simulator(SimulatorOptions(directory=tmp_path / "device")) as simulator:
        files = simulator.write_credentials(tmp_path / "credentials")
        url = (
            f"routeros+ssh://csi@127.0.0.1:{simulator.ssh_port}/?pool=raid10&key-file={files.client_key}"
            f"&known-hosts={files.known_hosts}"
        )
        settings = load_settings({"array": url, "state_dir": str(tmp_path / "state")})
        in_use = str(tmp_path / "in-use")
        assert await orphans(settings, in_use=in_use) == 0
        assert "Nothing of ours" in capsys.readouterr().out
        # What a killed probe leaves is a volume of ours.
        from rds_csi.arrays.routeros.options import parse
        from rds_csi.arrays.routeros.probe import Probe
        from rds_csi.arrays.routeros.recording import Recorder, open_recorded

        options, recorder = parse(url, settings), Recorder()
        client = open_recorded(options, recorder, Workers(limit=2))
        probe = Probe(client, options, recorder, "0123abcd")
        await probe.contact()
        await probe._create()
        await client.close()
        assert await orphans(settings, in_use=in_use) == 1
        assert "orphan   volume/rds-csi-probe-0123abcd  16 MiB" in capsys.readouterr().out
        (tmp_path / "delete").write_text("volume/rds-csi-probe-0123abcd\n")
        assert await orphans(settings, in_use=in_use, delete=str(tmp_path / "delete")) == 1
        assert "kept: it was seen first" in capsys.readouterr().out
        assert await orphans(settings, in_use=in_use, delete=str(tmp_path / "delete"), apart=0, as_json=True) == 0
        (told,) = json.loads(capsys.readouterr().out)["objects"]
        assert (told["id"], told["result"]) == ("volume/rds-csi-probe-0123abcd", "deleted")
        assert await orphans(settings, in_use=in_use) == 0


async def test_the_command_refuses_what_cannot_be_used(tmp_path: Path) -> None:
    settings = load_settings({"array": f"local://{tmp_path}/images", "state_dir": str(tmp_path / "state")})
    with pytest.raises(ConfigurationError, match="--in-use"):
        await orphans(settings, delete="list")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await orphans(settings, in_use=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="does not tell what is on it"):
        await orphans(settings)
    for apart in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigurationError, match="--apart"):
            await orphans(settings, apart=apart)


async def test_the_command_ends_with_1_and_says_so_when_the_array_is_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = f"routeros+ssh://csi@127.0.0.1:1/?pool=raid10&key-file={tmp_path}/none&known-hosts={tmp_path}/none"
    settings = load_settings({"array": array, "state_dir": str(tmp_path / "state")})
    assert await orphans(settings) == 1
    told = capsys.readouterr().out
    assert "not looked at: the array" in told
    assert "Nothing of ours" not in told


async def test_the_command_refuses_a_list_with_anything_but_ids_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "in-use").write_text("# none\n")
    (tmp_path / "delete").write_text("volume/a\npvc-1\n")
    array = f"routeros+ssh://csi@127.0.0.1:1/?pool=raid10&key-file={tmp_path}/none&known-hosts={tmp_path}/none"
    settings = load_settings({"array": array, "state_dir": str(tmp_path / "state")})
    with pytest.raises(ConfigurationError, match="pvc-1"):
        await orphans(settings, in_use=str(tmp_path / "in-use"), delete=str(tmp_path / "delete"))


def test_an_array_s_name_is_part_of_the_key() -> None:
    item = ArrayObject(ObjectKind.VOLUME, "a", "a", "p")
    assert judge("fast", item, NONE, ()).key == "fast:volume/a"
    assert judge("", replace(item, kind=ObjectKind.LEFTOVER), NONE, ()).key == "leftover/p"


async def test_a_volume_of_the_go_driver_without_a_mark_is_never_an_orphan(bench: Bench) -> None:
    other = VOLUME.replace("0f0e", "aaaa")
    for slot in (VOLUME, other):
        nqn = f"nqn.2000-02.com.mikrotik:{slot}"
        properties = {"type": "file", "file_path": f"raid10/{slot}.img", "size": 1 << 30, "port": 4420}
        bench.device.put(slot=slot, nqn=nqn, exported=True, **properties)
    bench.array = array_on(bench.device, driver="rds.csi.srvlab.io")
    assert set((await bench.verdicts(None)).values()) == {Verdict.NOT_JUDGED}
    in_use = used(VOLUME)
    expected = {f"volume/{VOLUME}": Verdict.IN_USE, f"volume/{other}": Verdict.UNPROVEN}
    assert await bench.verdicts(in_use) == expected
    bench.later(2 * DAY)
    assert "it carries no mark yet" in await bench.result(in_use, f"volume/{other}")
    assert bench.slots() == sorted([VOLUME, other])
    await bench.array.attach_volume(other, attachment())
    await bench.array.detach_volume(other, "")
    assert (await bench.verdicts(in_use))[f"volume/{other}"] is Verdict.ORPHAN
