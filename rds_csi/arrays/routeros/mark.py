"""The ownership mark: the comment of a disk, which says whose it is and all that the driver must remember of it.

The text reads ``rds-csi/1/<driver>/<cluster>/v:<id>/…/x:<crc32>`` (``s:`` for snapshots): fields separated by ``/``,
a key and its values by ``:``. In a value only ``A-Z a-z 0-9 . -`` stand for themselves, every other byte of its UTF-8
is ``_XX`` in upper-case hex; so a person can read it in WinBox, and no value can forge a field. A field that says
nothing is left out. Fields, in this order:

``n`` name, when it is not the id · ``p`` thin, when it is not thick · ``c`` content source: kind, id · ``m`` a mutable
parameter: key, value · ``a`` one attachment: node id, host NQN, token, access mode, ``rw`` or ``ro`` · ``o`` the volume
that a snapshot is of · ``t`` when it was made, UTC · ``g`` group: id, name · ``r`` no, while a snapshot is not ready ·
``j`` the job that copies it · ``f`` file, of an adopted disk · ``x`` CRC-32 of everything before ``/x:``, 8 hex digits.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from rds_csi.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from rds_csi.model.parameters import Provisioning
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind

FORMAT = "rds-csi"
VERSION = "1"
# Bytes. A guarded command holds the comment twice for each of its deeds and must stay below RouterOS's 65,535
# characters of a line.
MAX_COMMENT = 16_000

_CHECKSUM = re.compile(r"(.*)/x:([0-9a-f]{8})", re.DOTALL)
_ESCAPE = re.compile(r"_([0-9A-F]{2})")
_SPECIAL = re.compile(rb"[^A-Za-z0-9.-]")
_TIME = "%Y%m%dT%H%M%S.%fZ"


class DamagedMark(FailedPrecondition):
    """A comment that begins like a mark of this driver and is none: edited by hand, cut, or of a newer driver."""


class Kind(Enum):
    """What a disk of ours is."""

    VOLUME = "v"
    SNAPSHOT = "s"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the comment of a disk of ours says. ``driver``, ``cluster`` and ``object_id`` are never empty.

    ``created``, ``source_volume_id``, the group, ``ready`` and ``job`` are for snapshots; ``created`` is UTC.
    ``path`` is the file of an adopted disk, which is ours by the mark and not by its name.
    """

    kind: Kind
    driver: str
    cluster: str
    object_id: str
    name: str
    provisioning: Provisioning = Provisioning.THICK
    source: ContentSource | None = None
    mutable_parameters: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    source_volume_id: str = ""
    created: datetime | None = None
    group_id: str = ""
    group_name: str = ""
    ready: bool = True
    job: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        if not (self.driver and self.cluster and self.object_id):
            raise InvalidArgument(f"an ownership mark needs a driver, a cluster and an id: {self}")
        if self.created is not None and self.created.utcoffset() is None:
            raise InvalidArgument(f"the time of {self.object_id} has no time zone")

    def encode(self) -> str:
        """The comment; ``decode`` reads it back. ResourceExhausted when it would be longer than MAX_COMMENT."""
        text = beginning(self.driver, self.cluster, self.kind, self.object_id) + "/".join(_fields(self))
        text = text.removesuffix("/")
        comment = f"{text}/x:{_checksum(text)}"
        if len(comment) > MAX_COMMENT:
            raise ResourceExhausted(
                f"what is to be remembered of {self.object_id} takes {len(comment)} bytes, more than {MAX_COMMENT}",
                remedy="Detach it from nodes that do not need it.",
            )
        return comment


def beginning(driver: str, cluster: str, kind: Kind, object_id: str) -> str:
    """What the mark of that object begins with, and no other object's."""
    return f"{FORMAT}/{VERSION}/{_escape(driver)}/{_escape(cluster)}/{kind.value}:{_escape(object_id)}/"


def decode(comment: str) -> Mark | None:
    """The mark that ``comment`` is; None when it is none (a foreign disk, or no comment at all).

    DamagedMark when it begins like one, but somebody edited it, or a newer driver wrote it.
    """
    if not comment.startswith(f"{FORMAT}/"):
        return None
    if not comment.startswith(f"{FORMAT}/{VERSION}/"):
        raise DamagedMark(
            f"the comment {comment[:64]!r} is an ownership mark in a format that this version does not know",
            remedy="Use the version of rds-csi that wrote it; nothing is done to the disk.",
        )
    whole = _CHECKSUM.fullmatch(comment)
    if whole is None or _checksum(whole[1]) != whole[2]:
        raise _damaged(comment)
    try:
        mark = _parse(whole[1])
    except (ValueError, LookupError, InvalidArgument):
        raise _damaged(comment) from None
    if mark.encode() != comment:
        raise _damaged(comment)
    return mark


