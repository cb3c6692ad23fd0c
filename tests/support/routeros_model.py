"""What can be said of the volumes and snapshots of a RouterOS array while calls fail, and whether the device agrees."""

from dataclasses import dataclass, field

from rds_csi.arrays.routeros.mark import Kind
from rds_csi.model.volumes import VolumeSpec
from tests.support.routeros_world import XFS, World

IDS = tuple(f"pvc-{number}" for number in range(6))
SNAPSHOTS = ("snap-0", "snap-1", "snap-2")
# Bytes that tell one content from another.
LENGTH = 16
EMPTY = bytes(LENGTH)


def squat(volume_id: str) -> str:
    """The file of a disk that somebody else has put into a volume's slot."""
    return f"{XFS}/squat-{volume_id}.img"


@dataclass
class Known:
    """What can be said of one volume. ``there`` None: a call that would change it failed, so it may be so or not.

    ``sizes`` and ``contents`` are what it may have; ``nodes`` those that are attached, ``doubtful`` those that may be.
    """

    there: bool | None = False
    sizes: set[int] = field(default_factory=set)
    contents: set[bytes] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    spec: VolumeSpec | None = None
    # The comment as it was before somebody edited it.
    comment: str = ""

    def gone(self) -> None:
        self.__init__()  # type: ignore[misc]  # everything is as for a new one


@dataclass
class Taken:
    """What can be said of a snapshot."""

    there: bool | None = False
    contents: set[bytes] = field(default_factory=set)
    sizes: set[int] = field(default_factory=set)


class Model:
    """The volumes, the snapshots, and the comparison with what is on the device."""

    def __init__(self, one_world: World) -> None:
        self.world = one_world
        self.volumes = {volume_id: Known() for volume_id in IDS}
        self.snapshots = {snapshot_id: Taken() for snapshot_id in SNAPSHOTS}
        # Disks of somebody else in the slots of volumes that are not made yet, by the volumes' ids.
        self.squatters: dict[str, str] = {}
        # Where defaced volumes are, which do not tell it any more.
        self.slots: dict[str, str] = {}

    def slot(self, volume_id: str) -> str:
        if self.volumes[volume_id].comment:
            return self.slots[volume_id]
        return self.world.census().of(Kind.VOLUME)[volume_id].slot

    def look(self, volume_id: str) -> None:
        """What a volume that was just made or found is: from now on it has to be that."""
        thing = self.world.census().of(Kind.VOLUME)[volume_id]
        known = self.volumes[volume_id]
        assert thing.size in known.sizes, (thing.size, known)
        content = self.world.read(thing.slot, LENGTH)
        assert content in known.contents, (content, known)
        known.sizes, known.contents = {thing.size}, {content}

    def check(self) -> None:
        """The device against the model."""
        census = self.world.census()
        things = census.of(Kind.VOLUME)
        defaced = {self.slots[volume_id] for volume_id, known in self.volumes.items() if known.comment}
        for volume_id, known in self.volumes.items():
            thing = census.disks.get(self.slots[volume_id]) if known.comment else things.get(volume_id)
            if thing is None:
                assert not known.there, f"{volume_id} is lost"
                continue
            assert known.there is not False, f"{volume_id} is there again"
            assert census.files.get(thing.path) == thing.size, f"the file of {volume_id} is lost"
            # One that is made from a smaller snapshot grows before it is ready.
            whole = thing.mark is None or thing.mark.ready
            assert thing.size in known.sizes or not whole, f"{volume_id} has {thing.size} bytes, not {known.sizes}"
            assert self.world.read(thing.slot, LENGTH) in known.contents, f"the data of {volume_id} is lost"
            if not known.comment and thing.mark is not None:
                nodes = {each.node.node_id for each in thing.mark.attachments}
                assert known.nodes <= nodes <= known.nodes | known.doubtful, f"{volume_id} is attached to {nodes}"
        for snapshot_id, taken in self.snapshots.items():
            found = census.of(Kind.SNAPSHOT).get(snapshot_id)
            assert (found is not None) in ({taken.there} if taken.there is not None else {True, False}), snapshot_id
            if found is not None:
                assert self.world.read(found.slot, LENGTH) in taken.contents, f"the data of {snapshot_id} is lost"
        ours = {thing.slot for thing in things.values()} | {each.slot for each in census.of(Kind.SNAPSHOT).values()}
        assert set(census.disks) - ours - defaced == set(self.squatters), "disks of nobody"
        doubts = [each.there for each in self.volumes.values()] + [each.there for each in self.snapshots.values()]
        if None not in doubts:
            theirs = {squat(volume_id) for volume_id in self.squatters}
            assert set(census.files) == {thing.path for thing in census.disks.values()} | theirs, "files of nobody"
