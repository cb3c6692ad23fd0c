"""A RouterOS device made of memory, and a client of it: a first-class implementation of ``Client``, with faults.

It decides by ``commands.decide`` like the REST client. Files carry a ``content``, so that a test can tell whose data is
where. Space is thick: a file takes its size until it is removed, whatever becomes of its disk.
"""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    MakeDirectory,
    Outcome,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    Step,
    decide,
)
from rds_csi.arrays.routeros.errors import LostReply, Unsent
from rds_csi.arrays.routeros.records import DeviceFacts, Disk, File, Subvolume, Version
from rds_csi.arrays.routeros.values import check_value, normal_path
from rds_csi.model.sizes import GIB

POOL = "raid10"
LABEL = "data"

# Faults of one call: it never arrives; it arrives and is not done, or is done, or is done half, and its reply is lost;
# the first writing step is refused; a look or a write finds the device away.
UNSENT, DROPPED, LOST, HALF, REFUSED = "unsent", "dropped", "lost", "half", "refused"


class StepRefused(Exception):
    """RouterOS's words."""


@dataclass
class Stored:
    """A file: ``size`` bytes, of which ``taken`` count in the pool (a reflinked copy takes none)."""

    size: int
    content: str
    taken: int


@dataclass
class Copying:
    """A job that copies a file; ``fraction`` of it is written at each look at the jobs."""

    source: str
    destination: str
    then: Command
    looks: int


