"""Random lives of an array: no calls, faults and restarts in any order lose, double or steal a volume."""

import random
from collections.abc import Awaitable, Callable

import pytest

from rds_csi.arrays.routeros.array import RouterosArray
from rds_csi.arrays.routeros.mark import Kind, decode
from rds_csi.arrays.routeros.options import Fencing, SnapshotMeans
from rds_csi.arrays.routeros.records import Disk
from rds_csi.errors import (
    DriverError,
    NotFound,
)
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.volumes import Volume
from tests.support.routeros_arrays import (
    PREFIX,
    VOLUME,
    array_on,
    attachment,
    device_for,
    from_snapshot,
    from_volume,
    spec,
)
from tests.support.routeros_memory import DROPPED, HALF, LOST, POOL, REFUSED, UNSENT

# Steps of one random life, more than the 300 that the design asks for.
STEPS = 400
IDS = ("pvc-a", "pvc-b", VOLUME)
SNAPSHOTS = ("snap-a", "snap-b")
NODES = ("node-1", "node-2")
# What stands for a call that is allowed to fail: whatever is not known to have happened may have.
UNKNOWN = object()


class Life:
    """A random life of one device. What is known to be so after each call is compared with what is there."""

    def __init__(self, seed: int, snapshots: SnapshotMeans, fencing: Fencing) -> None:
        self.random = random.Random(seed)
        self.snapshots = snapshots
        self.fencing = fencing
        self.device = device_for(snapshots)
        self.device.put(slot="tenant", type="file", file_path=f"{POOL}/tenant.img", size=GIB, comment="keep out")
        self.device.put(
            slot="other", type="file", file_path=f"{POOL}/rds-csi-other/x.img", size=GIB, nqn=f"{PREFIX}other"
        )
        self.foreign = self.foreign_state()
        self.array = self.restart()
        # Known contents of volumes and snapshots that are known to exist.
        self.known: dict[tuple[Kind, str], str] = {}
        self.attached: dict[str, frozenset[str]] = {}

    def restart(self) -> RouterosArray:
        return array_on(self.device, snapshots=self.snapshots, fencing=self.fencing)

    def foreign_state(self) -> object:
        disks = [disk for disk in self.device.disks.values() if disk.slot in ("tenant", "other")]
        files = [(p, f.size, f.content) for p, f in self.device.files.items() if "/rds-csi/" not in p]
        return disks, sorted(files)

    def ours(self, kind: Kind, object_id: str) -> list[Disk]:
        marks = ((disk, decode(disk.comment)) for disk in self.device.disks.values())
        return [disk for disk, mark in marks if mark and (mark.kind, mark.object_id) == (kind, object_id)]

    async def step(self) -> None:
        if self.random.random() < 0.05:
            self.array = self.restart()
        if self.random.random() < 0.1:
            self.random.choice([self.device.run_jobs, self.device.kill_jobs])()
        if self.random.random() < 0.4:
            kinds = [UNSENT, DROPPED, LOST, HALF, REFUSED]
            self.device.faults.extend(self.random.choices(kinds, k=self.random.randint(1, 4)))
            self.device.faulty_looks = self.random.random() < 0.3
        self.device.refusal = self.random.choice(["failure: no space left", "failure: whatever", "failure: timeout"])
        self.device.away = self.random.random() < 0.05
        volume_id, snapshot_id = self.random.choice(IDS), self.random.choice(SNAPSHOTS)
        calls: list[Callable[[], Awaitable[None]]] = [
            lambda: self.create(volume_id),
            lambda: self.create(volume_id),
            lambda: self.delete(volume_id),
            lambda: self.expand(volume_id),
            lambda: self.attach(volume_id),
            lambda: self.detach(volume_id),
            lambda: self.look(volume_id),
        ]
        if self.snapshots is not SnapshotMeans.NONE:
            calls += [
                lambda: self.snapshot(snapshot_id, volume_id),
                lambda: self.drop_snapshot(snapshot_id),
                lambda: self.clone(volume_id, snapshot_id),
            ]
        await self.random.choice(calls)()
        self.device.faults.clear()
        self.device.away = self.device.faulty_looks = False
        self.compare()

    def compare(self) -> None:
        assert self.foreign_state() == self.foreign
        for kind, ids in ((Kind.VOLUME, IDS), (Kind.SNAPSHOT, SNAPSHOTS)):
            for object_id in ids:
                disks = self.ours(kind, object_id)
                assert len(disks) <= 1, f"{object_id} is there twice"
                content = self.known.get((kind, object_id))
                if content is not None:
                    assert len(disks) == 1, f"{object_id} is lost"
                    assert self.device.files[disks[0].file_path].content == content, f"{object_id} has other data"
        for volume_id, nodes in self.attached.items():
            (disk,) = self.ours(Kind.VOLUME, volume_id)
            mark = decode(disk.comment)
            assert mark is not None
            assert {item.node.node_id for item in mark.attachments} == nodes
            assert disk.exported == (self.fencing is Fencing.NONE or bool(nodes))
            if self.fencing is Fencing.ALLOW_HOST and nodes:
                assert len(disk.allow_hosts) == len(nodes)

    def content(self, kind: Kind, object_id: str) -> str:
        (disk,) = self.ours(kind, object_id)
        return self.device.files[disk.file_path].content

    def note(self, kind: Kind, object_id: str) -> None:
        """It is known to be there: with the content that it had, if it was known before."""
        content = self.content(kind, object_id)
        assert self.known.setdefault((kind, object_id), content) == content

    async def tried(self, call: Awaitable[object]) -> object:
        try:
            return await call
        except DriverError:
            return UNKNOWN

    async def create(self, volume_id: str) -> None:
        made = await self.tried(self.array.create_volume(spec(volume_id, self.random.choice([MIB, GIB]))))
        if isinstance(made, Volume):
            self.note(Kind.VOLUME, volume_id)

    async def clone(self, volume_id: str, snapshot_id: str) -> None:
        other = self.random.choice(IDS)
        source = self.random.choice([from_snapshot(snapshot_id), from_volume(other)])
        known = self.known.get((Kind.SNAPSHOT, snapshot_id) if "snap" in source.source_id else (Kind.VOLUME, other))
        fresh = not self.ours(Kind.VOLUME, volume_id)
        made = await self.tried(self.array.create_volume(spec(volume_id, 2 * GIB, source=source)))
        if isinstance(made, Volume):
            self.note(Kind.VOLUME, volume_id)
            if fresh and known:
                assert self.content(Kind.VOLUME, volume_id) == known
                assert made.size >= 2 * GIB

    async def delete(self, volume_id: str) -> None:
        if self.attached.get(volume_id):
            with pytest.raises(DriverError):
                await self.array.delete_volume(volume_id)
            return
        self.known.pop((Kind.VOLUME, volume_id), None)
        self.attached.pop(volume_id, None)
        if await self.tried(self.array.delete_volume(volume_id)) is not UNKNOWN:
            assert not self.ours(Kind.VOLUME, volume_id)

    async def expand(self, volume_id: str) -> None:
        grown = await self.tried(self.array.expand_volume(volume_id, self.random.choice([MIB, GIB, 3 * GIB])))
        if isinstance(grown, Volume):
            assert self.ours(Kind.VOLUME, volume_id)[0].size == grown.size

    async def attach(self, volume_id: str) -> None:
        node = self.random.choice(NODES)
        before = self.attached.pop(volume_id, frozenset())
        done = await self.tried(self.array.attach_volume(volume_id, attachment(node)))
        if isinstance(done, Volume):
            self.attached[volume_id] = frozenset(item.node.node_id for item in done.attachments)
            assert before | {node} <= self.attached[volume_id]

    async def detach(self, volume_id: str) -> None:
        node = self.random.choice([*NODES, ""])
        before = self.attached.pop(volume_id, None)
        if await self.tried(self.array.detach_volume(volume_id, node)) is not UNKNOWN and before is not None:
            self.attached[volume_id] = frozenset() if not node else before - {node}

    async def look(self, volume_id: str) -> None:
        try:
            volume = await self.array.get_volume(volume_id)
        except NotFound:
            assert (Kind.VOLUME, volume_id) not in self.known, "what is there is never not found"
            return
        except DriverError:
            return
        assert volume.size == self.ours(Kind.VOLUME, volume_id)[0].size

    async def snapshot(self, snapshot_id: str, volume_id: str) -> None:
        taken = await self.tried(self.array.create_snapshot(snapshot_id, snapshot_id, volume_id))
        if taken is not UNKNOWN and self.ours(Kind.SNAPSHOT, snapshot_id):
            self.note(Kind.SNAPSHOT, snapshot_id)

    async def drop_snapshot(self, snapshot_id: str) -> None:
        self.known.pop((Kind.SNAPSHOT, snapshot_id), None)
        if await self.tried(self.array.delete_snapshot(snapshot_id)) is not UNKNOWN:
            assert not self.ours(Kind.SNAPSHOT, snapshot_id)

    async def settle(self) -> None:
        """With no faults any more, every repeated call comes to its end, and then nothing of ours is left."""
        self.device.run_jobs()
        self.array = self.restart()
        for volume_id in IDS:
            await self.array.detach_volume(volume_id, "")
        for snapshot_id in SNAPSHOTS:
            await self.array.delete_snapshot(snapshot_id)
        for volume_id in IDS:
            await self.array.delete_volume(volume_id)
            await self.array.create_volume(spec(volume_id, GIB))
            assert len(self.ours(Kind.VOLUME, volume_id)) == 1
        assert len([path for path in self.device.files if "/rds-csi/" in path]) == len(IDS)
        for volume_id in IDS:
            await self.array.delete_volume(volume_id)
        assert self.foreign_state() == self.foreign
        assert len(self.device.disks) == 3
        assert not [path for path in self.device.files if "/rds-csi/" in path]
        assert not self.device.subvolumes


@pytest.mark.parametrize(("seed", "fencing"), [(1, Fencing.NONE), (2, Fencing.ALLOW_HOST)])
@pytest.mark.parametrize("snapshots", list(SnapshotMeans))
async def test_no_life_loses_doubles_or_steals_a_volume(seed: int, snapshots: SnapshotMeans, fencing: Fencing) -> None:
    life = Life(seed, snapshots, fencing)
    for _ in range(STEPS):
        await life.step()
    await life.settle()
