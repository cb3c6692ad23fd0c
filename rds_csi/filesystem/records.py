"""Where stage records are kept: one JSON file a volume in a directory that survives the container."""

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rds_csi.atomic import remove_leftovers, sync_directory, write_atomically
from rds_csi.errors import DriverError, InvalidArgument
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.names import is_id
from rds_csi.model.oserrors import as_driver_error
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.model.sizes import INT64_MAX
from rds_csi.model.targets import target_from_context
from rds_csi.tasks import finish
from rds_csi.workers import Workers

log = logging.getLogger(__name__)

# The form of the JSON below. A record of another version counts as none: everything in it is found again.
_VERSION = 1
_SUFFIX = ".json"
# An honest record has about 1 KiB; a larger file is not one of ours.
_MAX_BYTES = 1 << 20
# A local disk under load answers within this time.
_TIMEOUT_SECONDS = 30.0


def to_json(record: StageRecord) -> bytes:
    """The record as the file has it."""
    document = {
        "version": _VERSION,
        "volumeId": record.volume_id,
        "stagingPath": record.staging_path,
        "target": record.target.to_context(),
        "config": record.config.to_context(),
        "size": record.size,
        "attachment": record.attachment,
        "bootId": record.boot_id,
        "block": record.block,
        "fsType": record.fs_type,
        "fsUuid": record.fs_uuid,
        "formatState": record.format_state.value,
        "blockTargets": list(record.block_targets),
        "deviceNumber": record.device_number,
        "devicePath": record.device_path,
        "settled": record.settled,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode("ascii") + b"\n"


def from_json(data: bytes) -> StageRecord:
    """What ``to_json`` wrote. InvalidArgument says what is wrong with anything else, whatever it is."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("not a JSON object")
    return _Fields(document).record()


class _Fields:
    """Typed access to a JSON object that anybody may have written."""

    def __init__(self, document: dict[object, object]) -> None:
        self._document = document

    def record(self) -> StageRecord:
        if self._integer("version") != _VERSION:
            raise InvalidArgument(f"its version is {self._integer('version')}, not {_VERSION}")
        volume_id = self._string("volumeId")
        if not is_id(volume_id):
            raise InvalidArgument(f"volumeId is not an id: {volume_id[:64]!r}")
        try:
            format_state = FormatState(self._string("formatState"))
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        return StageRecord(
            volume_id=volume_id,
            staging_path=self._string("stagingPath"),
            target=target_from_context(self._strings("target")),
            config=ConnectionConfig.from_context(self._strings("config")),
            size=self._integer("size"),
            attachment=self._string("attachment"),
            boot_id=self._string("bootId"),
            block=self._boolean("block"),
            fs_type=self._string("fsType"),
            fs_uuid=self._string("fsUuid"),
            format_state=format_state,
            block_targets=self._list("blockTargets"),
            device_number=self._string("deviceNumber", ""),
            device_path=self._string("devicePath", ""),
            settled=self._boolean("settled", False),
        )

    def _string(self, key: str, default: str | None = None) -> str:
        value = self._document.get(key, default)
        if not isinstance(value, str):
            raise InvalidArgument(f"{key} is not a string")
        return value

    def _boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._document.get(key, default)
        if not isinstance(value, bool):
            raise InvalidArgument(f"{key} is neither true nor false")
        return value

    def _integer(self, key: str) -> int:
        value = self._document.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INT64_MAX:
            raise InvalidArgument(f"{key} is not a size or a count")
        return value

    def _list(self, key: str) -> tuple[str, ...]:
        value = self._document.get(key, [])
        if not isinstance(value, list):
            raise InvalidArgument(f"{key} is not a list")
        strings = tuple(item for item in value if isinstance(item, str))
        if len(strings) != len(value):
            raise InvalidArgument(f"{key} has an item that is not a string")
        return strings

    def _strings(self, key: str) -> dict[str, str]:
        value = self._document.get(key)
        if not isinstance(value, dict):
            raise InvalidArgument(f"{key} is not an object")
        strings = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, str)}
        if len(strings) != len(value):
            raise InvalidArgument(f"{key} has an entry that is not a string")
        return strings


# Inode number, time of the last change (ns) and size (bytes) of a file.
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a file was when it was read, and what it said: None for a damaged one."""

    stamp: _Stamp
    record: StageRecord | None


class FileStageRecords:
    """Stage records below ``directory``, which is made (mode 0700) with the first one."""

    def __init__(self, directory: str, workers: Workers) -> None:
        self._directory = directory
        self._workers = workers
        self._known: dict[str, _Known] = {}

    async def load(self, volume_id: str) -> StageRecord | None:
        path = self._path(volume_id)
        record = await self._workers.run(lambda: _read(path), timeout=_TIMEOUT_SECONDS)
        if record is not None and record.volume_id != volume_id:
            log.warning("stage record %s is of volume %s; it counts as none", path, record.volume_id)
            return None
        return record

    async def store(self, record: StageRecord, *, durable: bool = True) -> None:
        path = self._path(record.volume_id)
        data = to_json(record)

        def write() -> None:
            try:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                write_atomically(path, data, durable=durable)
            except OSError as error:
                raise as_driver_error(f"stage record {path} cannot be written", error) from error

        # To its end: an abandoned thread could write this record after a later call has removed it.
        await finish(self._workers.run(write, timeout=_TIMEOUT_SECONDS, key=f"write of {path}"))

    async def remove(self, volume_id: str, *, durable: bool = False) -> None:
        path = self._path(volume_id)

        def unlink() -> None:
            try:
                remove_leftovers(path)
                os.unlink(path)
                if durable:
                    sync_directory(self._directory)
            except FileNotFoundError:
                return
            except OSError as error:
                raise as_driver_error(f"stage record {path} cannot be removed", error) from error

        await finish(self._workers.run(unlink, timeout=_TIMEOUT_SECONDS, key=f"write of {path}"))

    async def all(self) -> Sequence[StageRecord]:
        return await self._workers.run(self._read_all, timeout=_TIMEOUT_SECONDS)

    def _read_all(self) -> tuple[StageRecord, ...]:
        """Every readable record. The keeper asks every few seconds: a file that is the same as at the last look is
        not read again, and writers always replace the whole file."""
        found: dict[str, _Known] = {}
        for name, stamp in _list(self._directory):
            known = self._known.get(name)
            if known is not None and known.stamp == stamp:
                found[name] = known
                continue
            try:
                found[name] = _Known(stamp, _read(os.path.join(self._directory, name)))
            except DriverError as error:
                log.warning("%s; it is left out", error)
        self._known = found
        return tuple(record for name in sorted(found) if (record := found[name].record) is not None)

    def _path(self, volume_id: str) -> str:
        # Validated at the edge already; a file name is checked again where it is made.
        if not is_id(volume_id):
            raise InvalidArgument(f"not a volume id of this driver: {volume_id[:64]!r}")
        return os.path.join(self._directory, volume_id + _SUFFIX)


def _read(path: str) -> StageRecord | None:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_driver_error(f"stage record {path} cannot be read", error) from error
    try:
        return from_json(data)
    except InvalidArgument as error:
        log.warning("stage record %s is damaged and counts as none: %s", path, error)
        return None


def _list(directory: str) -> list[tuple[str, _Stamp]]:
    """The files that are records; others are temporary ones of a writer, or of one that was killed."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and is_id(entry.name.removesuffix(_SUFFIX)):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found.append((entry.name, (status.st_ino, status.st_mtime_ns, status.st_size)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise as_driver_error(f"stage records in {directory} cannot be listed", error) from error
    return found
