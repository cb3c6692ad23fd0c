"""Several arrays behind one: where volumes are found and made, and what an array that is away takes with it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rds_csi.arrays.protocol import ArrayOptions, ArrayTraits, Feature
from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.arrays.several import SeveralArrays, open_array
from rds_csi.arrays.several_config import parse_config
from rds_csi.arrays.several_search import Kind, Search
from rds_csi.errors import (
    ConfigurationError,
    DriverError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.volumes import Finding, Volume, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers
from tests.support.routeros_arrays import array_on, attachment, device_for, from_snapshot, from_volume, spec
from tests.support.routeros_memory import MemoryDevice

BTRFS = SnapshotMeans.BTRFS_SUBVOLUME


class Pair:
    """The arrays ``fast`` (the default, with snapshots) and ``slow`` (without), and the devices behind them."""

    def __init__(self, fast_means: SnapshotMeans = BTRFS, slow_means: SnapshotMeans = SnapshotMeans.NONE) -> None:
        self.fast = device_for(fast_means)
        self.slow = device_for(slow_means)
        self.means = {"fast": fast_means, "slow": slow_means}
        self.arrays = self.open()

    def open(self) -> SeveralArrays:
        """Like a process that has just started."""
        children = {
            "fast": array_on(self.fast, snapshots=self.means["fast"]),
            "slow": array_on(self.slow, snapshots=self.means["slow"]),
        }
        return SeveralArrays(children, "fast")

    def slots(self, name: str) -> list[str]:
        device: MemoryDevice = getattr(self, name)
        return sorted(disk.slot for disk in device.disks.values() if disk.type == "file")


@pytest.fixture
def pair() -> Pair:
    return Pair()


# Where volumes are made


@pytest.mark.parametrize(
    ("pool", "name", "told"),
    [
        ("", "fast", "fast/raid10"),
        ("fast", "fast", "fast"),
        ("slow", "slow", "slow"),
        ("slow/raid10", "slow", "slow/raid10"),
    ],
)
async def test_the_pool_chooses_the_array_and_its_pool(pair: Pair, pool: str, name: str, told: str) -> None:
    volume = await pair.arrays.create_volume(spec("v", pool=pool))
    assert pair.slots(name) == ["v"]
    assert pair.slots("slow" if name == "fast" else "fast") == []
    assert volume.pool == told
    assert await pair.arrays.create_volume(spec("v", pool=pool)) == volume


@pytest.mark.parametrize("pool", ["fats", "slow/", "slow/other", "raid10", "/fast", "fast//raid10"])
async def test_a_pool_that_is_not_there_is_refused(pair: Pair, pool: str) -> None:
    with pytest.raises(InvalidArgument):
        await pair.arrays.create_volume(spec("v", pool=pool))
    with pytest.raises(InvalidArgument):
        await pair.arrays.capacity(pool)
    assert pair.slots("fast") == pair.slots("slow") == []


async def test_a_misspelt_array_is_told_with_the_nearest_one(pair: Pair) -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'fast'"):
        await pair.arrays.create_volume(spec("v", pool="fats"))


async def test_a_volume_that_another_array_has_is_returned_and_not_made_twice(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v", pool="slow"))
    volume = await pair.open().create_volume(spec("v", pool="fast"))
    assert volume.pool == "slow/raid10"
    assert (pair.slots("fast"), pair.slots("slow")) == ([], ["v"])


async def test_a_volume_is_made_although_another_array_is_away(pair: Pair) -> None:
    pair.slow.away = True
    assert (await pair.arrays.create_volume(spec("v"))).volume_id == "v"


async def test_a_volume_of_an_array_that_is_away_is_not_made_elsewhere(pair: Pair) -> None:
    pair.slow.away = True
    with pytest.raises(Unavailable):
        await pair.arrays.create_volume(spec("v", pool="slow"))
    assert pair.slots("fast") == []


# Where they are found


async def test_a_volume_is_found_wherever_it_is(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("a", pool="fast"))
    await pair.arrays.create_volume(spec("b", pool="slow"))
    arrays = pair.open()
    assert [(await arrays.get_volume(volume_id)).pool for volume_id in "ab"] == ["fast/raid10", "slow/raid10"]
    assert [volume.volume_id for volume in await arrays.list_volumes()] == ["a", "b"]


async def test_a_volume_is_looked_for_first_where_it_was_seen_last(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("b", pool="slow"))
    asked = len(pair.fast.calls)
    await pair.arrays.get_volume("b")
    await pair.arrays.attach_volume("b", attachment())
    assert len(pair.fast.calls) == asked


async def test_a_volume_that_is_no_longer_where_it_was_seen_is_looked_for_everywhere(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v", pool="slow"))
    other = pair.open()
    await other.delete_volume("v")
    await other.create_volume(spec("v", pool="fast"))
    assert (await pair.arrays.get_volume("v")).pool == "fast/raid10"
    await pair.arrays.attach_volume("v", attachment())
    assert [item.node.node_id for item in (await other.get_volume("v")).attachments] == ["node-1"]


async def test_found_in_one_is_found_although_the_other_is_away(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v", pool="fast"))
    pair.slow.away = True
    arrays = pair.open()
    assert (await arrays.get_volume("v")).volume_id == "v"
    assert (await arrays.attach_volume("v", attachment())).attachments
    await arrays.detach_volume("v", "node-1")
    await arrays.expand_volume("v", 2 * GIB)
    assert await arrays.health("v") == []
    await arrays.delete_volume("v")
    assert pair.slots("fast") == []


async def test_found_in_none_while_one_is_away_is_unavailable_and_names_it(pair: Pair) -> None:
    pair.slow.away = True
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: pair.arrays.get_volume("v"),
        lambda: pair.arrays.delete_volume("v"),
        lambda: pair.arrays.detach_volume("v", "node-1"),
        lambda: pair.arrays.attach_volume("v", attachment()),
        lambda: pair.arrays.health("v"),
        lambda: pair.arrays.get_snapshot("s"),
        lambda: pair.arrays.delete_snapshot("s"),
        lambda: pair.arrays.create_snapshot("s", "s", "v"),
        lambda: pair.arrays.get_group("g"),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="slow"):
            await call()


async def test_found_in_none_of_all_is_not_found(pair: Pair) -> None:
    with pytest.raises(NotFound):
        await pair.arrays.get_volume("v")
    await pair.arrays.delete_volume("v")
    await pair.arrays.detach_volume("v", "node-1")


async def test_found_in_two_is_touched_in_neither(pair: Pair) -> None:
    await array_on(pair.fast, snapshots=BTRFS).create_volume(spec("v"))
    await array_on(pair.slow).create_volume(spec("v"))
    for call in (
        pair.arrays.get_volume("v"),
        pair.arrays.delete_volume("v"),
        pair.arrays.attach_volume("v", attachment()),
        pair.arrays.list_volumes(),
    ):
        with pytest.raises(FailedPrecondition, match="fast and slow"):
            await call
    assert (pair.slots("fast"), pair.slots("slow")) == (["v"], ["v"])


async def test_an_incomplete_list_is_unavailable(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v"))
    pair.slow.away = True
    with pytest.raises(Unavailable, match="slow"):
        await pair.arrays.list_volumes()
    assert await pair.arrays.list_snapshots() == []
    pair.fast.away = True
    with pytest.raises(Unavailable, match="fast"):
        await pair.arrays.list_snapshots()


async def test_what_a_killed_deletion_left_is_removed_wherever_it_is(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v", pool="slow"))
    del pair.slow.disks[pair.slow.by_slot("v").id]
    await pair.open().delete_volume("v")
    assert pair.slow.files == {}


async def test_an_array_that_nobody_may_enter_is_told_with_its_remedy(pair: Pair) -> None:
    class Locked(RouterosArray):
        async def get_volume(self, volume_id: str) -> Volume:
            raise FailedPrecondition("the device refused the key", remedy="Import it.")

    locked = Locked(pair.arrays.children["slow"].options, None)  # type: ignore[arg-type, attr-defined]  # never asked
    await pair.arrays.create_volume(spec("v"))
    arrays = SeveralArrays({"fast": pair.arrays.children["fast"], "slow": locked}, "fast")
    assert (await arrays.get_volume("v")).volume_id == "v"
    with pytest.raises(FailedPrecondition, match=r"slow.*Import it"):
        await arrays.get_volume("w")


async def test_a_slow_array_does_not_hold_up_what_another_one_has(pair: Pair) -> None:
    never = asyncio.Event()

    class Stuck(RouterosArray):
        async def get_volume(self, volume_id: str) -> Volume:
            await never.wait()
            raise AssertionError

    stuck = Stuck(pair.arrays.children["slow"].options, None)  # type: ignore[arg-type, attr-defined]  # never asked
    await pair.arrays.create_volume(spec("v"))
    arrays = SeveralArrays({"fast": pair.arrays.children["fast"], "slow": stuck}, "fast", patience=0.01)
    assert (await arrays.get_volume("v")).volume_id == "v"
    assert (await arrays.create_volume(spec("w"))).volume_id == "w"


def test_the_memory_of_where_things_were_is_bounded() -> None:
    search = Search({}, patience=1.0, remembered=2)
    for volume_id in "abc":
        search.note(Kind.VOLUME, volume_id, "fast")
    assert [search.last_seen(Kind.VOLUME, volume_id) for volume_id in "abc"] == ["", "fast", "fast"]
    assert search.last_seen(Kind.SNAPSHOT, "c") == ""


# What they can do


def test_the_traits_are_those_that_all_can_live_with() -> None:
    class Fixed(RouterosArray):
        def __init__(self, traits: ArrayTraits) -> None:
            self._fixed = traits

        @property
        def traits(self) -> ArrayTraits:
            return self._fixed

    one = ArrayTraits("one", Feature.EXPANSION, MIB, MIB, GIB + MIB, needs_host_nqn=True)
    two = ArrayTraits("two", Feature.SNAPSHOTS, 4 * MIB, 2 * MIB, GIB)
    traits = SeveralArrays({"one": Fixed(one), "two": Fixed(two)}, "one").traits
    assert traits.features == Feature.EXPANSION | Feature.SNAPSHOTS
    assert (traits.granularity, traits.minimum_volume_size) == (4 * MIB, 4 * MIB)
    assert traits.maximum_volume_size == GIB
    assert traits.needs_host_nqn


async def test_what_the_volume_s_array_cannot_do_is_a_failed_precondition(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v", pool="slow"))
    with pytest.raises(FailedPrecondition, match="slow cannot take snapshots"):
        await pair.arrays.create_snapshot("s", "s", "v")
    with pytest.raises(FailedPrecondition, match="slow cannot take group snapshots"):
        await pair.arrays.create_group("g", "g", ["v"])
    with pytest.raises(FailedPrecondition, match="slow cannot clone"):
        await pair.arrays.create_volume(spec("w", source=from_volume("v")))


async def test_a_size_that_only_another_array_could_give_is_out_of_range(pair: Pair) -> None:
    too_large = pair.arrays.children["slow"].traits.maximum_volume_size + MIB
    with pytest.raises(OutOfRange, match="slow"):
        await pair.arrays.create_volume(spec("v", too_large, pool="slow"))
    await pair.arrays.create_volume(spec("v", pool="slow"))
    with pytest.raises(OutOfRange, match="slow"):
        await pair.arrays.expand_volume("v", too_large)


async def test_capacity_is_that_of_the_chosen_array(pair: Pair) -> None:
    pair.slow.size = 10 * GIB
    assert (await pair.arrays.capacity("slow")).available == 10 * GIB
    assert (await pair.arrays.capacity("slow/raid10")).available == 10 * GIB
    assert (await pair.arrays.capacity("")).available == 100 * GIB
    pair.slow.away = True
    assert (await pair.arrays.capacity("")).available == 100 * GIB
    with pytest.raises(Unavailable):
        await pair.arrays.capacity("slow")


# Snapshots


async def test_a_restore_goes_to_the_array_of_its_snapshot() -> None:
    pair = Pair(slow_means=BTRFS)
    await pair.arrays.create_volume(spec("v", pool="slow"))
    await pair.arrays.create_snapshot("s", "s", "v")
    arrays = pair.open()
    for volume_id, source in (("restored", from_snapshot("s")), ("cloned", from_volume("v"))):
        assert (await arrays.create_volume(spec(volume_id, source=source))).pool == "slow/raid10"
        assert (await arrays.create_volume(spec(f"{volume_id}-2", pool="slow", source=source))).pool == "slow"
        with pytest.raises(InvalidArgument, match="in the array slow, not in fast"):
            await arrays.create_volume(spec(f"{volume_id}-3", pool="fast", source=source))
    assert pair.slots("fast") == []


async def test_a_volume_whose_source_is_gone_is_returned_as_it_is(pair: Pair) -> None:
    await pair.arrays.create_volume(spec("v"))
    await pair.arrays.create_snapshot("s", "s", "v")
    wish = spec("restored", source=from_snapshot("s"))
    made = await pair.arrays.create_volume(wish)
    await pair.arrays.delete_snapshot("s")
    assert await pair.open().create_volume(wish) == made
    with pytest.raises(NotFound):
        await pair.arrays.create_volume(replace(wish, volume_id="other", name="other"))


async def test_a_snapshot_is_taken_once_whatever_volume_is_asked_for() -> None:
    pair = Pair(slow_means=BTRFS)
    await pair.arrays.create_volume(spec("a", pool="fast"))
    await pair.arrays.create_volume(spec("b", pool="slow"))
    first = await pair.arrays.create_snapshot("s", "s", "a")
    assert await pair.open().create_snapshot("s", "s", "b") == first
    assert await pair.arrays.list_snapshots() == [first]
    await pair.open().delete_snapshot("s")
    assert await pair.arrays.list_snapshots() == []


async def test_a_group_is_of_volumes_in_one_array() -> None:
    pair = Pair(slow_means=BTRFS)
    await pair.arrays.create_volume(spec("a", pool="slow"))
    await pair.arrays.create_volume(spec("b", pool="slow"))
    await pair.arrays.create_volume(spec("c", pool="fast"))
    with pytest.raises(FailedPrecondition, match="fast and slow"):
        await pair.arrays.create_group("g", "g", ["a", "c"])
    group = await pair.arrays.create_group("g", "g", ["a", "b"])
    arrays = pair.open()
    assert await arrays.get_group("g") == group
    assert await arrays.create_group("g", "g", ["a", "b"]) == group
    await arrays.delete_group("g")
    with pytest.raises(NotFound):
        await pair.open().get_group("g")


# Life


class Starting(RouterosArray):
    """An array of which only the start matters."""

    def __init__(self, error: DriverError | None = None) -> None:
        self.error = error
        self.started = self.closed = False

    async def start(self) -> None:
        self.started = True
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed = True

    async def check(self) -> Sequence[Finding]:
        return [Finding("pool", self.error is None, "looked at")]


async def test_one_that_is_away_does_not_keep_the_others_from_starting() -> None:
    one, two = Starting(Unavailable("away")), Starting()
    await SeveralArrays({"one": one, "two": two}, "one").start()
    assert (one.started, two.started) == (True, True)


async def test_one_whose_url_cannot_work_stops_all() -> None:
    one, two = Starting(), Starting(ConfigurationError("no such thing", remedy="Correct it."))
    with pytest.raises(ConfigurationError, match=r"array two: no such thing\. Correct it\."):
        await SeveralArrays({"one": one, "two": two}, "one").start()
    assert (one.closed, two.closed) == (True, True)


async def test_findings_say_of_which_array_they_are() -> None:
    arrays = SeveralArrays({"one": Starting(), "two": Starting(Unavailable("away"))}, "one")
    assert [(item.subject, item.ok) for item in await arrays.check()] == [("one: pool", True), ("two: pool", False)]


# The file

GOOD = """
default = "fast"
[arrays.fast]
url = "local:///a"
[arrays.slow]
url = "local:///b"
"""


def test_the_file_names_arrays_and_the_default() -> None:
    config = parse_config(GOOD, "arrays.toml")
    assert (config.default, dict(config.urls)) == ("fast", {"fast": "local:///a", "slow": "local:///b"})


def test_a_single_array_needs_no_default() -> None:
    assert parse_config('[arrays.a]\nurl = "local:///a"\n', "arrays.toml").default == "a"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('default = "fast"\n', "", "does not say which array is the default"),
        ('default = "fast"', 'default = "fats"', "did you mean 'fast'"),
        ('default = "fast"', "default = 1", "none of its arrays"),
        ('default = "fast"', 'defualt = "fast"', "did you mean 'default'"),
        ("[arrays.slow]\nurl", "[arrays.slow]\nulr", r"in \[arrays\.slow\] \(did you mean 'url'"),
        ("[arrays.slow]", "[arrays.Slow]", "array name 'Slow'"),
        ('url = "local:///b"', "url = 3", "no url"),
        ('url = "local:///b"', 'url = "local"', "no url"),
        ('url = "local:///b"', 'url = "config:///c"', "do not nest"),
        ('url = "local:///b"', 'url = "local:///a"', "one URL for the arrays"),
        ('[arrays.slow]\nurl = "local:///b"', "[arrays]\nslow = 1", "TOML|no table"),
        ("[arrays.fast]", "[arrays.fast", "no TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_sentence(old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigurationError, match=words):
        parse_config(GOOD.replace(old, new), "arrays.toml")


def test_a_file_without_arrays_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names no array"):
        parse_config("", "arrays.toml")


def array_options(directory: Path) -> ArrayOptions:
    return ArrayOptions(ProcessRunner(), Workers(), HostPaths(str(directory)), "nqn.2026-01.io.x:")


async def test_the_arrays_of_a_file_are_opened_by_their_schemes(tmp_path: Path) -> None:
    path = tmp_path / "arrays.toml"
    path.write_text(GOOD.replace("local:///", f"local://{tmp_path}/"))
    arrays = open_array(f"config://{path}", array_options(tmp_path))
    assert list(arrays.children) == ["fast", "slow"]
    await arrays.start()
    volume = await arrays.create_volume(VolumeSpec("v", "v", MIB, pool="slow"))
    assert volume.pool == "slow"
    assert (await arrays.get_volume("v")).pool == "slow"
    assert await arrays.check()
    await arrays.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("config:///nowhere/arrays.toml", "cannot be read"),
        ("config://host/arrays.toml", "on this machine"),
        ("config:///", "root"),
        ("config:///a?b=c", "unknown key"),
    ],
)
def test_a_url_that_names_no_file_is_refused(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        open_array(url, array_options(tmp_path))


@pytest.mark.parametrize("url", ["locla:///b", "routeros+ssh://192.0.2.1/?pool=raid10"])
def test_an_array_that_cannot_be_opened_is_named(tmp_path: Path, url: str) -> None:
    path = tmp_path / "arrays.toml"
    path.write_text(GOOD.replace("local:///a", f"local://{tmp_path}/a").replace("local:///b", url))
    with pytest.raises(ConfigurationError, match="array slow: "):
        open_array(f"config://{path}", array_options(tmp_path))
