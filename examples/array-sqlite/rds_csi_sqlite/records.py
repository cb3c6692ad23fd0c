"""What is written down: one SQLite file with a row for each volume, snapshot and group. All of it blocks."""

import contextlib
import errno
import fcntl
import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from rds_csi.errors import Aborted, Internal, OutOfRange, ResourceExhausted, Unavailable

VOLUME, SNAPSHOT, GROUP = "volume", "snapshot", "group"
RESERVE_BYTES = 4 << 20

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT NOT NULL, id TEXT NOT NULL, ready INTEGER NOT NULL, grp TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (kind, id)) WITHOUT ROWID;
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A record; one that is not ready is of something half made or half removed."""

    kind: str
    id: str
    ready: bool
    group: str
    body: bytes


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what SQLite and the kernel say into the driver's errors."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        text = f"{what}: {error}"
        if name.startswith("SQLITE_FULL"):
            raise ResourceExhausted(text, remedy="Make room in the array's directory.") from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise Internal(text, remedy="Restore array.db from a backup.") from error
        raise Unavailable(text) from error
    except OSError as error:
        text = f"{what}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(text, remedy="Make room in the array's directory.") from error
        if error.errno == errno.EFBIG:
            raise OutOfRange(text) from error
        raise Unavailable(text) from error


class Records:
    """The file, its locks and its reserve."""

    def __init__(self, directory: str) -> None:
        self._database = os.path.join(directory, "array.db")
        self._lock = os.path.join(directory, "lock")
        self._reserve = os.path.join(directory, "reserve")

    def create(self, owner: str) -> str:
        """Make the file where it is missing; the owner that stands in it."""
        with self._connect("rwc") as db:
            db.executescript(_SCHEMA)
            if db.execute("SELECT 1 FROM meta").fetchone() is None:
                db.execute("INSERT OR IGNORE INTO meta VALUES (1, ?)", (owner,))
            found = db.execute("SELECT owner FROM meta").fetchone()[0]
        os.close(os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return str(found)

    @contextlib.contextmanager
    def _connect(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        # "rw" does not make a missing file: a directory that is no longer mounted is no empty array.
        db = sqlite3.connect(f"file:{quote(self._database)}?mode={mode}", timeout=5, isolation_level=None, uri=True)
        try:
            db.execute("PRAGMA synchronous = FULL")
            yield db
        finally:
            db.close()

    @contextlib.contextmanager
    def locked(
        self, *, alone: Sequence[tuple[str, str]] = (), shared: Sequence[tuple[str, str]] = ()
    ) -> Iterator[None]:
        """Hold these things against threads and processes; a killed one lets go. Aborted when one is held."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            for kind, things in ((fcntl.F_WRLCK, alone), (fcntl.F_RDLCK, shared)):
                for thing in things:
                    place = int.from_bytes(hashlib.sha256("/".join(thing).encode()).digest()[:7], "big")
                    try:
                        # struct flock: type, whence, start, length, pid (fcntl(2)).
                        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, place, 1, 0))
                    except BlockingIOError:
                        raise Aborted(f"something else works on {thing[0]} {thing[1]} now") from None
            yield
        finally:
            os.close(descriptor)

    def get(self, kind: str, id: str) -> Row | None:
        with self._connect() as db:
            found = db.execute("SELECT kind, id, ready, grp, body FROM objects WHERE kind = ? AND id = ?", (kind, id))
            row = found.fetchone()
        return None if row is None else _row(row)

    def ready(self, kind: str) -> list[Row]:
        """The ready ones, by id."""
        return self._select("SELECT kind, id, ready, grp, body FROM objects WHERE kind = ? AND ready ORDER BY id", kind)

    def members(self, group: str) -> list[Row]:
        return self._select(
            "SELECT kind, id, ready, grp, body FROM objects WHERE kind = 'snapshot' AND grp = ? ORDER BY id", group
        )

    def unfinished(self) -> list[Row]:
        return self._select("SELECT kind, id, ready, grp, body FROM objects WHERE NOT ready ORDER BY kind, id")

    def _select(self, query: str, *values: str) -> list[Row]:
        with self._connect() as db:
            return [_row(row) for row in db.execute(query, values)]

    def put(self, rows: Sequence[Row], *, spend: bool = False) -> None:
        """Write all of them, or none. ``spend``: the reserve may be used up for it."""
        change = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)"
        self._write(change, [(row.kind, row.id, row.ready, row.group, row.body) for row in rows], spend)

    def remove(self, rows: Sequence[Row]) -> None:
        self._write("DELETE FROM objects WHERE kind = ? AND id = ?", [(row.kind, row.id) for row in rows], True)

    def _write(self, change: str, values: Sequence[tuple[object, ...]], spend: bool) -> None:
        try:
            self._try_write(change, values)
        except (sqlite3.OperationalError, OSError) as error:
            # A full filesystem shows as FULL, or as an I/O error of the journal.
            if not spend or getattr(error, "sqlite_errorname", "SQLITE_FULL")[:11] not in (
                "SQLITE_FULL",
                "SQLITE_IOER",
            ):
                raise
            os.truncate(self._reserve, 0)
            self._try_write(change, values)

    def _try_write(self, change: str, values: Sequence[tuple[object, ...]]) -> None:
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            # A failure leaves the transaction open: closing rolls it back.
            db.executemany(change, values)
            db.execute("COMMIT")

    def refill(self) -> bool:
        """Set the reserve aside again; False when there is no room for it."""
        try:
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return True


def _row(row: tuple[str, str, int, str, bytes]) -> Row:
    return Row(row[0], row[1], bool(row[2]), row[3], row[4])
