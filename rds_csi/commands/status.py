"""``rds-csi status``: this machine's staged volumes and NVMe sessions as the kernel tells, and what its server does."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from rds_csi.commands.running_server import Activity, Operation, ask_server
from rds_csi.commands.tables import print_table
from rds_csi.errors import ConfigurationError, DriverError
from rds_csi.metrics import Metrics
from rds_csi.model.host import HostPaths
from rds_csi.model.records import StageRecord
from rds_csi.model.sizes import MIB
from rds_csi.model.targets import NvmeTarget, Target
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import OFF, Controller, Session, SessionIndex
from rds_csi.parts import Machine, open_connector, open_filesystems, read_boot_id
from rds_csi.rpc.activity import status_socket
from rds_csi.services.locating import Located, Locator
from rds_csi.services.observing import Observing
from rds_csi.settings import Settings

_WELL = "ok"
_TIMES = ("ctrl_loss_tmo", "reconnect_delay", "fast_io_fail_tmo", "keep_alive_tmo")


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


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """One path with the values in force: seconds, −1 for "off", None when the kernel does not show them."""

    name: str
    portal: str
    state: str
    ctrl_loss_tmo: int | None
    reconnect_delay: int | None
    fast_io_fail_tmo: int | None
    keep_alive_tmo: int | None


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One session of this driver. ``volume_id`` is that of its stage record, "" when no record names the NQN."""

    nqn: str
    volume_id: str
    controllers: tuple[ControllerStatus, ...]
    devices: tuple[str, ...]


async def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print all of it; exit status 1 when a staged volume is not well."""
    machine = Machine.of(settings, Metrics())
    filesystems, records = open_filesystems(settings, machine)
    activity = await ask_server(status_socket(settings.state_dir))
    staged = await records.all()
    with contextlib.closing(open_connector(settings, machine)) as connector:
        locator = Locator(connector, filesystems, records, await _boot_id(machine.host))
        # The same eyes as those of NodeGetVolumeHealth.
        observing = Observing(connector, filesystems, records, locator, partial(_trouble, activity.troubles))
        volumes = [await _look(record, locator, observing) for record in staged]
    index = await DeviceResolver(machine.host, machine.workers).index()
    sessions = sessions_of(index, settings.nqn_prefix, staged)
    if as_json:
        print(json.dumps(_document(volumes, sessions, activity), indent=2))
    else:
        _print_volumes(volumes)
        print()
        _print_sessions(sessions, settings.nqn_prefix)
        print()
        _print_operations(activity)
    return 0 if all(volume.health == _WELL for volume in volumes) else 1


def sessions_of(index: SessionIndex, prefix: str, records: Sequence[StageRecord]) -> list[SessionStatus]:
    """The sessions whose NQN begins with ``prefix``, in the order of the kernel; left-overs included."""
    volumes = {record.target.nqn: record.volume_id for record in records if isinstance(record.target, NvmeTarget)}
    return [
        _session(session, volumes.get(nqn, ""))
        for nqn, sessions in index.by_nqn.items()
        if nqn.startswith(prefix)
        for session in sessions
    ]


def _session(session: Session, volume_id: str) -> SessionStatus:
    return SessionStatus(
        nqn=session.nqn,
        volume_id=volume_id,
        controllers=tuple(_controller(controller) for controller in session.controllers),
        devices=tuple(f"/dev/{namespace.device}" for namespace in session.namespaces),
    )


def _controller(controller: Controller) -> ControllerStatus:
    return ControllerStatus(
        name=controller.name,
        portal=controller.portal,
        state=controller.state,
        ctrl_loss_tmo=controller.ctrl_loss_tmo,
        reconnect_delay=controller.reconnect_delay,
        fast_io_fail_tmo=controller.fast_io_fail_tmo,
        keep_alive_tmo=controller.keep_alive_tmo,
    )


async def _boot_id(host: HostPaths) -> str:
    """Empty where it cannot be read: then only what the kernel shows tells whose a dead mount is."""
    try:
        return await read_boot_id(host)
    except ConfigurationError:
        return ""


def _trouble(troubles: Mapping[str, str], target: Target) -> str:
    return troubles.get(target.identity, "")


async def _look(record: StageRecord, locator: Locator, observing: Observing) -> VolumeStatus:
    located: Located | None = None
    try:
        located = await locator.of_target(record.target, record)
        problems = await observing.staged_problems(record.volume_id)
        health = "; ".join(problem.message for problem in problems)
    except DriverError as error:
        health = str(error)
    mounts = located.mounts if located is not None else ()
    return VolumeStatus(
        volume_id=record.volume_id,
        target=record.target.identity,
        device=located.device.path if located is not None else "",
        size=located.device.size if located is not None else record.size,
        fs_type="block" if record.block else record.fs_type,
        staging_path=record.staging_path,
        published=tuple(mount.path for mount in mounts if mount.path != record.staging_path),
        health=health or _WELL,
    )


def _document(volumes: list[VolumeStatus], sessions: list[SessionStatus], activity: Activity) -> dict[str, object]:
    return {
        "volumes": [asdict(volume) for volume in volumes],
        "sessions": [asdict(session) for session in sessions],
        "operations": [asdict(operation) for operation in activity.operations],
        "server": "not running" if activity.problem else "running",
    }


def _print_volumes(volumes: list[VolumeStatus]) -> None:
    if not volumes:
        print("No volume is staged on this machine.")
        return
    rows = [
        (
            volume.volume_id,
            volume.device or "-",
            f"{volume.size // MIB} MiB",
            volume.fs_type,
            str(len(volume.published)),
            volume.health,
            volume.target,
        )
        for volume in volumes
    ]
    print_table(("VOLUME", "DEVICE", "SIZE", "TYPE", "PUBLISHED", "HEALTH", "TARGET"), rows)


def _print_sessions(sessions: list[SessionStatus], prefix: str) -> None:
    if not sessions:
        print(f"No NVMe session of {prefix} is on this machine.")
        return
    rows = [
        (
            session.nqn,
            controller.name if controller else "-",
            controller.portal if controller else "-",
            controller.state if controller else "no controller",
            _values(controller),
            ",".join(session.devices) or "-",
            session.volume_id or "-",
        )
        for session in sessions
        for controller in session.controllers or (None,)
    ]
    print_table(("SESSION", "CONTROLLER", "PORTAL", "STATE", "VALUES", "DEVICES", "VOLUME"), rows)


def _values(controller: ControllerStatus | None) -> str:
    values = {name: getattr(controller, name, None) for name in _TIMES}
    shown = {name: "off" if value == OFF else str(value) for name, value in values.items() if value is not None}
    return ",".join(f"{name}={value}" for name, value in shown.items()) or "-"


def _print_operations(activity: Activity) -> None:
    if activity.problem:
        print(f"What is being done now is not known: {activity.problem}.")
    elif not activity.operations:
        print("The server is running and has nothing to do.")
    else:
        rows = [
            (operation.operation, operation.subject, operation.key, f"{operation.seconds:.1f} s", _step(operation))
            for operation in activity.operations
        ]
        print_table(("OPERATION", "FOR", "KEY", "SINCE", "STEP"), rows)


def _step(operation: Operation) -> str:
    attempt = f", attempt {operation.attempt}" if operation.attempt else ""
    return f"{operation.step}{attempt}" if operation.step else "-"
