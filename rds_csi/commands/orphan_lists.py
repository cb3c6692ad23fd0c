"""The files of the orphan report: the handles that a cluster has, and the ids of what is to be deleted."""

import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from rds_csi.arrays.routeros.objects import ObjectKind
from rds_csi.commands.orphan_decision import InUse
from rds_csi.errors import ConfigurationError
from rds_csi.workers import Workers

_SNAPSHOTS = "s:"
_NONE = "none"
# Bytes. A million handles.
_MAX_BYTES = 64 << 20
FILE_SECONDS = 30.0
# Seconds that a list of handles may be old when something is deleted by it.
FRESH_SECONDS = 900.0
# Seconds that the clock of the machine which made it may be ahead.
_AHEAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class InUseList:
    """What a list says, and when it was made: the file's last change, Unix time in seconds."""

    in_use: InUse
    made: float


Source = Callable[[], Awaitable[InUseList]]


def in_use_source(path: str, workers: Workers) -> Source:
    """Reads the list anew at each call; ConfigurationError when it cannot be used."""

    async def read() -> InUseList:
        text, made = await read_text(path, "--in-use", workers)
        return InUseList(parse_in_use(text), made)

    return read


def why_stale(made: float, wall: float) -> str:
    """Why nothing is deleted by a list that was made then; "" when it is fresh."""
    if made > wall + _AHEAD_SECONDS:
        return "the list of what is in use is from the future: set the clocks, and make it anew"
    if wall - made > FRESH_SECONDS:
        return f"the list of what is in use is {wall - made:.0f} s old, more than {FRESH_SECONDS:.0f}: make it anew"
    return ""


def parse_in_use(text: str) -> InUse:
    """Handles of volumes, one a line; ``s:`` stands before those of snapshots (alone: they are told as well).
    ``# none`` says that there are no volumes, ``s: none`` that there are no snapshots; else ``#`` begins a comment.

    ConfigurationError for a text that says nothing, or that there are none and names one.
    """
    lines = _lines(text)
    no_volumes = any(line.startswith("#") and line[1:].strip() == _NONE for line in map(str.strip, text.splitlines()))
    if not lines and not no_volumes:
        raise ConfigurationError(
            "the list of what is in use is empty: was its command refused?",
            remedy="If really nothing is in use, write the one line: # none",
        )
    told = [line.removeprefix(_SNAPSHOTS) for line in lines if line.startswith(_SNAPSHOTS)]
    no_snapshots = any(line != _NONE and line.strip() == _NONE for line in told)
    snapshots = frozenset(line.strip() for line in told if line == _NONE or line.strip() not in ("", _NONE))
    volumes = frozenset(line for line in lines if not line.startswith(_SNAPSHOTS))
    if (no_volumes and volumes) or (no_snapshots and snapshots):
        raise ConfigurationError(
            "the list of what is in use says that there is none, and names some", remedy="Make it anew."
        )
    return InUse(volumes, snapshots if told else None, no_volumes=no_volumes, no_snapshots=no_snapshots)


def parse_list(text: str, arrays: Collection[str] = ("",)) -> Sequence[str]:
    """The ids in a list of what to delete, as the report prints them. ``arrays``: the known names, "" for the only
    one. ConfigurationError for a line that can be none of its ids."""
    keys = tuple(dict.fromkeys(_lines(text)))
    for key in keys:
        name, _, own = key.partition(":") if "" not in arrays else ("", "", key)
        kind, _, rest = own.partition("/")
        if name not in arrays or kind not in set(ObjectKind) or not rest:
            form = "volume/…, snapshot/… or leftover/…"
            named = "" if "" in arrays else f" behind ARRAY: (the arrays are {', '.join(arrays)})"
            raise ConfigurationError(
                f"--delete has the line {key[:100]!r}, which is no id of the report",
                remedy=f"Copy ids from the report: {form}{named}.",
            )
    return keys


def _lines(text: str) -> Sequence[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


async def read_text(path: str, flag: str, workers: Workers) -> tuple[str, float]:
    """The text in the file, and when that was last changed; ConfigurationError, naming the flag."""

    def read() -> tuple[bytes, float]:
        with open(path, "rb") as stream:
            return stream.read(_MAX_BYTES + 1), os.fstat(stream.fileno()).st_mtime

    try:
        data, made = await workers.run(read, timeout=FILE_SECONDS)
        if len(data) > _MAX_BYTES:
            raise ConfigurationError(f"{flag} {path} is larger than {_MAX_BYTES} bytes", remedy="Name the right file.")
        return data.decode(), made
    except OSError as error:
        raise ConfigurationError(
            f"{flag} {path} cannot be read: {error.strerror}", remedy="Name a file with one line for each."
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{flag} {path} is not text", remedy="Name the right file.") from None
