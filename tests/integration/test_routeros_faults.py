"""The fault matrix: every command that changes a RouterOS array, every fault, in every request, over both transports.

Under the fault the call ends in time, well or with the right error; once the fault is over the same call comes to what
it should, as if nothing had been: one disk and one file for each volume and snapshot, and nothing else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.mark import Kind
from rds_csi.deadline import set_deadline
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from rds_csi.model.names import id_for_name
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.simulator.faults import CONDITIONS, Fault, FaultKind
from rds_csi.simulator.options import DRIVER_GROUP
from tests.support.routeros_world import BTRFS, SIZE, TRANSPORTS, XFS, World, world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

# Seconds that a caller gives a call while something is silent, and otherwise.
IMPATIENT, PATIENT = 0.15, 6.0
# Seconds beyond the deadline in which a call must have ended on a busy machine.
GRACE = 3.0
# How long what is silent or slow stays so, in seconds: beyond the caller's time.
SILENCE = 0.3
REPEATS = 8

NODE = Attachment(Node("node-1", "nqn.2014-08.org.nvmexpress:uuid:1"), "token", AccessMode.SINGLE_NODE_WRITER)


def spec(volume_id: str, size: int = SIZE, source: ContentSource | None = None) -> VolumeSpec:
    return VolumeSpec(volume_id, volume_id, size, source=source)


def of_volume(volume_id: str) -> ContentSource:
    return ContentSource(SourceKind.VOLUME, volume_id)


def of_snapshot(snapshot_id: str) -> ContentSource:
    return ContentSource(SourceKind.SNAPSHOT, snapshot_id)


def members(tag: str) -> tuple[str, str]:
    """The ids of the snapshots of a group of the volumes a and b."""
    return id_for_name(f"{tag}g-{tag}a"), id_for_name(f"{tag}g-{tag}b")


async def volume(array: RouterosArray, tag: str) -> None:
    await array.create_volume(spec(f"{tag}a"))


async def two_volumes(array: RouterosArray, tag: str) -> None:
    await volume(array, tag)
    await array.create_volume(spec(f"{tag}b"))


async def attached(array: RouterosArray, tag: str) -> None:
    await volume(array, tag)
    await array.attach_volume(f"{tag}a", NODE)


async def snapshotted(array: RouterosArray, tag: str) -> None:
    await volume(array, tag)
    for _ in range(REPEATS):
        if (await array.create_snapshot(f"{tag}s", f"{tag}s", f"{tag}a")).ready:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the snapshot does not become ready")


async def grouped(array: RouterosArray, tag: str) -> None:
    await two_volumes(array, tag)
    await array.create_group(f"{tag}g", f"{tag}g", [f"{tag}a", f"{tag}b"])


async def nothing(_array: RouterosArray, _tag: str) -> None:
    return


@dataclass(frozen=True)
class Deed:
    """A command on the objects of one ``tag``: the call, what is there before, and the sizes of what is there after."""

    call: Callable[[RouterosArray, str], Awaitable[object]]
    before: Callable[[RouterosArray, str], Awaitable[None]] = nothing
    volumes: Callable[[str], dict[str, int]] = lambda _tag: {}
    snapshots: Callable[[str], tuple[str, ...]] = lambda _tag: ()


def one(tag: str) -> dict[str, int]:
    return {f"{tag}a": SIZE}


def both(tag: str) -> dict[str, int]:
    return {f"{tag}a": SIZE, f"{tag}b": SIZE}


VOLUMES = {
    "create": Deed(lambda array, tag: array.create_volume(spec(f"{tag}a")), volumes=one),
    "delete": Deed(lambda array, tag: array.delete_volume(f"{tag}a"), volume),
    "grow": Deed(
        lambda array, tag: array.expand_volume(f"{tag}a", 3 * SIZE), volume, volumes=lambda tag: {f"{tag}a": 3 * SIZE}
    ),
    "modify": Deed(lambda array, tag: array.modify_volume(f"{tag}a", {"key": "value"}), volume, volumes=one),
    "attach": Deed(lambda array, tag: array.attach_volume(f"{tag}a", NODE), volume, volumes=one),
    "detach": Deed(lambda array, tag: array.detach_volume(f"{tag}a", "node-1"), attached, volumes=one),
}
COPIES = {
    "snapshot": Deed(
        lambda array, tag: array.create_snapshot(f"{tag}s", f"{tag}s", f"{tag}a"),
        volume,
        volumes=one,
        snapshots=lambda tag: (f"{tag}s",),
    ),
    "delete-snapshot": Deed(lambda array, tag: array.delete_snapshot(f"{tag}s"), snapshotted, volumes=one),
    "clone": Deed(
        lambda array, tag: array.create_volume(spec(f"{tag}b", source=of_volume(f"{tag}a"))), volume, volumes=both
    ),
    "restore": Deed(
        lambda array, tag: array.create_volume(spec(f"{tag}b", 2 * SIZE, of_snapshot(f"{tag}s"))),
        snapshotted,
        volumes=lambda tag: {f"{tag}a": SIZE, f"{tag}b": 2 * SIZE},
        snapshots=lambda tag: (f"{tag}s",),
    ),
}
GROUPS = {
    "group": Deed(
        lambda array, tag: array.create_group(f"{tag}g", f"{tag}g", [f"{tag}a", f"{tag}b"]),
        two_volumes,
        volumes=both,
        snapshots=members,
    ),
    "delete-group": Deed(lambda array, tag: array.delete_group(f"{tag}g"), grouped, volumes=both),
}
# Pool, means for snapshots, and commands.
LAYOUTS: dict[str, tuple[str, str, dict[str, Deed]]] = {
    "file": (XFS, "none", VOLUMES),
    "copy": (XFS, "file-copy", COPIES),
    "btrfs": (BTRFS, "btrfs-subvolume", {**VOLUMES, **COPIES, **GROUPS}),
}
# Every command, each in the layout of which most is asked.
WHOLE = {"file": tuple(VOLUMES), "btrfs": (*COPIES, *GROUPS)}
# What is done differently in another layout, with the faults that it could meet differently.
OTHERS = {"copy": ("snapshot", "clone", "restore"), "btrfs": ("create", "delete")}
OTHER_FAULTS = (FaultKind.LOSE_REPLY, FaultKind.DROP_BEFORE, FaultKind.NO_SPACE, FaultKind.REBOOT)

# What keeps a call from coming to its end, or its end from being known.
SILENT = (FaultKind.SLOW, FaultKind.HANG, FaultKind.CHANNEL_OPEN_BLOCKED)
BROKEN = (
    *(FaultKind.CUT_REPLY, FaultKind.LOSE_REPLY, FaultKind.DROP_BEFORE, FaultKind.CORRUPT_JSON),
    *(FaultKind.REBOOT, FaultKind.SESSIONS_EXHAUSTED),
)
# What stays until somebody mends it.
LASTING = {*CONDITIONS, FaultKind.WRONG_POLICY, FaultKind.CORRUPT_JSON, FaultKind.SESSIONS_EXHAUSTED}
REFUSALS = {
    FaultKind.NO_SPACE: ResourceExhausted,
    FaultKind.READ_ONLY_POOL: FailedPrecondition,
    FaultKind.WRONG_POLICY: FailedPrecondition,
}


@dataclass
class Bench:
    """The world that all cases share, and how many requests each command takes where nothing is wrong."""

    directory: Path
    world: World
    stack: AsyncExitStack
    requests: dict[tuple[str, str, str], int] = field(default_factory=dict)
    opened: dict[tuple[str, str, str], RouterosArray] = field(default_factory=dict)
    before: str = ""
    cases: int = 0

    def tag(self) -> str:
        """Begins the ids of one case."""
        self.cases += 1
        return f"t{self.cases}"

    def asked(self) -> int:
        counters = self.world.simulator.counters
        return counters.execs + counters.requests

    async def array(self, transport: str, layout: str, controller: str) -> RouterosArray:
        """The array as that controller has it, kept for all cases."""
        key = (transport, layout, controller)
        if key not in self.opened:
            pool, snapshots, _ = LAYOUTS[layout]
            opened = self.world.array(transport, pool=pool, snapshots=snapshots)
            self.opened[key] = await self.stack.enter_async_context(opened)
        return self.opened[key]

    async def renew(self) -> None:
        """A new world: what a failed case has left is not the next one's failure."""
        await self.stack.aclose()
        self.opened.clear()
        self.cases += 1
        self.world = await self.stack.enter_async_context(world(self.directory / str(self.cases)))
        self.before = self.world.foreign()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """Everything of others is in the end as it was."""
    directory = tmp_path_factory.mktemp("worlds")
    async with AsyncExitStack() as stack:
        made = Bench(directory, await stack.enter_async_context(world(directory / "0")), stack)
        made.before = made.world.foreign()
        yield made
        assert made.world.is_bare(), made.world.census()
        assert made.world.foreign() == made.before


