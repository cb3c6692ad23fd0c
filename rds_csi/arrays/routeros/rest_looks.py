"""Looking over REST: each look is one request, its reply parsed into records."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from rds_csi.arrays.routeros.client import Reply, Session
from rds_csi.arrays.routeros.commands import Anchors
from rds_csi.arrays.routeros.records import Disk, File, Subvolume
from rds_csi.arrays.routeros.replies import parse_disks, parse_files, parse_subvolumes
from rds_csi.arrays.routeros.script_replies import refusal

DISK = "/rest/disk"
FILE = "/rest/file"
SUBVOLUME = "/rest/disk/btrfs/subvolume"

# All that a record is made of: a list of 10,000 disks is half as long without the rest.
_DISK_FIELDS = [
    ".id",
    "slot",
    "type",
    "comment",
    "size",
    "file-path",
    "nvme-tcp-export",
    "nvme-tcp-server-nqn",
    "nvme-tcp-server-port",
    "nvme-tcp-server-allow-host-name",
    "fs",
    "fs-label",
    "state",
    "mounted",
    "mount-point",
    "free",
    "disabled",
    "parent",
]
_FILE_FIELDS = [".id", "name", "type", "size"]
# Requests refused so may still have found nothing to refuse: 404, and 400 with a text.
_FIRST_ERROR = 400


def refused(reply: Reply) -> str:
    """RouterOS's words when it refused the request, else ""."""
    if reply.refusal:
        return reply.refusal
    return f"status {reply.status}" if reply.status >= _FIRST_ERROR else ""


def item_path(menu: str, name: str) -> str:
    """The path of one item by its name, whose slashes are no separators, or by its id, whose ``*`` is sent raw."""
    return f"{menu}/{quote(name, safe='*')}"


async def ask(session: Session, method: str, path: str, body: Mapping[str, object] | None = None) -> object:
    """What a request brought; Refused or NotPermitted in RouterOS's words."""
    reply = await session.request(method, path, body)
    words = refused(reply)
    if words:
        raise refusal(words)
    return reply.json


async def find_disks(session: Session, anchors: Anchors) -> tuple[Disk, ...]:
    """The disks that the anchors find."""
    terms = [f"slot={slot}" for slot in anchors.slots]
    terms += [f"nvme-tcp-server-nqn={nqn}" for nqn in anchors.nqns]
    terms += [f"file-path={form}" for path in anchors.paths for form in (f"/{path}", path)]
    body = {".query": _any_of(terms), ".proplist": _DISK_FIELDS}
    return parse_disks(await ask(session, "POST", f"{DISK}/print", body))


async def list_disks(session: Session) -> tuple[Disk, ...]:
    """Every disk."""
    return parse_disks(await ask(session, "POST", f"{DISK}/print", {".proplist": _DISK_FIELDS}))


async def find_files(session: Session, paths: Sequence[str]) -> tuple[File, ...]:
    """The files at these paths; without any, no request is made."""
    if not paths:
        return ()
    body = {".query": _any_of([f"name={path}" for path in paths]), ".proplist": _FILE_FIELDS}
    return parse_files(await ask(session, "POST", f"{FILE}/print", body))


async def find_subvolumes(session: Session, filesystem: str, name: str) -> tuple[Subvolume, ...]:
    """The subvolumes of that name in that filesystem: one or none."""
    rows = parse_subvolumes(await ask(session, "POST", f"{SUBVOLUME}/print", {".query": [f"name={name}"]}))
    return tuple(row for row in rows if row.filesystem == filesystem)


async def has_filesystem(session: Session, label: str) -> bool:
    """Whether a filesystem of that label is mounted."""
    body = {".query": [f"fs-label={label}"], ".proplist": _DISK_FIELDS}
    return any(disk.mounted for disk in parse_disks(await ask(session, "POST", f"{DISK}/print", body)))


def _any_of(terms: Sequence[str]) -> list[str]:
    """A query in the API's stack form: each term is pushed, ``#|`` joins the two on top."""
    query = [*terms[:1]]
    for term in terms[1:]:
        query += [term, "#|"]
    return query
