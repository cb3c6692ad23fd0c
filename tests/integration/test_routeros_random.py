"""Random interleavings of calls, faults, restarts and edits by hand, by two controllers, against a simple model.

Never is a volume lost, there twice, or stolen; what was written into one is there until its deletion was asked.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random, SystemRandom

import pytest

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.deadline import set_deadline
from rds_csi.errors import (
    DeadlineExceeded,
    DriverError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.simulator.faults import CONDITIONS, Fault, FaultKind
from tests.support.routeros_model import EMPTY, IDS, LENGTH, SNAPSHOTS, Model, Taken, squat
from tests.support.routeros_world import BTRFS, SIZE, TRANSPORTS, XFS, World, world

STEPS = 320
# Written down when they were chosen or had found something; $NEW_SEEDS says how many new ones are played besides.
SEEDS = (
    20261121,
    231701617,
    *(SystemRandom().randrange(1 << 32) for _ in range(int(os.environ.get("NEW_SEEDS", "0")))),
)
# Pool, and means for snapshots.
LAYOUTS = {"file": (XFS, "none"), "btrfs": (BTRFS, "btrfs-subvolume")}
NODES = ("node-1", "node-2")
# Seconds that a caller waits, and that something stays silent, beyond that.
PATIENCE, SILENCE = 0.3, 0.4
SILENT = (FaultKind.SLOW, FaultKind.HANG, FaultKind.CHANNEL_OPEN_BLOCKED)

Call = Callable[[RouterosArray], Awaitable[object]]


class Failed(Exception):
    """The call failed, as it may under a fault."""


class Play(Model):
    """The steps; what each one may come to is written into the model."""

    def __init__(self, one_world: World, layout: str, seed: int) -> None:
        super().__init__(one_world)
        self.pool, self.means = LAYOUTS[layout]
        self.chance = Random(seed)
        self.arrays: dict[str, RouterosArray] = {}
        self.stacks: dict[str, AsyncExitStack] = {}
        self.log: list[str] = []
        self.number = 0
        # Whether something that the next call waits for may just have been cut off.
        self.rebooted = False
        self.done = self.failed = 0
        self.fault: FaultKind | None = None

    # Controllers.

    async def open(self, transport: str) -> None:
        stack = AsyncExitStack()
        self.arrays[transport] = await stack.enter_async_context(
            self.world.array(transport, pool=self.pool, snapshots=self.means)
        )
        self.stacks[transport] = stack
        # Its first contact would else go on beside the next call, and meet the fault that is meant for that one.
        with contextlib.suppress(Unavailable):
            await self.arrays[transport].capacity(self.pool)

    async def close(self) -> None:
        for stack in self.stacks.values():
            await stack.aclose()

    async def restart(self, transport: str) -> None:
        await self.stacks[transport].aclose()
        await self.open(transport)

    # Calls.

    async def call(self, what: str, call: Call, *expected: type[DriverError]) -> object:
        """The result, or one of the expected errors; ``Failed`` for what a fault excuses."""
        transport = self.chance.choice(TRANSPORTS)
        fault = self.chance.random() < 0.35 and self.choose_fault()
        self.fault = fault.kind if fault else None
        self.log.append(f"{self.number}: {what} over {transport} under {fault or 'no fault'}")
        begun = time.monotonic()
        if fault:
            if fault.kind is FaultKind.SESSIONS_EXHAUSTED:
                self.world.simulator.drop_connections()
            self.world.simulator.faults.add(fault)
        try:
            result = await asyncio.create_task(self._limited(transport, call, fault))
            self.done += 1
        except expected as error:
            self.log.append(f"   {type(error).__name__}: {error}")
            raise
        except DriverError as error:
            self.log.append(f"   {type(error).__name__}: {error}")
            allowed = [Unavailable, DeadlineExceeded] if fault or self.rebooted else []
            if fault and fault.kind in (FaultKind.WRONG_POLICY, FaultKind.READ_ONLY_POOL):
                allowed.append(FailedPrecondition)
            if fault and fault.kind is FaultKind.NO_SPACE:
                allowed.append(ResourceExhausted)
            if not isinstance(error, tuple(allowed)):
                raise
            self.failed += 1
            raise Failed from error
        finally:
            self.rebooted = False
            self.world.simulator.faults.clear()
            if fault and fault.kind in SILENT:
                # Until what was slow has been done, whoever asked for it has gone.
                await asyncio.sleep(max(0.0, begun + SILENCE + 0.15 - time.monotonic()))
        return result

    async def _limited(self, transport: str, call: Call, fault: Fault | bool) -> object:
        set_deadline(time.monotonic() + (PATIENCE if isinstance(fault, Fault) and fault.kind in SILENT else 10.0))
        return await call(self.arrays[transport])

    def choose_fault(self) -> Fault:
        kinds = [kind for kind in FaultKind if kind not in SILENT or self.chance.random() < 0.2]
        kind = self.chance.choice(kinds)
        times = 0 if kind in CONDITIONS else self.chance.choice((1, 1, 1, 0) if kind not in SILENT else (1,))
        skip = 0 if times == 0 else self.chance.choice((0, 0, 1, 2))
        return Fault(kind, times=times, seconds=SILENCE if kind in SILENT else 0.0, skip=skip)

    # Steps.

    async def step(self) -> None:
        """Something that can be done now; what would be nothing is not counted."""
        self.number += 1
        before = len(self.log)
        while len(self.log) == before:
            await self.any_step()(self.chance.choice(IDS))
        self.check()

    def any_step(self) -> Callable[[str], Awaitable[None]]:
        steps: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (6, self.create),
            (3, self.delete),
            (3, self.grow),
            (3, self.attach),
            (4, self.detach),
            (2, self.modify),
            (3, self.get),
            (1, self.list),
            (4, self.write),
            (1, self.reopen),
            (1, self.kill),
            (1, self.reboot),
            (2, self.together),
            (1, self.rename),
            (4, self.deface),
            (1, self.squat),
        ]
        if self.means != "none":
            steps += [(3, self.snapshot), (2, self.unsnapshot), (3, self.restore)]
        (chosen,) = self.chance.choices([step for _, step in steps], [weight for weight, _ in steps])
        return chosen

    async def create(self, volume_id: str, source: str = "") -> None:
        known = self.volumes[volume_id]
        if known.spec is None:
            origin = self.snapshots.get(source)
            known.spec = VolumeSpec(
                volume_id,
                volume_id,
                max({SIZE} | (origin.sizes if origin else set())) * self.chance.choice((1, 1, 2)),
                source=ContentSource(SourceKind.SNAPSHOT, source) if origin else None,
            )
        spec = known.spec
        if known.comment or volume_id in self.squatters:
            await self.refused(
                f"create {volume_id}, which is not ours to make", lambda array: array.create_volume(spec)
            )
            return
        first, sizes = {EMPTY}, {spec.size}
        if spec.source is not None:
            taken = self.snapshots[spec.source.source_id]
            first = taken.contents
            # Asked for before a larger snapshot got the name: a volume holds all of its source.
            sizes = {max(spec.size, size) for size in taken.sizes or sizes}
        expected: list[type[DriverError]] = []
        if spec.source is not None and self.snapshots[spec.source.source_id].there is not True:
            expected.append(NotFound)
        if known.there is None:
            # A deletion that stopped half-way: the file alone is there.
            expected.append(FailedPrecondition)
        before = known.there
        if not before:
            known.there = None
            known.sizes |= sizes
            known.contents |= first
        try:
            await self.call(
                f"create {volume_id} of {spec.size} from {spec.source}", lambda a: a.create_volume(spec), *expected
            )
        except Failed:
            return
        except NotFound:
            known.there = before
            return
        except FailedPrecondition:
            return
        known.there = True
        self.look(volume_id)

    async def restore(self, volume_id: str) -> None:
        there = [name for name, taken in self.snapshots.items() if taken.there]
        await self.create(volume_id, self.chance.choice(there) if there else "")

    async def delete(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        if known.comment or volume_id in self.squatters:
            await self.refused(f"delete {volume_id}, which is not ours", lambda array: array.delete_volume(volume_id))
            return
        attached = bool(known.nodes | known.doubtful)
        expected = (FailedPrecondition,) if attached and known.there is not False else ()
        before = known.there
        try:
            if before and not known.nodes:
                known.there = None
            await self.call(f"delete {volume_id}", lambda array: array.delete_volume(volume_id), *expected)
        except Failed:
            return
        except FailedPrecondition:
            known.there = before
            return
        assert not known.nodes, f"{volume_id} was deleted while {known.nodes} have it"
        known.gone()

    async def grow(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        size = max(known.sizes, default=SIZE) + MIB * self.chance.choice((0, 1, 4))
        if await self.unusable(f"grow {volume_id}", volume_id, lambda array: array.expand_volume(volume_id, size)):
            return
        known.sizes.add(size)
        try:
            await self.call(f"grow {volume_id} to {size}", lambda array: array.expand_volume(volume_id, size))
        except Failed:
            return
        known.sizes = {size}

    async def attach(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        node = self.chance.choice(NODES)
        attachment = Attachment(
            Node(node, f"nqn.2014-08.org.nvmexpress:uuid:{node}"), node, AccessMode.MULTI_NODE_MULTI_WRITER
        )
        if await self.unusable(
            f"attach {volume_id}", volume_id, lambda array: array.attach_volume(volume_id, attachment)
        ):
            return
        if node not in known.nodes:
            known.doubtful.add(node)
        try:
            await self.call(f"attach {volume_id} to {node}", lambda a: a.attach_volume(volume_id, attachment))
        except Failed:
            return
        known.doubtful.discard(node)
        known.nodes.add(node)

    async def detach(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        if known.comment or volume_id in self.squatters:
            return
        node = self.chance.choice((*NODES, ""))
        nodes = {node} if node else set(NODES)
        known.doubtful |= known.nodes & nodes
        known.nodes -= nodes
        try:
            await self.call(f"detach {volume_id} from {node or 'all'}", lambda a: a.detach_volume(volume_id, node))
        except Failed:
            return
        known.doubtful -= nodes

    async def modify(self, volume_id: str) -> None:
        parameters = {"key": str(self.number)}

        async def modify(array: RouterosArray) -> None:
            assert (await array.modify_volume(volume_id, parameters)).mutable_parameters == parameters

        if not await self.unusable(f"modify {volume_id}", volume_id, modify):
            try:
                await self.call(f"modify {volume_id}", modify)
            except Failed:
                return

    async def get(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        if known.comment or volume_id in self.squatters:
            await self.refused(f"get {volume_id}", lambda array: array.get_volume(volume_id))
            return
        # Made from a snapshot, and not whole.
        expected = (NotFound, Unavailable) if known.there is None else () if known.there else (NotFound,)
        try:
            volume = await self.call(f"get {volume_id}", lambda array: array.get_volume(volume_id), *expected)
        except (Failed, Unavailable):
            return
        except NotFound:
            # A file may still be there, so nothing is concluded where a deletion stopped half-way.
            assert known.there is not True, f"{volume_id} is told to be absent"
            return
        assert known.there is not False, f"{volume_id} is told to be there"
        assert getattr(volume, "size", 0) in known.sizes

    async def list(self, _volume_id: str) -> None:
        async def look(array: RouterosArray) -> tuple[set[str], set[str]]:
            volumes, snapshots = await array.list_volumes(), await array.list_snapshots()
            return {each.volume_id for each in volumes}, {each.snapshot_id for each in snapshots}

        try:
            listed = await self.call("list", look)
        except Failed:
            return
        assert isinstance(listed, tuple)
        seen = {volume_id: known.there for volume_id, known in self.volumes.items() if not known.comment}
        seen |= {snapshot_id: taken.there for snapshot_id, taken in self.snapshots.items()}
        for object_id, there in seen.items():
            assert there in (None, object_id in listed[0] | listed[1]), f"{object_id} is listed wrongly: {listed}"

    async def snapshot(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        snapshot_id = self.chance.choice(SNAPSHOTS)
        taken = self.snapshots[snapshot_id]
        # Of one that was defaced a snapshot may still be taken: that touches nothing.
        if taken.there is not False or known.comment:
            return

        def take(array: RouterosArray) -> Awaitable[object]:
            return array.create_snapshot(snapshot_id, snapshot_id, volume_id)

        if await self.unusable(f"snapshot {volume_id}", volume_id, take):
            return
        taken.contents, taken.sizes, taken.there = set(known.contents), set(known.sizes), None
        try:
            await self.call(f"snapshot {snapshot_id} of {volume_id}", take)
        except Failed:
            return
        taken.there = True

    async def unsnapshot(self, _volume_id: str) -> None:
        snapshot_id = self.chance.choice(SNAPSHOTS)
        taken = self.snapshots[snapshot_id]
        taken.there = None if taken.there else taken.there
        try:
            await self.call(f"delete snapshot {snapshot_id}", lambda array: array.delete_snapshot(snapshot_id))
        except Failed:
            return
        self.snapshots[snapshot_id] = Taken()

    async def write(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        if known.there and not known.comment:
            data = self.chance.randbytes(LENGTH)
            self.log.append(f"{self.number}: write {data.hex()} into {volume_id}")
            self.world.write(self.slot(volume_id), data)
            known.contents = {data}

    # Restarts.

    async def reopen(self, _volume_id: str) -> None:
        transport = self.chance.choice(TRANSPORTS)
        self.log.append(f"{self.number}: restart over {transport}")
        await self.restart(transport)

    async def kill(self, volume_id: str) -> None:
        """A controller ends in the middle of a creation."""
        known = self.volumes[volume_id]
        if known.comment or volume_id in self.squatters or known.there:
            return
        spec = known.spec = known.spec or VolumeSpec(volume_id, volume_id, SIZE)
        if spec.source is not None:
            return
        known.there = None
        known.sizes.add(spec.size)
        known.contents.add(EMPTY)
        transport = self.chance.choice(TRANSPORTS)
        self.log.append(f"{self.number}: killed over {transport} while it makes {volume_id}")
        task = asyncio.create_task(self._create(transport, spec))
        await asyncio.sleep(self.chance.choice((0.0, 0.002, 0.004, 0.01)))
        await self.restart(transport)
        await task

    async def _create(self, transport: str, spec: VolumeSpec) -> None:
        try:
            await self.arrays[transport].create_volume(spec)
        except DriverError as error:
            self.log.append(f"   {type(error).__name__}: {error}")

    async def reboot(self, _volume_id: str) -> None:
        self.log.append(f"{self.number}: reboot")
        self.rebooted = True
        await self.world.simulator.reboot()

    async def together(self, volume_id: str) -> None:
        """Both controllers make the same volume at once, or both remove it."""
        known = self.volumes[volume_id]
        touched = known.comment or volume_id in self.squatters or known.nodes or known.doubtful
        if touched or known.there is None or self.rebooted:
            return
        spec = known.spec or VolumeSpec(volume_id, volume_id, SIZE)
        self.log.append(f"{self.number}: both {'delete' if known.there else 'create'} {volume_id}")
        if known.there:
            await asyncio.gather(*(array.delete_volume(volume_id) for array in self.arrays.values()))
            known.gone()
        elif spec.source is None:
            made = await asyncio.gather(*(array.create_volume(spec) for array in self.arrays.values()))
            assert {each.size for each in made} == {spec.size}
            known.spec, known.there, known.sizes, known.contents = spec, True, {spec.size}, {EMPTY}

    # By hand.

    async def rename(self, volume_id: str) -> None:
        known = self.volumes[volume_id]
        if known.there and not known.comment:
            self.log.append(f"{self.number}: {volume_id} is renamed by hand")
            await self.world.edit(self.slot(volume_id), slot=f"by-hand-{self.number}")

    async def deface(self, volume_id: str) -> None:
        """Empty or edit the comment, or put it back."""
        known = self.volumes[volume_id]
        if not known.there:
            return
        slot = self.slot(volume_id)
        if known.comment:
            comment, known.comment = known.comment, ""
        elif self.chance.random() < 0.5:
            return
        else:
            known.comment = str(self.world.values(slot)["comment"])
            comment = self.chance.choice(("", f"{known.comment}!", known.comment.replace("/v:", "/v:x", 1)))
        self.log.append(f"{self.number}: the comment of {volume_id} becomes {comment!r}")
        self.slots[volume_id] = slot
        await self.world.edit(slot, comment=comment)

    async def squat(self, volume_id: str) -> None:
        """Somebody else takes the slot of a volume that is not there, or gives it back."""
        if volume_id in self.squatters:
            self.log.append(f"{self.number}: the slot {volume_id} is free again")
            await self.world.simulator.device.disks.remove(self.squatters.pop(volume_id))
            self.world.lose_file(squat(volume_id))
        elif self.volumes[volume_id].there is False and not self.volumes[volume_id].comment:
            self.log.append(f"{self.number}: somebody takes the slot {volume_id}")
            self.squatters[volume_id] = await self.world.add_foreign(volume_id, squat(volume_id))

    # What they share.

    async def unusable(self, what: str, volume_id: str, call: Call) -> bool:
        """Whether the volume is not known to be there, or was defaced; then the call is refused."""
        known = self.volumes[volume_id]
        if known.comment or volume_id in self.squatters:
            await self.refused(what, call)
        elif known.there is False:
            try:
                await self.call(f"{what}, which is absent", call, NotFound)
            except (Failed, NotFound):
                return True
            raise AssertionError(f"{what} went well, and the volume is absent")
        return known.there is not True or bool(known.comment)

    async def refused(self, what: str, call: Call) -> None:
        """What is not provably ours is neither told to be absent nor touched."""
        try:
            await self.call(what, call, FailedPrecondition)
        except (Failed, FailedPrecondition):
            return
        raise AssertionError(f"{what} went well")

    async def end(self) -> None:
        """Everything is put back and removed; each array sees the same in the end."""
        self.number += 1
        for volume_id, known in self.volumes.items():
            if known.comment:
                await self.deface(volume_id)
            if volume_id in self.squatters:
                await self.squat(volume_id)
        array = self.arrays["ssh"]
        for snapshot_id in SNAPSHOTS:
            await array.delete_snapshot(snapshot_id)
        for volume_id in IDS:
            await array.detach_volume(volume_id, "")
            await array.delete_volume(volume_id)
        for each in self.arrays.values():
            assert (list(await each.list_volumes()), list(await each.list_snapshots())) == ([], [])
        assert self.world.is_bare(), self.world.census()


@pytest.fixture
async def one_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.mark.timeout(240)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_no_volume_is_lost_doubled_or_stolen(one_world: World, layout: str, seed: int) -> None:
    before = one_world.foreign()
    play = Play(one_world, layout, seed)
    for transport in TRANSPORTS:
        await play.open(transport)
    try:
        for _ in range(STEPS):
            await play.step()
        await play.end()
    except BaseException:
        print(*play.log[-60:], sep="\n")
        raise
    finally:
        await play.close()
    print(f"{play.done} calls went well, {play.failed} failed")
    assert one_world.foreign() == before