def cases() -> Iterator[tuple[str, str, str, FaultKind]]:
    """Transport, layout, command, fault."""
    for transport in TRANSPORTS:
        for chosen, kinds in ((WHOLE, tuple(FaultKind)), (OTHERS, OTHER_FAULTS)):
            for layout, names in chosen.items():
                yield from ((transport, layout, name, kind) for name in names for kind in kinds)


def title(value: object) -> str:
    return value.value if isinstance(value, FaultKind) else str(value)


@pytest.mark.parametrize(("transport", "layout", "name", "kind"), list(cases()), ids=title)
async def test_a_call_under_a_fault_ends_and_comes_to_its_end_later(
    bench: Bench, transport: str, layout: str, name: str, kind: FaultKind
) -> None:
    case = Case(bench, transport, LAYOUTS[layout][2][name], kind, layout)
    try:
        await case.run((transport, layout, name))
    except BaseException:
        await bench.renew()
        raise


def read_only_cases() -> list[tuple[str, str, str]]:
    """Transport, layout, command."""
    return [(transport, layout, name) for transport in TRANSPORTS for layout, names in WHOLE.items() for name in names]


@pytest.mark.parametrize(("transport", "layout", "name"), read_only_cases())
async def test_a_user_who_may_only_read_is_told_so_and_changes_nothing(
    bench: Bench, transport: str, layout: str, name: str
) -> None:
    """Over REST such a user's DELETE and PATCH are refused in the words for what is not there: nothing is gone."""
    case = Case(bench, transport, LAYOUTS[layout][2][name], FaultKind.WRONG_POLICY, layout)
    try:
        await case.without_write()
    except BaseException:
        await bench.renew()
        raise


