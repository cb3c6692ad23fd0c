"""Connection values of a session that is there: what the config asks is written to sysfs, the rest is reported.

Source: drivers/nvme/host/sysfs.c (ctrl_loss_tmo, reconnect_delay and fast_io_fail_tmo are writable) and fabrics.c of
Linux 6.1 and 6.12. Digests and the type of service are not shown by the kernel: whether they differ cannot be told.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rds_csi.errors import DriverError
from rds_csi.model.connection import KERNEL_CTRL_LOSS_TMO, ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.nvme.sessions import OFF, Controller, Session
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.workers import Workers

_log = logging.getLogger(__name__)

# drivers/nvme/host/nvme.h: NVME_DEFAULT_KATO. Seconds.
KERNEL_KEEP_ALIVE_TMO = 5
# drivers/nvme/host/fabrics.h: NVMF_DEF_QUEUE_SIZE.
KERNEL_QUEUE_SIZE = 128
# Sentences about sessions that were logged; one for each session and value, not for each call.
_REMEMBERED = 4096
_SYSFS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Write:
    """A value that is to be written to a controller's attribute."""

    controller: str
    attribute: str
    value: int


def writes_for(controller: Controller, config: ConnectionConfig) -> tuple[Write, ...]:
    """What has to be written, in this order, for the controller to have the config's values.

    reconnect_delay comes first: the kernel keeps ctrl_loss_tmo as a number of attempts, rounded up, so that a new
    delay changes it too.
    """
    writes = []
    delay = controller.reconnect_delay
    if delay not in (None, config.reconnect_delay):
        writes.append(Write(controller.name, "reconnect_delay", config.reconnect_delay))
    loss = config.ctrl_loss_tmo or KERNEL_CTRL_LOSS_TMO
    in_force = controller.ctrl_loss_tmo
    if in_force is not None and (_as_kept(loss, config.reconnect_delay) != in_force or (writes and loss != OFF)):
        writes.append(Write(controller.name, "ctrl_loss_tmo", loss))
    fast = controller.fast_io_fail_tmo
    if fast not in (None, config.fast_io_fail_tmo):
        writes.append(Write(controller.name, "fast_io_fail_tmo", config.fast_io_fail_tmo))
    return tuple(writes)


def unchangeable(controller: Controller, config: ConnectionConfig) -> str:
    """What differs and cannot be changed while connected, in words; "" when nothing does."""
    wanted = config.keep_alive_tmo or KERNEL_KEEP_ALIVE_TMO
    in_force = controller.keep_alive_tmo
    return "" if in_force in (None, wanted) else f"keep_alive_tmo is {in_force} s, and {wanted} s is asked"


def queues_that_differ(queue_count: int | None, sqsize: int | None, config: ConnectionConfig) -> str:
    """What the config asks for queues and is not so, in words; "" when all is, or nothing is asked.

    ``queue_count`` counts the admin queue too, ``sqsize`` is the number of entries less one, as sysfs shows them.
    """
    differences = []
    asked = config.nr_io_queues + config.nr_write_queues + config.nr_poll_queues
    if config.nr_io_queues and queue_count is not None and queue_count - 1 != asked:
        differences.append(f"{queue_count - 1} I/O queues are in use, and {asked} are asked")
    if config.queue_size != KERNEL_QUEUE_SIZE and sqsize is not None and sqsize + 1 != config.queue_size:
        differences.append(f"queues have {sqsize + 1} entries, and {config.queue_size} are asked")
    return " and ".join(differences)


def _as_kept(seconds: int, delay: int) -> int:
    return seconds if seconds == OFF else -(-seconds // delay) * delay


class Tuning:
    """Brings sessions to the values of a config; remembers only what it has logged."""

    def __init__(self, host: HostPaths, sysfs: NvmeSysfs, workers: Workers) -> None:
        self._controllers = f"{host.sys}/class/nvme"
        self._sysfs = sysfs
        self._workers = workers
        self._told: dict[str, None] = {}

    async def apply(self, session: Session, config: ConnectionConfig, *, fresh: bool = False) -> Sequence[str]:
        """Write what differs; what could not be written, in words. What is fine costs nothing.

        What cannot be changed is logged, unless the session is ``fresh``: then it is what the array grants.
        """
        paths = [controller for controller in session.controllers if controller.is_live or controller.is_coming]
        if not fresh:
            await self._report(session, paths, config)
        writes = [write for controller in paths for write in writes_for(controller, config)]
        return [problem for write in writes if (problem := await self._write(session, write))]

    async def _report(self, session: Session, paths: Sequence[Controller], config: ConnectionConfig) -> None:
        for controller in paths:
            difference = unchangeable(controller, config)
            if difference:
                self._tell(f"{session.nqn} ({controller.name}): {difference}; it takes effect at the next stage")
            if not config.nr_io_queues and config.queue_size == KERNEL_QUEUE_SIZE:
                continue
            directory = f"{self._controllers}/{controller.name}"
            with contextlib.suppress(OSError, DriverError):
                count, size = await self._workers.run(partial(_queues, directory), timeout=_SYSFS_SECONDS)
                difference = queues_that_differ(count, size, config)
                if difference:
                    self._tell(
                        f"{session.nqn} ({controller.name}): {difference}; unless the array or the number of CPUs "
                        "allows no more, it takes effect at the next stage"
                    )

    async def _write(self, session: Session, write: Write) -> str:
        what = f"{write.attribute} of {write.controller} ({session.nqn})"
        try:
            setting = partial(self._sysfs.write, write.controller, write.attribute, str(write.value))
            await self._workers.run(setting, timeout=_SYSFS_SECONDS)
        except OSError as error:
            problem = f"{what} cannot be set to {write.value}: {error.strerror}"
        except DriverError as error:
            problem = f"{what} cannot be set to {write.value}: {error.message}"
        else:
            _log.info("%s is now %d", what, write.value)
            return ""
        self._tell(problem)
        return problem

    def _tell(self, sentence: str) -> None:
        if sentence in self._told:
            return
        if len(self._told) >= _REMEMBERED:
            self._told.pop(next(iter(self._told)))
        self._told[sentence] = None
        _log.warning("%s", sentence)


def _queues(directory: str) -> tuple[int | None, int | None]:
    """queue_count and sqsize of a controller; None for what the kernel does not show."""
    return _number(f"{directory}/queue_count"), _number(f"{directory}/sqsize")


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as stream:
            return int(stream.read(64))
    except (FileNotFoundError, ValueError):
        return None