def _damaged(comment: str) -> DamagedMark:
    return DamagedMark(
        f"the ownership mark {comment[:64]!r}… was edited or cut",
        remedy="Restore the disk's comment as it was, or empty it and mark the disk again: rds-csi adopt SLOT "
        "--volume-id ID. Nothing is done to the disk until then.",
    )


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _escape(value: str) -> str:
    data = value.encode("utf-8", "surrogatepass")
    return _SPECIAL.sub(lambda found: b"_%02X" % found[0][0], data).decode("ascii")


def _unescape(text: str) -> str:
    """The value; ValueError for bytes that are no UTF-8. What is not canonical is found by encoding it again."""
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return raw.encode("latin-1").decode("utf-8", "surrogatepass")


def _field(key: str, *values: str) -> str:
    return ":".join((key, *map(_escape, values)))


def _fields(mark: Mark) -> Iterator[str]:
    if mark.name != mark.object_id:
        yield _field("n", mark.name)
    if mark.provisioning is not Provisioning.THICK:
        yield _field("p", mark.provisioning.value)
    if mark.source is not None:
        yield _field("c", mark.source.kind.value, mark.source.source_id)
    for key, value in sorted(mark.mutable_parameters.items()):
        yield _field("m", key, value)
    for one in mark.attachments:
        mode = "ro" if one.readonly else "rw"
        yield _field("a", one.node.node_id, one.node.host_nqn, one.token, one.access_mode.value, mode)
    yield from _snapshot_fields(mark)
    if mark.path:
        yield _field("f", mark.path)


def _snapshot_fields(mark: Mark) -> Iterator[str]:
    if mark.source_volume_id:
        yield _field("o", mark.source_volume_id)
    if mark.created is not None:
        yield _field("t", mark.created.astimezone(UTC).strftime(_TIME))
    if mark.group_id or mark.group_name:
        yield _field("g", mark.group_id, mark.group_name)
    if not mark.ready:
        yield _field("r", "no")
    if mark.job:
        yield _field("j", mark.job)


def _parse(text: str) -> Mark:
    """The mark in a text whose checksum was right; ValueError and the like when a field is not what is written."""
    _, _, driver, cluster, identity, *rest = text.split("/")
    kind, object_id = identity.split(":")
    told = [[key, *map(_unescape, values)] for key, *values in (part.split(":") for part in rest)]
    single = {key: values for key, *values in told if key not in ("a", "m")}
    return Mark(
        kind=Kind(kind),
        driver=_unescape(driver),
        cluster=_unescape(cluster),
        object_id=_unescape(object_id),
        name=_text(single, "n", _unescape(object_id)),
        provisioning=Provisioning(_text(single, "p", Provisioning.THICK.value)),
        source=_source(*single["c"]) if "c" in single else None,
        mutable_parameters=dict(_pair(*values) for key, *values in told if key == "m"),
        attachments=tuple(_attachment(*values) for key, *values in told if key == "a"),
        source_volume_id=_text(single, "o"),
        created=_time(*single["t"]) if "t" in single else None,
        group_id=single.get("g", [""])[0],
        group_name=single.get("g", ["", ""])[1],
        ready=_text(single, "r", "yes") == "yes",
        job=_text(single, "j"),
        path=_text(single, "f"),
    )


def _text(single: Mapping[str, list[str]], key: str, default: str = "") -> str:
    (value,) = single.get(key, [default])
    return value


def _pair(*values: str) -> tuple[str, str]:
    key, value = values
    return key, value


def _source(*values: str) -> ContentSource:
    kind, source_id = values
    return ContentSource(SourceKind(kind), source_id)


def _time(*values: str) -> datetime:
    (value,) = values
    return datetime.strptime(value, _TIME).replace(tzinfo=UTC)


def _attachment(*values: str) -> Attachment:
    node_id, host_nqn, token, mode, access = values
    return Attachment(Node(node_id, host_nqn), token, AccessMode(mode), readonly=access == "ro")
