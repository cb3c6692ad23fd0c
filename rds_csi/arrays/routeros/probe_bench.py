"""What the probe works with: disks and files named after it, made, changed, and removed whatever happened."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import (
    AddDisk,
    Anchors,
    Command,
    Deed,
    Expect,
    Outcome,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    Step,
)
from rds_csi.arrays.routeros.fencing import EXPORT
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.options import RouterosOptions, SnapshotMeans
from rds_csi.arrays.routeros.pool import OLDEST
from rds_csi.arrays.routeros.records import DeviceFacts, Disk
from rds_csi.arrays.routeros.volumes import file_disk
from rds_csi.errors import DriverError, FailedPrecondition
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.volumes import Finding

# Bytes that must be free in the pool: the probe takes a tenth of them, and may not be what fills it.
NEEDED = GIB


_TELL = "Please tell the project, with the capture file."


@dataclass(frozen=True, slots=True)
class Answer:
    """``expected``: the driver can build on it."""

    text: str
    expected: bool = True


Question = Callable[[], Awaitable[Answer]]


async def ask(subject: str, question: Question) -> Finding:
    """The answer as a finding, also where none could be had."""
    try:
        answer = await question()
    except DriverError as error:
        return Finding(subject, False, f"not answered: {error.message}", error.remedy or _TELL)
    return Finding(subject, answer.expected, answer.text, "" if answer.expected else _TELL)


class Bench:
    """The probe's part of the device. ``name`` begins everything that it makes, and nothing else."""

    def __init__(self, client: Client, options: RouterosOptions, name: str) -> None:
        self.client = client
        self.options = options
        self.name = name
        # Known after the first contact.
        self.facts: DeviceFacts | None = None
        self.names: Names
        self.label = ""

    async def contact(self) -> None:
        """See that the device and the pool can be worked with, and that the pool has room; FailedPrecondition when
        not."""
        options = self.options
        self.facts = await self.client.facts()
        if not self.facts.version.is_at_least(*OLDEST):
            raise FailedPrecondition(f"RouterOS {self.facts.version} is too old for this driver")
        pool = await self.pool()
        if pool.free is not None and pool.free < NEEDED:
            raise FailedPrecondition(
                f"only {pool.free // MIB} MiB are free in the pool {options.pool}, and a probe wants {NEEDED // MIB}",
                remedy="Make room in the pool first: a full one stops the writes of others.",
            )
        self.label = pool.fs_label
        self.names = Names(
            driver=options.driver_name,
            cluster=options.cluster,
            nqn_prefix=options.nqn_prefix,
            pool_directory=pool.mount_point.strip("/") or options.pool,
            base=options.base,
        )

    async def pool(self) -> Disk:
        """The pool's disk as it is now."""
        for disk in await self.client.list_disks():
            if disk.slot == self.options.pool and disk.mounted:
                return disk
        raise FailedPrecondition(f"the pool {self.options.pool} is not there, or not mounted")

    def twin(self, letter: str) -> str:
        """The name of another disk of this probe."""
        return f"{self.name}{letter}"

    def plain_mark(self, object_id: str) -> Mark:
        """The mark by which the orphan report knows what a killed probe left."""
        return Mark(Kind.VOLUME, self.options.driver_name, self.options.cluster, object_id, object_id)

    def mark(self, object_id: str) -> str:
        """That mark as a comment."""
        return self.plain_mark(object_id).encode()

    async def make(self, object_id: str, *before: Step, size: int) -> Outcome:
        """Add a disk of ``size`` bytes that is not exported; FailedPrecondition when the first one is refused."""
        path = self.names.volume_path(object_id)
        disk = {**file_disk(object_id, path, size), EXPORT: "no", "comment": self.mark(object_id)}
        anchors = Anchors(slots=(object_id,), paths=(path,))
        outcome = await self.execute(anchors, Expect(disks=0, no_file=True), *before, AddDisk(disk))
        if outcome.error and object_id == self.name:
            raise FailedPrecondition(f"the disk could not be made: {outcome.error}")
        return outcome

    async def disk(self) -> Disk:
        """The first disk as it is now."""
        return only(Outcome(0, disks=await self.client.find_disks(Anchors(slots=(self.name,)))))

    async def set(self, properties: Mapping[str, str]) -> Outcome:
        """Set properties of the first disk."""
        return await self.do(Expect(disks=1), SetDisk(properties))

    async def do(self, expect: Expect, *steps: Step) -> Outcome:
        """Do steps to the first disk."""
        return await self.execute(Anchors(slots=(self.name,)), expect, *steps)

    async def execute(self, anchors: Anchors, expect: Expect, *steps: Step) -> Outcome:
        """Do steps; FailedPrecondition when what they expect does not hold. A refusal is in the outcome."""
        outcome = await self.client.execute(Command(anchors, (Deed(expect, steps),)))
        if outcome.done < 0:
            raise FailedPrecondition(f"nothing was done: the array has {len(outcome.disks)} disks like that")
        return outcome

    async def files(self) -> frozenset[str]:
        """Every path below the base directory."""
        return frozenset(file.name for file in await self.client.list_files(self.names.directory))

    async def clean_up(self) -> Finding:
        """Remove everything with this probe's name, disks first, and look that it is gone."""
        subject = "nothing left"
        try:
            for disk in await self._own_disks():
                anchors = Anchors(slots=(disk.slot,))
                await self.client.execute(
                    Command(anchors, (Deed(Expect(disks=1, disk_id=disk.id), (SetDisk({EXPORT: "no"}), RemoveDisk())),))
                )
            await self._remove_files()
            left = [disk.slot for disk in await self._own_disks()] + sorted(await self._own_files())
        except DriverError as error:
            message = f"what is left of {self.name} could not be removed: {error.message}"
            return Finding(subject, False, message, f"Remove disks and files named {self.name} on the device.")
        if left:
            return Finding(subject, False, f"left behind: {', '.join(left)}", "Remove them on the device.")
        return Finding(subject, True, f"{self.name} is gone, disks and files")

    async def _own_disks(self) -> Sequence[Disk]:
        return [
            disk
            for disk in await self.client.list_disks()
            if disk.type == "file" and (disk.slot.startswith(self.name) or self.name in disk.file_path)
        ]

    async def _own_files(self) -> frozenset[str]:
        beginning = f"{self.names.directory}/{self.name}"
        return frozenset(path for path in await self.files() if path.startswith(beginning))

    async def _remove_files(self) -> None:
        steps: list[Step] = []
        if self.options.snapshots is SnapshotMeans.BTRFS_SUBVOLUME:
            nested = replace(self.names, subvolumes=True)
            steps += [RemoveSubvolume(self.label, nested.volume_subvolume(self.twin(letter))) for letter in "ih"]
        subvolumes = {step.name for step in steps if isinstance(step, RemoveSubvolume)}
        inside = tuple(f"{self.names.pool_directory}/{name}" for name in subvolumes)
        # The deepest first; what is in a subvolume goes with it.
        paths = sorted((path for path in await self._own_files() if not path.startswith(inside)), reverse=True)
        steps += [RemoveFile(path) for path in paths]
        if steps:
            anchors = Anchors(slots=(self.name,))
            await self.client.execute(Command(anchors, (Deed(Expect(disks=0), tuple(steps)),)))


def only(outcome: Outcome) -> Disk:
    """The one disk that a command was about; FailedPrecondition when there is none, or more."""
    if len(outcome.disks) != 1:
        raise FailedPrecondition(f"{len(outcome.disks)} disks are there where one is expected {outcome.error}".rstrip())
    return outcome.disks[0]