@dataclass
class Case:
    """One cell of the matrix."""

    bench: Bench
    transport: str
    deed: Deed
    kind: FaultKind
    layout: str

    async def run(self, name: tuple[str, str, str]) -> None:
        """The fault in a request of the call, and in all of them."""
        if name not in self.bench.requests:
            self.bench.requests[name] = await self.well()
        if self.kind in LASTING:
            await self.strike(Fault(self.kind, times=0))
        if self.kind not in CONDITIONS:
            seconds = SILENCE if self.kind in SILENT else 0.0
            for position in self.positions(self.bench.requests[name]):
                await self.strike(Fault(self.kind, seconds=seconds, skip=position))

    def positions(self, requests: int) -> Iterable[int]:
        """Which requests the fault strikes: the last one changes something; several, where it matters most."""
        if self.kind in (FaultKind.SESSIONS_EXHAUSTED, FaultKind.CHANNEL_OPEN_BLOCKED):
            # The connection itself fails.
            return (0,)
        if self.kind in (FaultKind.LOSE_REPLY, FaultKind.DROP_BEFORE):
            return sorted({0, 1, requests // 2, requests - 2, requests - 1} & set(range(requests)))
        return (requests - 1,)

    async def arrays(self) -> tuple[RouterosArray, RouterosArray]:
        """The array that is struck, and that of another controller, which has seen nothing of it."""
        mine = await self.bench.array(self.transport, self.layout, "mine")
        return mine, await self.bench.array(self.transport, self.layout, "other")

    async def well(self) -> int:
        """Without a fault; how many requests it takes."""
        tag = self.bench.tag()
        mine, other = await self.arrays()
        # With this, the first contact is behind them, and the base directory is there.
        for array in (mine, other):
            await volume(array, tag)
            await array.delete_volume(f"{tag}a")
        await self.deed.before(mine, tag)
        before = self.bench.asked()
        await self.deed.call(mine, tag)
        asked = self.bench.asked() - before
        await self.settle(mine, tag)
        await self.sweep(other, tag)
        return asked

    async def strike(self, fault: Fault) -> None:
        """With the fault, then without it."""
        tag, simulator = self.bench.tag(), self.bench.world.simulator
        mine, other = await self.arrays()
        await self.deed.before(mine, tag)
        if fault.kind is FaultKind.SESSIONS_EXHAUSTED:
            simulator.drop_connections()
        begun = time.monotonic()
        simulator.faults.add(fault)
        try:
            error = await self.under(mine, tag)
        finally:
            simulator.faults.clear()
        self.judge(fault, error)
        await self.settle(mine, tag)
        # What is done long after its caller has gone: a volume that is made after it was deleted is an orphan, which
        # nobody can prevent.
        await asyncio.sleep(max(0.0, begun + fault.seconds + 0.1 - time.monotonic()) if fault.seconds else 0.0)
        await self.sweep(other, tag)

    async def without_write(self) -> None:
        """While the user's group lacks the policy ``write``, then with it."""
        tag, groups = self.bench.tag(), self.bench.world.simulator.device.groups
        mine, other = await self.arrays()
        await self.deed.before(mine, tag)
        before = self.bench.world.census()
        group = groups.named(DRIVER_GROUP.name)
        assert group is not None
        await groups.set(group.id, {"policy": "!write"})
        try:
            error = await self.under(mine, tag)
        finally:
            await groups.set(group.id, {"policy": "write"})
        assert isinstance(error, FailedPrecondition), error
        assert "polic" in str(error)
        assert self.bench.world.census() == before
        await self.settle(mine, tag)
        await self.sweep(other, tag)

    async def under(self, array: RouterosArray, tag: str) -> DriverError | None:
        """The call under the fault: its error, and that it ends in time."""
        seconds = IMPATIENT if self.kind in SILENT else PATIENT

        async def call() -> None:
            set_deadline(time.monotonic() + seconds)
            await self.deed.call(array, tag)

        begun = time.monotonic()
        try:
            await asyncio.create_task(call())
        except DriverError as error:
            return error
        finally:
            took = time.monotonic() - begun
            assert took < seconds + GRACE, f"it took {took:.1f} s of {seconds} s"
        return None

    def judge(self, fault: Fault, error: DriverError | None) -> None:
        """Whether the error is the right one."""
        if error is None:
            # Some calls survive a fault of one request; nothing gets past one that stays.
            lasting = fault.times == 0 and (self.kind in BROKEN or self.kind is FaultKind.WRONG_POLICY)
            assert not lasting, "it is told to be done, and cannot be"
            return
        text = f"{type(error).__name__}: {error}"
        assert self.kind is not FaultKind.DEGRADED_RAID, text
        expected = REFUSALS.get(self.kind)
        if expected is None:
            assert isinstance(error, Unavailable | DeadlineExceeded), text
            assert not isinstance(error, NotFound), text
            return
        # RouterOS's refusal may also strike what is looked up afterwards.
        assert isinstance(error, expected | Unavailable), text
        if self.kind is FaultKind.WRONG_POLICY:
            assert "polic" in text or isinstance(error, Unavailable), text

    async def settle(self, array: RouterosArray, tag: str) -> None:
        """Repeat the call until it is done; then exactly what it is to make is there."""
        for _ in range(REPEATS):
            try:
                result = await self.deed.call(array, tag)
            except Unavailable as error:
                if not (self.kind in BROKEN or self.kind in SILENT or "copied" in str(error)):
                    raise
                await asyncio.sleep(0.05)
                continue
            if getattr(result, "ready", True):
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("it does not converge")
        self.check(tag)

    def check(self, tag: str) -> None:
        census = self.bench.world.census()
        volumes, snapshots = self.deed.volumes(tag), self.deed.snapshots(tag)
        there = {object_id: thing.size for object_id, thing in census.of(Kind.VOLUME).items()}
        assert there == volumes
        assert set(census.of(Kind.SNAPSHOT)) == set(snapshots)
        assert len(census.disks) == len(volumes) + len(snapshots)
        assert census.files == {thing.path: thing.size for thing in census.disks.values()}
        for thing in census.disks.values():
            assert thing.mark is not None
            assert thing.mark.ready
            assert thing.mark.mutable_parameters == ({"key": "value"} if self.deed is VOLUMES["modify"] else {})
            assert thing.mark.attachments == ((NODE,) if self.deed is VOLUMES["attach"] else ())

    async def sweep(self, array: RouterosArray, tag: str) -> None:
        """Another controller, which has seen nothing of it, deletes everything; the pools have what they had."""
        if self.deed in GROUPS.values():
            await array.delete_group(f"{tag}g")
        for snapshot_id in self.deed.snapshots(tag):
            await array.delete_snapshot(snapshot_id)
        for volume_id in self.deed.volumes(tag):
            if self.deed is VOLUMES["attach"]:
                await array.detach_volume(volume_id, "")
            await array.delete_volume(volume_id)
        assert self.bench.world.is_bare(), self.bench.world.census()
