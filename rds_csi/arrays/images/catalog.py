"""All records of one kind: the files, and their parsed copies in memory."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic

from rds_csi.arrays.images.folder import RECORD, RETIRED
from rds_csi.arrays.images.records import Codec, R, State
from rds_csi.atomic import remove_durably, sync_directory, write_atomically
from rds_csi.errors import Internal
from rds_csi.model.names import is_id


class Catalog(Generic[R]):
    """The records in one directory.

    Reading is from memory: the directory's lock makes this process the only writer, and memory follows the
    file only after the file is safe. Writing is blocking. Every method may be called from any thread.
    """

    def __init__(self, directory: str, codec: Codec[R], retired: Callable[[R], R]) -> None:
        """``retired`` gives a record's copy in state DELETING."""
        self._directory = directory
        self._codec = codec
        self._retired = retired
        self._guard = threading.Lock()
        self._records: dict[str, R] = {}
        self._damaged: dict[str, str] = {}

    def load(self) -> None:
        """Read every record. A damaged one is kept in mind: asking for it fails, and so does a list."""
        records: dict[str, R] = {}
        damaged: dict[str, str] = {}
        # Sorted: "x.deleting" comes before "x.json". Both are there never, as one is renamed to the other.
        for name in sorted(os.listdir(self._directory)):
            stem, suffix = os.path.splitext(name)
            if suffix not in (RECORD, RETIRED) or not is_id(stem):
                continue
            path = os.path.join(self._directory, name)
            try:
                with open(path, "rb") as stream:
                    record = self._codec.decode(stream.read(), path, stem)
                records[stem] = self._retired(record) if suffix == RETIRED else record
            except Internal as error:
                damaged[stem] = str(error)
            except OSError as error:
                damaged[stem] = f"the record {path} cannot be read: {error.strerror}"
        with self._guard:
            self._records, self._damaged = records, damaged

    def find(self, record_id: str) -> R | None:
        """The record, in whatever state; None when there is none. Internal when it is damaged."""
        with self._guard:
            if record_id in self._damaged:
                raise Internal(self._damaged[record_id])
            return self._records.get(record_id)

    def ready(self, record_id: str) -> R | None:
        """The record if it is READY."""
        record = self.find(record_id)
        return record if record is not None and record.state is State.READY else None

    def all(self) -> Sequence[R]:
        """All records in whatever state, sorted by id, but without damaged ones."""
        with self._guard:
            return [self._records[key] for key in sorted(self._records)]

    def all_ready(self) -> Sequence[R]:
        """The READY ones, sorted by id. Internal when a record is damaged: a list without it would say that
        the volume is gone."""
        with self._guard:
            if self._damaged:
                raise Internal(next(iter(self._damaged.values())))
        return [record for record in self.all() if record.state is State.READY]

    def damaged(self) -> Mapping[str, str]:
        """What is wrong with which record."""
        with self._guard:
            return dict(self._damaged)

    def put(self, record: R) -> None:
        """Write the record in place of an older one."""
        write_atomically(self._path(record.id, RECORD), self._codec.encode(record))
        with self._guard:
            self._records[record.id] = record

    def retire(self, record: R) -> R:
        """Mark the record as DELETING, for good."""
        os.rename(self._path(record.id, RECORD), self._path(record.id, RETIRED))
        retired = self._retired(record)
        with self._guard:
            self._records[record.id] = retired
        sync_directory(self._directory)
        return retired

    def remove(self, record_id: str) -> None:
        """Forget the record; an absent one is fine."""
        for suffix in (RECORD, RETIRED):
            remove_durably(self._path(record_id, suffix))
        with self._guard:
            self._records.pop(record_id, None)

    def _path(self, record_id: str, suffix: str) -> str:
        return os.path.join(self._directory, record_id + suffix)
