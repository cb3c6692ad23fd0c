"""What settings become: the machine, the array, the connector and the filesystems that servers and commands share."""

import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import aiofiles

from rds_csi.arrays.protocol import Array, ArrayOptions
from rds_csi.connectors.protocol import Connector, ConnectorOptions
from rds_csi.errors import ConfigurationError
from rds_csi.filesystem.protocol import Filesystems, StageRecords
from rds_csi.metered import MeteredRunner
from rds_csi.metrics import Metrics
from rds_csi.model.connection import nearest
from rds_csi.model.host import HostPaths
from rds_csi.process import ProcessRunner, Runner
from rds_csi.settings import Settings
from rds_csi.workers import Workers

ARRAYS = "rds_csi.arrays"
CONNECTORS = "rds_csi.connectors"

# A connector that makes up its devices needs filesystems that are made up too.
MEMORY_CONNECTOR = "memory"


@dataclass(frozen=True, slots=True)
class Machine:
    """What everything that touches this machine shares."""

    runner: Runner
    workers: Workers
    host: HostPaths
    metrics: Metrics

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics) -> "Machine":
        """This machine, with the host's trees where the settings say; what is run on it is metered."""
        return cls(MeteredRunner(ProcessRunner(), metrics), Workers(), HostPaths(settings.host_root), metrics)


def _load_backend(group: str, name: str, what: str) -> Any:
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        hint = nearest(name, sorted(found))
        raise ConfigurationError(f"there is no {what} {name!r}{hint}", remedy=f"Known are {', '.join(sorted(found))}.")
    return found[name].load()


def open_array(settings: Settings, machine: Machine) -> Array:
    """The array that the URL names, not yet started."""
    scheme, separator, _ = settings.array.partition("://")
    if not separator:
        raise ConfigurationError(f"--array {settings.array!r} is not a URL", remedy="It reads local:///dir, for one.")
    options = ArrayOptions(machine.runner, machine.workers, machine.host, settings.nqn_prefix, settings.driver_name)
    array: Array = _load_backend(ARRAYS, scheme, "array")(settings.array, options)
    return array


def open_connector(settings: Settings, machine: Machine) -> Connector:
    """The connector that the settings name."""
    options = ConnectorOptions(
        machine.runner, machine.workers, machine.host, settings.state_dir, machine.metrics, settings.max_connects
    )
    connector: Connector = _load_backend(CONNECTORS, settings.connector_name, "connector")(options)
    return connector


def open_filesystems(settings: Settings, machine: Machine) -> tuple[Filesystems, StageRecords]:
    """This machine's filesystems and the stage records in the state directory; made up for ``memory``."""
    if settings.connector_name == MEMORY_CONNECTOR:
        from rds_csi.filesystem.memory import MemoryFilesystems, MemoryStageRecords

        return MemoryFilesystems(), MemoryStageRecords()
    from rds_csi.filesystem.host import HostFilesystems
    from rds_csi.filesystem.records import FileStageRecords

    return HostFilesystems(machine.runner, machine.workers, machine.host), FileStageRecords(
        os.path.join(settings.state_dir, "volumes"), machine.workers
    )


def topology_of(settings: Settings) -> dict[str, str]:
    """The one topology segment of this node: a local file is reached on its own machine only, unless its directory
    is shared; a subsystem from every node that speaks NVMe/TCP."""
    if settings.array.startswith("local:"):
        # Only then: a node of another array need not load this one.
        from rds_csi.arrays.local import is_shared

        if is_shared(settings.array):
            return {f"topology.{settings.driver_name}/directory": "shared"}
    if settings.connector_name in ("loop", MEMORY_CONNECTOR):
        return {f"topology.{settings.driver_name}/node": settings.node_id}
    return {f"topology.{settings.driver_name}/transport": "nvme-tcp"}


def check_state_dir(path: str) -> None:
    """Make the state directory when it is missing; ConfigurationError when nothing can be written there.

    Told at start: the first stage would be too late, and a record that cannot be written protects nothing.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"nothing can be written to --state-dir {path}: {error.strerror}",
            remedy="Name a directory of the host that survives a restart of the container.",
        ) from None


async def read_boot_id(host: HostPaths) -> str:
    """/proc/sys/kernel/random/boot_id (random(4)): another one after every boot."""
    try:
        async with aiofiles.open(os.path.join(host.proc, "sys/kernel/random/boot_id"), encoding="ascii") as stream:
            return (await stream.read()).strip()
    except OSError as error:
        raise ConfigurationError(
            f"the boot id cannot be read: {error}", remedy="Look whether --host-root has the host's /proc."
        ) from None
