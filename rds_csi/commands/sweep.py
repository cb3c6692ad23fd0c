"""``rds-csi sweep``: the sweep for orphaned NVMe sessions without a server, once or again and again."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence

from rds_csi.blockdev.users import DeviceUsers
from rds_csi.commands.tables import print_table
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.errors import ConfigurationError
from rds_csi.filesystem.records import FileStageRecords
from rds_csi.kubernetes.cluster import Cluster, open_cluster
from rds_csi.locks import LockFile, OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.host import HostPaths
from rds_csi.model.notices import announce_nothing
from rds_csi.nvme.orphans import OrphanCleaner, Outcome
from rds_csi.nvme.sightings import FILE_NAME, Sightings
from rds_csi.parts import Machine, check_state_dir, open_connector, read_boot_id
from rds_csi.settings import Settings
from rds_csi.upkeep import any_moved

log = logging.getLogger(__name__)

_DEFAULT_CONNECTOR = "nvme-cli"
# In the state directory, shared with the servers of this node.
_LOCKS = "locks"
_RECORDS = "volumes"

Tell = Callable[[Sequence[Outcome]], None]


async def sweep(settings: Settings, *, once: bool, as_json: bool) -> int:
    """Sweep and print what was decided about each NVMe subsystem; again and again with ``--interval``, until SIGTERM
    or SIGINT.

    Exit status 1 when an orphan could not be disconnected, or the only sweep failed. A dry run changes nothing.
    ConfigurationError when the settings cannot be used.
    """
    machine = Machine.of(settings, Metrics())
    connector = _connector(settings, machine)
    try:
        async with _told(open_cluster(settings)) as cluster:
            cleaner = await _cleaner(settings, machine, connector, cluster)
            tell = _print_json if as_json else _print_text
            if settings.interval > 0 and not once:
                await _sweep_until_stopped(cleaner, settings.interval, tell)
                return 0
            outcomes = await cleaner.attempt()
        if outcomes is None:
            return 1
        tell(outcomes)
        return 1 if any(outcome.failed for outcome in outcomes) else 0
    finally:
        connector.close()


@contextlib.asynccontextmanager
async def _told(cluster: Cluster | None) -> AsyncIterator[Cluster | None]:
    """The cluster, where this is a pod of one: it tells what moved, and is told what was cut."""
    if cluster is None:
        yield None
        return
    events = asyncio.create_task(cluster.run())
    try:
        yield cluster
    finally:
        events.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await events
        await cluster.close()


def _connector(settings: Settings, machine: Machine) -> NvmeConnector:
    name = settings.connector or _DEFAULT_CONNECTOR
    connector = open_connector(settings.model_copy(update={"connector": name}), machine)
    if not isinstance(connector, NvmeConnector):
        connector.close()
        raise ConfigurationError(
            f"--connector {name} has no NVMe sessions that could be swept",
            remedy="Leave it out, or name nvme-cli or fabrics.",
        )
    return connector


async def _cleaner(
    settings: Settings, machine: Machine, connector: NvmeConnector, cluster: Cluster | None
) -> OrphanCleaner:
    locks, sightings = await _memory(settings, machine)
    return OrphanCleaner(
        connector.resolver,
        DeviceUsers(machine.host, machine.workers),
        sightings,
        disconnect=connector.drop,
        staged=FileStageRecords(os.path.join(settings.state_dir, _RECORDS), machine.workers).all,
        locks=locks,
        moved=any_moved([cluster.moved] if cluster is not None else []),
        prefix=settings.nqn_prefix,
        grace=settings.grace,
        sweep_unused=settings.sweep_unused,
        dry_run=settings.dry_run,
        metrics=machine.metrics,
        announce=cluster.announce if cluster is not None else announce_nothing,
    )


async def _memory(settings: Settings, machine: Machine) -> tuple[OperationLocks, Sightings]:
    """What is shared with other processes and with later runs, where there is a place for it."""
    path = os.path.join(settings.state_dir, FILE_NAME)
    if settings.dry_run:
        # It takes no lock, and of the sightings it only reads.
        return OperationLocks(), Sightings(machine.workers, path=path, boot_id=await _boot_id(machine.host))
    try:
        check_state_dir(settings.state_dir)
        locks = OperationLocks(LockFile(os.path.join(settings.state_dir, _LOCKS)))
    except ConfigurationError as error:
        log.warning(
            "%s: this sweep remembers nothing for the next run, and is not kept from volumes on which a server works",
            error.message,
        )
        return OperationLocks(), Sightings(machine.workers)
    return locks, Sightings(machine.workers, path=path, boot_id=await _boot_id(machine.host))


async def _boot_id(host: HostPaths) -> str:
    """Of the host's /proc, or where that is made up, of this machine's: sightings are timed by its clock."""
    for root in (host, HostPaths()):
        with contextlib.suppress(ConfigurationError):
            return await read_boot_id(root)
    return ""


async def _sweep_until_stopped(cleaner: OrphanCleaner, interval: float, tell: Tell) -> None:
    async def sweep_for_ever() -> None:
        outcomes = await cleaner.attempt()
        if outcomes is not None:
            tell(outcomes)
        await cleaner.run(interval, tell)

    task = asyncio.create_task(sweep_for_ever())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _print_json(outcomes: Sequence[Outcome]) -> None:
    """One array on a line of its own."""
    print(json.dumps([_document(outcome) for outcome in outcomes]), flush=True)


def _document(outcome: Outcome) -> dict[str, object]:
    verdict = outcome.verdict
    return {
        "nqn": verdict.nqn,
        "decision": verdict.decision.value,
        "reason": verdict.reason,
        "controllers": [{"name": name, "state": state} for name, state in verdict.controllers],
        "devices": [f"/dev/{name}" for name in verdict.devices],
        "subsystem": verdict.subsystem,
        "result": outcome.result.value if outcome.result else "",
        "error": outcome.error,
    }


def _print_text(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        print("This machine has no NVMe subsystem.", flush=True)
        return
    rows = [(o.verdict.decision.value, o.verdict.nqn, _explanation(o)) for o in outcomes]
    print_table(("DECISION", "NQN", "REASON"), rows)
    sys.stdout.flush()


def _explanation(outcome: Outcome) -> str:
    result = f" [{outcome.result.value}]" if outcome.result else ""
    return f"{outcome.verdict.reason}{result}{' ' if outcome.error else ''}{outcome.error}"
