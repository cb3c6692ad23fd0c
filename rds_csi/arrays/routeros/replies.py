"""Replies made into records: JSON from ``:serialize`` (typed) and from REST (all strings), each parsed once.

A field that RouterOS left out is as good as unset, an unknown one is ignored; but a value of the wrong shape, or an
item without what makes it one, is GarbageReply: "cannot know" must never be read as "absent".
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from rds_csi.arrays.routeros.errors import GarbageReply
from rds_csi.arrays.routeros.records import Disk, File, Job, Subvolume, Version
from rds_csi.arrays.routeros.values import normal_path
from rds_csi.errors import InvalidArgument

T = TypeVar("T")

_TRUE = ("true", "yes")
_FALSE = ("false", "no", "")
# Up to this every integer is a float of its own (IEEE 754, double).
_EXACT = 2**53
_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?!\d)")

# What RouterOS prints for "not set" where a name or word is expected.
_NOTHING = ("none", "-")


def _as_text(value: object) -> object:
    return "" if value is None else value


def _as_word(value: object) -> object:
    return "" if value is None or value in _NOTHING else value


def _as_flag(value: object) -> object:
    if value is None or value in _FALSE:
        return False
    return True if value in _TRUE else value


def _as_number(value: object) -> object:
    """A plain integer of bytes; human forms (``50.0GiB``, grouped digits) are refused, not guessed at.
    ``:serialize`` may write a number with a fraction of zeros, which is exact as far as a float counts bytes."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    return None if value in ("", "none", "-") else value


def _as_path(value: object) -> object:
    """A normalised path. A name that the driver never gives (blanks, other letters) stays as it is, unnormalised
    but for its slashes: it can equal none of ours."""
    if not isinstance(value, str) or value in ("", "-"):
        return _as_word(value)
    try:
        return normal_path(value)
    except InvalidArgument:
        return value.removeprefix("/")


def _as_words(value: object) -> object:
    parts = value if isinstance(value, list) else str(_as_text(value)).split(",")
    return tuple(str(part) for part in parts if part)


_Text = Annotated[str, BeforeValidator(_as_text)]
_Word = Annotated[str, BeforeValidator(_as_word)]
_Flag = Annotated[bool, BeforeValidator(_as_flag)]
_Number = Annotated[int | None, Field(strict=True, ge=0), BeforeValidator(_as_number)]
_Path = Annotated[str, BeforeValidator(_as_path)]
_Words = Annotated[tuple[str, ...], BeforeValidator(_as_words)]
# Ids are hexadecimal numbers: one spelling, by which they are compared.
_Id = Annotated[str, Field(pattern=r"^\*+[0-9A-Za-z]+$"), AfterValidator(str.upper)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    id: _Id = Field(alias=".id")


class _DiskRow(_Row):
    slot: _Text = ""
    type: _Text = ""
    comment: _Text = ""
    size: _Number = None
    file_path: _Path = Field("", alias="file-path")
    exported: _Flag = Field(False, alias="nvme-tcp-export")
    nqn: _Text = Field("", alias="nvme-tcp-server-nqn")
    port: _Number = Field(None, alias="nvme-tcp-server-port")
    allow_hosts: _Words = Field((), alias="nvme-tcp-server-allow-host-name")
    fs: _Word = ""
    fs_label: _Text = Field("", alias="fs-label")
    state: _Text = ""
    mounted: _Flag = False
    mount_point: _Path = Field("", alias="mount-point")
    free: _Number = None
    disabled: _Flag = False
    parent: _Word = ""

    def record(self) -> Disk:
        if self.type == "file" and not (self.slot and self.file_path):
            raise GarbageReply(f"the disk {self.id} came without its slot or its file")
        return Disk(**{**dict(self), "size": self.size or 0, "port": self.port or 0})


class _FileRow(_Row):
    name: _Path
    type: _Text = ""
    size: _Number = None

    def record(self) -> File:
        return File(self.id, self.name, self.type, self.size or 0)


class _SubvolumeRow(_Row):
    fs: _Text
    name: _Path = ""
    read_only: _Flag = Field(False, alias="read-only")

    def record(self) -> Subvolume:
        return Subvolume(self.id, self.fs, self.name, self.read_only)


class _JobRow(_Row):
    owner: _Text = ""

    def record(self) -> Job:
        return Job(self.id, self.owner)


_DISKS = TypeAdapter(list[_DiskRow])
_FILES = TypeAdapter(list[_FileRow])
_SUBVOLUMES = TypeAdapter(list[_SubvolumeRow])
_JOBS = TypeAdapter(list[_JobRow])
_OBJECT = TypeAdapter(dict[str, object])
_OBJECTS = TypeAdapter(list[dict[str, object]])


def parse_json(text: str) -> object:
    """The value of a JSON text; GarbageReply for anything else."""
    try:
        # Other people's comments may hold any character; ours are ASCII.
        value: object = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise GarbageReply(f"the array's reply is no JSON: {text[:80]!r}") from None
    return value


def parse_disks(reply: object) -> tuple[Disk, ...]:
    """Items of ``/disk``, in the device's order."""
    return tuple(row.record() for row in _rows(_DISKS, reply, "/disk"))


def parse_files(reply: object) -> tuple[File, ...]:
    """Items of ``/file``."""
    return tuple(row.record() for row in _rows(_FILES, reply, "/file"))


def parse_subvolumes(reply: object) -> tuple[Subvolume, ...]:
    """Items of ``/disk/btrfs/subvolume``."""
    return tuple(row.record() for row in _rows(_SUBVOLUMES, reply, "/disk/btrfs/subvolume"))


def parse_jobs(reply: object) -> tuple[Job, ...]:
    """Items of ``/system/script/job``."""
    return tuple(row.record() for row in _rows(_JOBS, reply, "/system/script/job"))


def parse_object(reply: object, what: str) -> Mapping[str, object]:
    """One object with fields of whatever kind."""
    return _rows(_OBJECT, reply, what)


def parse_objects(reply: object, what: str) -> Sequence[Mapping[str, object]]:
    """A list of such objects."""
    return _rows(_OBJECTS, reply, what)


def parse_version(text: str) -> Version:
    """``7.21.2 (stable)``, ``7.22rc1 (testing)`` and the like; GarbageReply for what has no number."""
    found = _VERSION.match(text)
    if found is None:
        raise GarbageReply(f"the array's version {text[:40]!r} is no version of RouterOS")
    major, minor, patch = found.groups("0")
    return Version((int(major), int(minor), int(patch)), text)


def _rows(adapter: TypeAdapter[T], reply: object, what: str) -> T:
    try:
        return adapter.validate_python(reply)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise GarbageReply(f"the array's list of {what} is not what RouterOS tells ({place}: {first['msg']})") from None
