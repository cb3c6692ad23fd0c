"""``rds-csi status``: the volumes that are staged on this machine, as their records and the kernel tell."""

import json
from dataclasses import asdict, dataclass

from rds_csi.app import Machine, open_connector, open_filesystems
from rds_csi.connectors.protocol import Connector
from rds_csi.errors import DriverError
from rds_csi.filesystem.protocol import Filesystems, MountTable
from rds_csi.metrics import Metrics
from rds_csi.model.devices import Device
from rds_csi.model.records import StageRecord
from rds_csi.model.sizes import MIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.settings import Settings


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """One staged volume. ``size`` in bytes; ``health`` is "ok" or what is wrong."""

    volume_id: str
    target: str
    device: str
    size: int
    fs_type: str
    staging_path: str
    published: tuple[str, ...]
    health: str


async def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print every staged volume; exit status 1 when one of them is not well."""
    machine = Machine.of(settings, Metrics())
    connector = open_connector(settings, machine)
    filesystems, records = open_filesystems(settings, machine)
    table = await filesystems.mount_table()
    volumes = [await _look(record, connector, filesystems, table) for record in await records.all()]
    if as_json:
        print(json.dumps([asdict(volume) for volume in volumes], indent=2))
    else:
        _print_table(volumes)
    return 0 if all(volume.health == "ok" for volume in volumes) else 1


async def _look(record: StageRecord, connector: Connector, filesystems: Filesystems, table: MountTable) -> VolumeStatus:
    device: Device | None = None
    published: tuple[str, ...] = ()
    try:
        device = await connector.find(record.target)
        if device is not None:
            mounts = await filesystems.mounts_of(device)
            published = tuple(mount.path for mount in mounts if mount.path != record.staging_path)
        health = await _health(record, connector, device, table)
    except DriverError as error:
        health = str(error)
    return VolumeStatus(
        volume_id=record.volume_id,
        target=record.target.nqn if isinstance(record.target, NvmeTarget) else record.target.path,
        device=device.path if device else "",
        size=device.size if device else record.size,
        fs_type="block" if record.block else record.fs_type,
        staging_path=record.staging_path,
        published=published,
        health=health,
    )


async def _health(record: StageRecord, connector: Connector, device: Device | None, table: MountTable) -> str:
    if device is None:
        return "no device: the session is gone"
    if not record.block and not table.at(record.staging_path):
        return "not mounted at its staging path"
    return await connector.health(record.target) or "ok"


def _print_table(volumes: list[VolumeStatus]) -> None:
    if not volumes:
        print("No volume is staged on this machine.")
        return
    rows = [("VOLUME", "DEVICE", "SIZE", "TYPE", "PUBLISHED", "HEALTH", "TARGET")]
    for volume in volumes:
        size = f"{volume.size // MIB} MiB"
        published = str(len(volume.published))
        device = volume.device or "-"
        rows.append((volume.volume_id, device, size, volume.fs_type, published, volume.health, volume.target))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