@dataclass
class MemoryDevice:
    """The device. ``calls`` are the names of the client's methods in order; each is one exec over SSH."""

    size: int = 100 * GIB
    version: Version = field(default_factory=lambda: Version((7, 24, 1), "7.24.1 (stable)"))
    packages: frozenset[str] = frozenset({"routeros", "rose-storage"})
    fs: str = "xfs"
    disks: dict[str, Disk] = field(default_factory=dict)
    files: dict[str, Stored] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {POOL})
    subvolumes: set[str] = field(default_factory=set)
    jobs: dict[str, Copying] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    faults: deque[str] = field(default_factory=deque)
    # Whether a read meets the next fault, too.
    faulty_looks: bool = False
    away: bool = False
    # Looks at the jobs that a copy takes.
    copy_looks: int = 2
    # RouterOS as some fear it is: sizes that are set are not taken on.
    grows: bool = True
    short_by: int = 0
    refusal: str = "failure: something went wrong"
    during_copy: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self._ids = itertools.count(16)
        self._contents = itertools.count(1)
        self.disks["*1"] = Disk(
            "*1", slot=POOL, type="raid", fs=self.fs, fs_label=LABEL, state="clean", mounted=True, mount_point=POOL
        )

    @property
    def free(self) -> int:
        return self.size - sum(file.taken for file in self.files.values())

    def all_disks(self) -> tuple[Disk, ...]:
        """Every disk, the pool's free bytes as they are now."""
        return tuple(map(self._shown, self.disks.values()))

    def _shown(self, disk: Disk) -> Disk:
        """As RouterOS shows it: free bytes as they are now; nothing of an export that is switched off."""
        if disk.slot == POOL:
            return replace(disk, size=self.size, free=self.free if disk.mounted else None)
        return disk if disk.exported else replace(disk, nqn="", port=0, allow_hosts=())

    def find(self, anchors: Anchors) -> tuple[Disk, ...]:
        return tuple(disk for disk in self.all_disks() if anchors.match(disk))

    def by_slot(self, slot: str) -> Disk:
        (disk,) = [disk for disk in self.disks.values() if disk.slot == slot]
        return disk

    def change(self, called: str, /, **properties: object) -> None:
        """What somebody does by hand."""
        disk = self.by_slot(called)
        self.disks[disk.id] = replace(disk, **properties)  # type: ignore[arg-type]  # a test's own fields

    def put(self, **properties: object) -> Disk:
        """Add a disk that somebody else made, with its file."""
        disk = Disk(f"*{next(self._ids):X}", **properties)  # type: ignore[arg-type]  # a test's own fields
        self.disks[disk.id] = disk
        if disk.file_path:
            self.files[disk.file_path] = Stored(disk.size, f"foreign {disk.slot}", disk.size)
        return disk

    def run_jobs(self) -> None:
        """Let every job finish."""
        for job_id in list(self.jobs):
            self._complete(job_id)

    def kill_jobs(self) -> None:
        """A reboot: the parts stay."""
        self.jobs.clear()

    def execute(self, command: Command, *, refuse: bool = False, steps: int | None = None) -> Outcome:
        """Do it: ``refuse`` its first step, or stop silently after so many steps."""
        files = self._files_at(command.anchors)
        index = decide(command, self.find(command.anchors), files)
        error = ""
        if index >= 0:
            found = self.find(command.anchors)
            current = found[0].id if len(found) == 1 else ""
            todo = command.deeds[index].steps[:steps]
            try:
                for step in todo:
                    if refuse:
                        raise StepRefused(self.refusal)
                    current = self._do(step, current)
            except StepRefused as caught:
                error = str(caught)
        return Outcome(index, error, self.find(command.anchors), self._files_at(command.anchors))

    def start_copy(self, source: str, destination: str, then: Command) -> str:
        if source not in self.files or destination in self.files:
            # The job is started, and dies at once.
            return f"*{next(self._ids):X}"
        self.files[destination] = Stored(0, "part", 0)
        job_id = f"*{next(self._ids):X}"
        self.jobs[job_id] = Copying(source, destination, then, self.copy_looks)
        return job_id

    def look_at_jobs(self) -> frozenset[str]:
        for job_id, job in list(self.jobs.items()):
            self.during_copy()
            job.looks -= 1
            part = self.files.get(job.destination)
            if part is not None:
                part.size += 1
            if job.looks < 0:
                self._complete(job_id)
        return frozenset(self.jobs)

    def _complete(self, job_id: str) -> None:
        job = self.jobs.pop(job_id)
        source = self.files.get(job.source)
        if source is None or job.destination not in self.files or source.size > self.free:
            return
        self.files[job.destination] = Stored(source.size, source.content, source.size)
        self.execute(job.then)

    def _files_at(self, anchors: Anchors) -> tuple[File, ...]:
        return tuple(File("*0", path, "file", self.files[path].size) for path in anchors.paths if path in self.files)

    def _do(self, step: Step, current: str) -> str:
        match step:
            case AddDisk(properties):
                return self._add_disk(dict(properties))
            case SetDisk(properties):
                self._set_disk(current, dict(properties))
            case RemoveDisk():
                del self.disks[current]
            case MakeDirectory(path):
                if path.rpartition("/")[0] not in self.directories:
                    raise StepRefused("failure: no such directory")
                self.directories.add(path)
            case RemoveFile(path):
                self._refuse_in_use(path)
                self.files.pop(path, None)
            case AddSubvolume(filesystem, name, parent):
                self._add_subvolume(filesystem, name, parent)
            case RemoveSubvolume(_, name):
                self._refuse_in_use(f"{POOL}/{name}/")
                self.subvolumes.discard(name)
                self.directories.discard(f"{POOL}/{name}")
                for path in [path for path in self.files if path.startswith(f"{POOL}/{name}/")]:
                    del self.files[path]
        return current

    def _add_disk(self, properties: dict[str, str]) -> str:
        path = normal_path(properties["file-path"])
        if any(disk.slot == properties["slot"] for disk in self.disks.values()):
            raise StepRefused("failure: already have such entry")
        if path.rpartition("/")[0] not in self.directories:
            raise StepRefused("failure: cannot open file")
        size = int(properties.get("file-size", "0"))
        if path not in self.files:
            if size > self.free:
                raise StepRefused("failure: operation failed")
            size = size - self.short_by
            self.files[path] = Stored(size, f"content {next(self._contents)}", size)
        disk_id = f"*{next(self._ids):X}"
        disk = Disk(disk_id, type="file", slot=properties["slot"], file_path=path, size=self.files[path].size)
        self.disks[disk_id] = disk
        self._set_disk(disk_id, {key: value for key, value in properties.items() if key != "file-size"})
        return disk_id

    def _set_disk(self, disk_id: str, properties: dict[str, str]) -> None:
        disk = self.disks[disk_id]
        for key, value in properties.items():
            check_value(value, key)
        if "file-size" in properties and self.grows:
            stored, size = self.files[disk.file_path], int(properties["file-size"])
            if size < stored.size:
                raise AssertionError(f"{disk.slot} was made smaller: {stored.size} to {size}")
            if size - stored.size > self.free:
                raise StepRefused("failure: operation failed")
            self.files[disk.file_path] = Stored(size, stored.content, stored.taken + size - stored.size)
            disk = replace(disk, size=size)
        hosts = properties.get("nvme-tcp-server-allow-host-name")
        self.disks[disk_id] = replace(
            disk,
            comment=properties.get("comment", disk.comment),
            nqn=properties.get("nvme-tcp-server-nqn", disk.nqn),
            port=int(properties.get("nvme-tcp-server-port", disk.port)),
            exported=properties.get("nvme-tcp-export", "yes" if disk.exported else "no") == "yes",
            allow_hosts=disk.allow_hosts if hosts is None else tuple(part for part in hosts.split(",") if part),
        )

    def _add_subvolume(self, filesystem: str, name: str, parent: str) -> None:
        directory = f"{POOL}/{name}"
        if filesystem != LABEL or name in self.subvolumes or directory.rpartition("/")[0] not in self.directories:
            raise StepRefused("failure: cannot create subvolume")
        if parent and parent not in self.subvolumes:
            raise StepRefused("input does not match any value of parent")
        self.subvolumes.add(name)
        self.directories.add(directory)
        if parent:
            prefix = f"{POOL}/{parent}/"
            for path in [path for path in self.files if path.startswith(prefix)]:
                copied = self.files[path]
                self.files[f"{directory}/{path.removeprefix(prefix)}"] = Stored(copied.size, copied.content, 0)

    def _refuse_in_use(self, path: str) -> None:
        if any(f"{disk.file_path}/".startswith(path.rstrip("/") + "/") for disk in self.disks.values()):
            raise StepRefused("failure: in use")


