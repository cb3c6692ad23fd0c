"""The probe: a tiny volume is made, tried in every way that nobody has shown on a device yet, and removed again.

Everything it makes is called ``rds-csi-probe-<8 hex digits>…`` and carries our mark, so that what a killed probe leaves
is found by the orphan report. It asks nothing that could fill the pool or touch what others have there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rds_csi.arrays.routeros.checks import OLDEST_FOR
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    RemoveDisk,
    SetDisk,
)
from rds_csi.arrays.routeros.fencing import ALLOW_HOSTS, EXPORT, HOST_SEPARATOR
from rds_csi.arrays.routeros.mark import MAX_COMMENT
from rds_csi.arrays.routeros.names import SLOT_LENGTH
from rds_csi.arrays.routeros.options import RouterosOptions, SnapshotMeans
from rds_csi.arrays.routeros.probe_bench import Answer, Bench, Question, ask, only
from rds_csi.arrays.routeros.recording import Recorder
from rds_csi.arrays.routeros.volumes import file_disk
from rds_csi.errors import DriverError
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import Finding
from rds_csi.retry import Clock, Pace, poll
from rds_csi.tasks import finish

_CLOCK = Clock()

PREFIX = "rds-csi-probe-"
SIZE = 16 * MIB
LARGER = 32 * MIB
LARGEST = 48 * MIB
# Seconds for the copy of 16 MiB on the device.
_COPY_SECONDS = 60.0
_COPY_PACE = Pace(first=0.5, largest=2.0)
_HOSTS = tuple(f"nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000000{digit}" for digit in "12")


class Probe(Bench):
    """One probe: what is asked, in which order. ``token``: 8 hex digits that nobody else has."""

    def __init__(
        self, client: Client, options: RouterosOptions, recorder: Recorder, token: str, clock: Clock = _CLOCK
    ) -> None:
        super().__init__(client, options, f"{PREFIX}{token}")
        self._recorder = recorder
        self._clock = clock
        # Bytes, before the first disk was made; None while it is not known.
        self._free_before: int | None = None
        # What is known by now; the last one tells what is left. Also of a probe that was stopped.
        self.answers: list[Finding] = []

    async def run(self) -> Sequence[Finding]:
        """The answers; the last one tells what is left. After a cancellation half-way they are in ``answers``. Never
        raises a DriverError."""
        try:
            self._recorder.step = "contact"
            await self.contact()
        except DriverError as error:
            remedy = error.remedy or "See the other findings."
            self.answers.append(Finding("probe", False, f"not made: {error.message}", remedy))
            return self.answers
        try:
            for subject, question in self._questions().items():
                self._recorder.step = subject
                self.answers.append(await ask(subject, question))
                if subject == _FIRST and not self.answers[0].ok:
                    break
        finally:
            self._recorder.step = "clean up"
            await finish(self._end())
        return self.answers

    async def _end(self) -> None:
        """Told even when the probe is stopped during it."""
        self.answers.append(await self.clean_up())

    def _questions(self) -> Mapping[str, Question]:
        """In this order: later ones need what earlier ones left."""
        questions: dict[str, Question] = {
            _FIRST: self._create,
            "comment": self._comment,
            "long comment": self._long_comment,
            "allocation": self._allocation,
            "slot taken": self._slot_taken,
            "file taken": self._file_taken,
            "slot of 33 characters": self._long_slot,
            "missing directory": self._missing_directory,
            "growth": self._growth,
            "shrinking": self._shrinking,
            "export": self._export,
            "allowed hosts": self._allowed_hosts,
            "NQN taken": self._nqn_taken,
            "file after removal": self._removal,
            "existing file": self._existing_file,
        }
        facts, means = self.facts, self.options.snapshots
        if facts is not None and means in OLDEST_FOR and facts.version.is_at_least(*OLDEST_FOR[means]):
            copy = means is SnapshotMeans.FILE_COPY
            questions["file copy" if copy else "subvolumes"] = self._copy if copy else self._subvolumes
        return questions

    # The questions

    async def _create(self) -> Answer:
        parts = self.names.base.split("/")
        above = [f"{self.names.pool_directory}/{'/'.join(parts[:end])}" for end in range(1, len(parts) + 1)]
        before = await self.pool()
        outcome = await self.make(self.name, *(MakeDirectory(path) for path in above), size=SIZE)
        self._free_before = before.free
        disk = only(outcome)
        return Answer(f"{SIZE} bytes asked for, {disk.size} read back", disk.size == SIZE)

    async def _comment(self) -> Answer:
        disk = await self.disk()
        return (
            Answer("kept as it was sent", True)
            if disk.comment == self.mark(self.name)
            else Answer(f"came back as {disk.comment[:80]!r}", False)
        )

    async def _long_comment(self) -> Answer:
        filler = "x" * (MAX_COMMENT - 400)
        text = replace(self.plain_mark(self.name), mutable_parameters={"filler": filler}).encode()
        disk = only(await self.set({"comment": text}))
        kept = disk.comment == text
        await self.set({"comment": self.mark(self.name)})
        return Answer(f"of {len(text)} characters, {len(disk.comment)} were kept", kept)

    async def _allocation(self) -> Answer:
        after = (await self.pool()).free
        if self._free_before is None or after is None:
            return Answer("the pool does not tell what is free")
        taken = self._free_before - after
        return Answer(
            f"the pool has {taken} bytes less: {'thick' if taken >= SIZE // 2 else 'thin, or others changed it'}"
        )

    async def _slot_taken(self) -> Answer:
        twin = self.twin("b")
        disk = {
            **file_disk(self.name, self.names.volume_path(twin), SIZE),
            "comment": self.mark(twin),
        }
        outcome = await self.do(Expect(disks=1), AddDisk(disk))
        if outcome.error:
            return Answer(f"refused: {outcome.error}")
        return Answer(f"ACCEPTED: there are {len(outcome.disks)} disks in it now", False)

    async def _file_taken(self) -> Answer:
        twin = self.twin("c")
        disk = {
            **file_disk(twin, self.names.volume_path(self.name), SIZE),
            "comment": self.mark(twin),
        }
        outcome = await self.do(Expect(disks=1), AddDisk(disk))
        return (
            Answer(f"refused: {outcome.error}")
            if outcome.error
            else Answer("a second disk over a file in use is accepted; the driver never asks for one")
        )

    async def _long_slot(self) -> Answer:
        twin = self.twin("d")
        slot = f"{self.name}-{'x' * SLOT_LENGTH}"[: SLOT_LENGTH + 1]
        disk = {**file_disk(slot, self.names.volume_path(twin), SIZE), "comment": self.mark(twin)}
        anchors = Anchors(slots=(slot,), paths=(self.names.volume_path(twin),))
        outcome = await self.execute(anchors, Expect(disks=0), AddDisk(disk))
        if outcome.error:
            return Answer(f"refused: {outcome.error}")
        return Answer(f"accepted as {only(outcome).slot!r}")

    async def _missing_directory(self) -> Answer:
        twin = self.twin("e")
        directory = f"{self.names.directory}/{twin}.d"
        disk = {**file_disk(twin, f"{directory}/volume.img", SIZE), "comment": self.mark(twin)}
        outcome = await self.execute(Anchors(slots=(twin,)), Expect(disks=0), AddDisk(disk))
        return Answer(f"refused: {outcome.error}") if outcome.error else Answer("it is made by itself")

    async def _growth(self) -> Answer:
        outcome = await self.set({"file-size": str(LARGER)})
        if outcome.error:
            return Answer(f"refused: {outcome.error}", False)
        size = only(outcome).size
        return Answer(f"{LARGER} bytes asked for, {size} read back", size == LARGER)

    async def _shrinking(self) -> Answer:
        outcome = await self.set({"file-size": str(SIZE)})
        size = only(outcome).size
        return Answer(
            f"refused: {outcome.error}" if outcome.error else f"accepted: {size} bytes; the driver never asks"
        )

    async def _export(self) -> Answer:
        nqn = self.names.nqn(self.name)
        port = self.options.nvme_port
        wanted = {EXPORT: "yes", "nvme-tcp-server-port": str(port), "nvme-tcp-server-nqn": nqn}
        outcome = await self.set(wanted)
        if outcome.error:
            return Answer(f"refused: {outcome.error}", False)
        disk = only(outcome)
        return Answer(f"exported={disk.exported} as {disk.nqn} at {disk.port}", disk.exported and disk.nqn == nqn)

    async def _allowed_hosts(self) -> Answer:
        told = []
        for hosts in (_HOSTS[:1], _HOSTS):
            outcome = await self.set({ALLOW_HOSTS: HOST_SEPARATOR.join(hosts)})
            if outcome.error:
                told.append(f"{len(hosts)} refused: {outcome.error}")
            else:
                told.append(f"{len(hosts)} read back as {HOST_SEPARATOR.join(only(outcome).allow_hosts)!r}")
        await self.set({ALLOW_HOSTS: ""})
        return Answer("; ".join(told) + ". Whether they are enforced is seen only from a host")

    async def _nqn_taken(self) -> Answer:
        twin = self.twin("f")
        outcome = await self.make(twin, size=SIZE)
        if outcome.error:
            return Answer(f"not tried, the second disk was refused: {outcome.error}")
        nqn = self.names.nqn(self.name)
        anchors = Anchors(slots=(twin,))
        outcome = await self.execute(anchors, Expect(disks=1), SetDisk({EXPORT: "yes", "nvme-tcp-server-nqn": nqn}))
        await self.execute(anchors, Expect(disks=1), SetDisk({EXPORT: "no"}), RemoveDisk())
        return (
            Answer(f"refused: {outcome.error}")
            if outcome.error
            else Answer("two disks with one NQN are accepted; the driver never asks for that")
        )

    async def _removal(self) -> Answer:
        outcome = await self.do(Expect(disks=1), RemoveDisk())
        if outcome.error or outcome.disks:
            return Answer(f"an exported disk is not removed: {outcome.error or 'it is still there'}", False)
        left = await self.files()
        return Answer("the file stays" if self.names.volume_path(self.name) in left else "the file goes with the disk")

    async def _existing_file(self) -> Answer:
        path = self.names.volume_path(self.name)
        if path not in await self.files():
            return Answer("not tried: there is no file")
        told = []
        for size in (None, LARGEST):
            disk = {**file_disk(self.name, path, size), "comment": self.mark(self.name)}
            outcome = await self.do(Expect(disks=0), AddDisk(disk))
            how = "without a size" if size is None else f"with {size}"
            told.append(f"{how} {f'refused: {outcome.error}' if outcome.error else f'has {only(outcome).size} bytes'}")
            await self.do(Expect(disks=1), RemoveDisk())
        return Answer("; ".join(told) + ". Whether its contents are kept is seen only from a host")

    async def _copy(self) -> Answer:
        twin = self.twin("g")
        source, copy = self.names.volume_path(self.name), self.names.volume_path(twin)
        disk = {**file_disk(twin, copy, None), "comment": self.mark(twin)}
        anchors = Anchors(slots=(twin,), paths=(copy,))
        then = Command(anchors, (Deed(Expect(disks=0), (AddDisk(disk),)),))
        job = await self.client.copy_file(source, copy, then)

        async def ended() -> bool | None:
            return None if job in await self.client.running_jobs() else True

        over = await poll(ended, timeout=_COPY_SECONDS, clock=self._clock, pace=_COPY_PACE)
        found = await self.client.find_disks(anchors)
        size = found[0].size if found else 0
        state = "has ended" if over else "still runs"
        return Answer(f"the job {state}; the copy is a disk of {size} bytes", bool(over) and size >= SIZE)

    async def _subvolumes(self) -> Answer:
        one, two = self.twin("h"), self.twin("i")
        nested = replace(self.names, subvolumes=True)
        first, second = nested.volume_subvolume(one), nested.volume_subvolume(two)
        disk = {**file_disk(one, nested.volume_path(one), SIZE), "comment": self.mark(one)}
        clone = {**file_disk(two, nested.volume_path(two), None), "comment": self.mark(two)}
        anchors = Anchors(slots=(one,))
        outcome = await self.execute(anchors, Expect(disks=0), AddSubvolume(self.label, first), AddDisk(disk))
        if outcome.error:
            return Answer(f"refused: {outcome.error}", False)
        snapshot = AddSubvolume(self.label, second, parent=first)
        outcome = await self.execute(Anchors(slots=(two,)), Expect(disks=0), snapshot, AddDisk(clone))
        if outcome.error:
            return Answer(f"a snapshot of a subvolume with a disk in it: {outcome.error}", False)
        size = only(outcome).size
        return Answer(f"a disk over the file in a snapshot has {size} bytes", size == SIZE)


_FIRST = "size"
