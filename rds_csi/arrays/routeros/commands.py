"""Guarded commands: what must hold, what is then done, and what is there afterwards, each as one value object.

Over SSH a command is one script, so the device itself decides in one go; over REST the client looks, asks ``admits``,
and does the steps one by one. Either way the caller gets an ``Outcome``: the truth after the command.

Every text in a command is checked when the command is made (``check_value``; InvalidArgument), whatever carries it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rds_csi.arrays.routeros.records import Disk, File
from rds_csi.arrays.routeros.values import check_properties, check_value, normal_path
from rds_csi.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Anchors:
    """What finds a disk: any of these, each an exact match. ``paths`` (normalised) also find files.

    A volume is looked up by all that could clash with it, so that a disk of ours which was renamed by hand is still
    found, and a foreign one which took the name is seen.
    """

    slots: tuple[str, ...] = ()
    nqns: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.slots or self.nqns or self.paths) or "" in (*self.slots, *self.nqns, *self.paths):
            raise ValueError(f"anchors that find nothing, or everything: {self}")
        for text in (*self.slots, *self.nqns):
            check_value(text, "what a disk is looked up by")
        if any(normal_path(path) != path for path in self.paths):
            raise InvalidArgument(f"the paths {self.paths} are not in their normal form")

    def match(self, disk: Disk) -> bool:
        """Whether they find ``disk``."""
        return disk.slot in self.slots or disk.nqn in self.nqns or disk.file_path in self.paths


@dataclass(frozen=True, slots=True)
class AddDisk:
    """Add a disk with these properties (RouterOS's names and values); the steps that follow speak of it."""

    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SetDisk:
    """Set properties of the one disk that was found or added."""

    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RemoveDisk:
    """Remove the one disk that was found or added, its export first where the device wants that. Its file stays."""


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory in one that is there; one that is there already is fine."""

    path: str


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Remove a file or a directory; an absent one is fine. ``within`` is a directory without which it is not known to
    be absent (its pool is away), so that the step is refused; "" asks for none."""

    path: str
    within: str = ""


@dataclass(frozen=True, slots=True)
class AddSubvolume:
    """Add a btrfs subvolume; with a ``parent`` it is a snapshot of that one. Refused when the name is taken: over SSH
    by the script itself, over REST by the device."""

    filesystem: str
    name: str
    parent: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class RemoveSubvolume:
    """Remove a btrfs subvolume with all that is in it; an absent one is fine, but for ``mounted`` not where the
    filesystem is not there itself."""

    filesystem: str
    name: str
    mounted: bool = False


Step = AddDisk | SetDisk | RemoveDisk | MakeDirectory | RemoveFile | AddSubvolume | RemoveSubvolume


@dataclass(frozen=True, slots=True)
class Expect:
    """What must hold of the disks that the anchors find, and (``no_file``) of the files at the anchors' paths.

    ``disks`` is how many are found. The rest speaks of the one disk: its id ("": any), its whole ``comment`` (None:
    any), and that its size is below ``smaller`` bytes (0: any), since a late growth would cut a larger file off.
    """

    disks: int
    disk_id: str = ""
    comment: str | None = None
    smaller: int = 0
    no_file: bool = False

    def __post_init__(self) -> None:
        if min(self.disks, self.smaller) < 0 or (self.disks != 1 and self.speaks_of_a_disk):
            raise ValueError(f"an expectation that cannot be: {self}")
        if not re.fullmatch(r"(\*[0-9A-Fa-f]+)?", self.disk_id):
            raise InvalidArgument(f"{self.disk_id[:40]!r} is no id of a disk")
        check_value(self.comment or "", "what a comment is compared with")

    @property
    def speaks_of_a_disk(self) -> bool:
        """Whether it asks anything of the one disk."""
        return bool(self.disk_id or self.smaller or self.comment is not None)


@dataclass(frozen=True, slots=True)
class Deed:
    """Steps that are done, in this order, when the expectation holds. Without any it only tells the case."""

    expect: Expect
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        there = self.expect.disks == 1
        for step in self.steps:
            _check_step(step)
            if isinstance(step, SetDisk | RemoveDisk) and not there:
                raise ValueError(f"{step} speaks of a disk that is not there: {self}")
            if isinstance(step, AddDisk | RemoveDisk):
                there = isinstance(step, AddDisk)


def _check_step(step: Step) -> None:
    match step:
        case AddDisk(properties) | SetDisk(properties):
            check_properties(properties)
        case MakeDirectory(path):
            normal_path(path)
        case RemoveFile(path, within):
            normal_path(path)
            normal_path(within or path)
        case AddSubvolume(filesystem, name, parent):
            for path in (name, parent or name):
                normal_path(path)
            check_value(filesystem, "a filesystem")
        case RemoveSubvolume(filesystem, name):
            normal_path(name)
            check_value(filesystem, "a filesystem")


@dataclass(frozen=True, slots=True)
class Command:
    """The first deed whose expectation holds is done; when none does, nothing is."""

    anchors: Anchors
    deeds: tuple[Deed, ...]

    def __post_init__(self) -> None:
        if any(deed.expect.no_file for deed in self.deeds) and not self.anchors.paths:
            raise ValueError("no_file without a path to look at")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to.

    ``done``: the index of the deed, −1 when none held. ``error``: RouterOS's words when one of its steps was refused,
    what came before it in the deed is done. ``disks`` (by the anchors) and ``files`` (at their paths) are what is
    there AFTERWARDS. ``files_known`` is False when nothing was asked about the files: over REST a look that is not
    needed costs a request; "not told" must not be read as "absent".
    """

    done: int
    error: str = ""
    disks: tuple[Disk, ...] = ()
    files: tuple[File, ...] = field(default=())
    files_known: bool = True


def admits(expect: Expect, disks: Iterable[Disk], files: Iterable[File]) -> bool:
    """Whether ``expect`` holds of what the anchors find: the one place that decides in Python."""
    found = tuple(disks)
    if len(found) != expect.disks or (expect.no_file and any(files)):
        return False
    return not expect.speaks_of_a_disk or _admits_disk(expect, found[0])


def _admits_disk(expect: Expect, disk: Disk) -> bool:
    return (
        expect.disk_id in ("", disk.id)
        and expect.comment in (None, disk.comment)
        and (not expect.smaller or disk.size < expect.smaller)
    )


def decide(command: Command, disks: Iterable[Disk], files: Iterable[File]) -> int:
    """The index of the deed that is to be done, −1 for none."""
    found, there = tuple(disks), tuple(files)
    return next((index for index, deed in enumerate(command.deeds) if admits(deed.expect, found, there)), -1)