class MemoryClient:
    """A client of the device."""

    def __init__(self, device: MemoryDevice) -> None:
        self._device = device

    async def execute(self, command: Command) -> Outcome:
        fault = self._arrive("execute")
        if fault == DROPPED:
            raise LostReply("the connection was closed")
        if fault == HALF:
            self._device.execute(command, steps=1)
            raise LostReply("the connection was closed")
        outcome = self._device.execute(command, refuse=fault == REFUSED)
        if fault == LOST:
            raise LostReply("the connection was closed")
        return outcome

    async def find_disks(self, anchors: Anchors) -> tuple[Disk, ...]:
        self._look("find_disks")
        return self._device.find(anchors)

    async def list_disks(self) -> tuple[Disk, ...]:
        self._look("list_disks")
        return self._device.all_disks()

    async def list_files(self, directory: str) -> tuple[File, ...]:
        self._look("list_files")
        return tuple(
            File("*0", path, "file", stored.size)
            for path, stored in self._device.files.items()
            if path.startswith(f"{directory}/")
        )

    async def list_subvolumes(self) -> tuple[Subvolume, ...]:
        self._look("list_subvolumes")
        return tuple(Subvolume("*0", LABEL, name) for name in sorted(self._device.subvolumes))

    async def facts(self) -> DeviceFacts:
        self._look("facts")
        device = self._device
        return DeviceFacts(device.version, "RDS2216", "arm64", device.packages, "csi", frozenset())

    async def copy_file(self, source: str, destination: str, then: Command) -> str:
        fault = self._arrive("copy_file")
        if fault in (DROPPED, REFUSED):
            raise LostReply("the connection was closed")
        job = self._device.start_copy(source, destination, then)
        if fault in (LOST, HALF):
            raise LostReply("the connection was closed")
        return job

    async def running_jobs(self) -> frozenset[str]:
        self._look("running_jobs")
        return self._device.look_at_jobs()

    async def close(self) -> None:
        return

    def _arrive(self, name: str) -> str:
        self._device.calls.append(name)
        if self._device.away:
            raise Unsent("the device is away")
        fault = self._device.faults.popleft() if self._device.faults else ""
        if fault == UNSENT:
            raise Unsent("the device is away")
        return fault

    def _look(self, name: str) -> None:
        self._device.calls.append(name)
        if self._device.away:
            raise Unsent("the device is away")
        if self._device.faulty_looks and self._device.faults and self._device.faults.popleft():
            raise LostReply("the connection was closed")
