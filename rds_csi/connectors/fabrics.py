"""The ``fabrics`` connector: portals are connected by writing to /dev/nvme-fabrics, without nvme-cli's slow scan.

Source: drivers/nvme/host/fabrics.c of Linux 6.1 and 6.12 (the table of options, and ``nvmf_dev_write``). The write
waits for the target for many seconds, so a small child makes it: a child can be killed, a thread cannot.
"""

import os
from collections.abc import Sequence
from functools import partial

from rds_csi.connectors.budget import budget
from rds_csi.connectors.nvme_args import check_values
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.nvme_failures import Reason, classify, settle
from rds_csi.connectors.nvme_link import Answer, Told
from rds_csi.connectors.nvme_probe import Probe, probe
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.errors import DriverError
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import GONE, as_look_error
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.sessions import Session
from rds_csi.process import Completed, Runner
from rds_csi.tasks import finish
from rds_csi.workers import Workers

NAME = "fabrics"

# Seconds. The kernel gives a SYN 3 s and a mute target 10 s; other connects of this host go one after the other.
CONNECT_SECONDS = 30.0
# Seconds. Removing a controller ends in 0.3 s, more with I/O under way.
DISCONNECT_SECONDS = 30.0
_CHECK_SECONDS = 5.0

# drivers/nvme/host/fabrics.h: NVMF_DEF_QUEUE_SIZE, NVMF_DEF_RECONNECT_DELAY, and "no fast_io_fail_tmo".
_KERNEL_QUEUE_SIZE = 128
_KERNEL_RECONNECT_DELAY = 10
_OFF = -1


def build_options(target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity) -> str:
    """The line that connects ``target`` through its portal ``address``: only what differs from the kernel's
    defaults. InvalidArgument for a name that would add to the line."""
    check_values(target.nqn, identity.hostnqn, address)
    options = [
        "transport=tcp",
        f"traddr={address}",
        f"trsvcid={target.port}",
        f"nqn={target.nqn}",
        f"hostnqn={identity.hostnqn}",
        f"hostid={identity.hostid}",
    ]
    wanted: tuple[tuple[str, int | str, int | str], ...] = (
        ("ctrl_loss_tmo", config.ctrl_loss_tmo, 0),
        ("reconnect_delay", config.reconnect_delay, _KERNEL_RECONNECT_DELAY),
        ("keep_alive_tmo", config.keep_alive_tmo, 0),
        ("fast_io_fail_tmo", config.fast_io_fail_tmo, _OFF),
        ("nr_io_queues", config.nr_io_queues, 0),
        ("nr_write_queues", config.nr_write_queues, 0),
        ("nr_poll_queues", config.nr_poll_queues, 0),
        ("queue_size", config.queue_size, _KERNEL_QUEUE_SIZE),
        ("tos", config.tos, _OFF),
        ("host_iface", config.host_iface, ""),
    )
    options += [f"{name}={value}" for name, value, default in wanted if value != default]
    options += [name for name, on in (("hdr_digest", config.hdr_digest), ("data_digest", config.data_digest)) if on]
    return ",".join(options)


class Fabrics:
    """Runs ``dd`` for each write: it takes the text from its standard input and prints the kernel's errno."""

    name = NAME

    def __init__(self, runner: Runner, workers: Workers, host: HostPaths, ask: Probe = probe) -> None:
        """``ask``: what the portal says for itself, where an errno has two meanings."""
        self._runner = runner
        self._workers = workers
        self._device = f"{host.dev}/nvme-fabrics"
        self._controllers = f"{host.sys}/class/nvme"
        self._ask = ask

    async def connect(
        self, target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity
    ) -> Answer:
        options = build_options(target, address, config, identity)
        completed = await self._write(self._device, options, budget(CONNECT_SECONDS))
        if completed.returncode == 0:
            return Answer()
        reason, line = classify(completed.stderr)
        if completed.returncode < 0:
            reason = Reason.KILLED
        reason = await settle(reason, line, partial(self._ask, address, target.port, config.host_iface))
        return Answer(reason, line or completed.last_line)

    async def disconnect(self, session: Session, *, whole: bool = False) -> Told:  # noqa: ARG002 - one by one anyway
        said, killed = "", False
        for place, controller in enumerate(session.controllers):
            # The caller has just looked at the first; a deletion takes long enough for the next name to be reused.
            if place > 0 and not await self._is_of(controller.name, session.nqn):
                continue
            path = f"{self._controllers}/{controller.name}/delete_controller"
            completed = await finish(self._write(path, "1", DISCONNECT_SECONDS))
            said = completed.last_line if completed.returncode != 0 else said
            killed = killed or completed.returncode < 0
        return Told(said or "the kernel took the request", killed)

    async def check(self) -> Sequence[Finding]:
        return (*await self._check_device(), await self._check_tool())

    async def _is_of(self, controller: str, nqn: str) -> bool:
        """Whether the controller is one of ``nqn`` now; Unavailable or ResourceExhausted when it cannot be told."""
        path = f"{self._controllers}/{controller}/subsysnqn"
        try:
            return await self._workers.run(partial(_holds, path, nqn), timeout=_CHECK_SECONDS)
        except OSError as error:
            raise as_look_error(f"whose controller {controller} is cannot be told", error) from error

    async def _write(self, path: str, text: str, timeout: float) -> Completed:
        # One write(2) of everything: the kernel takes each write for a whole request.
        arguments = (f"of={path}", "conv=nocreat,notrunc", "bs=4096", "iflag=fullblock", "status=none")
        return await self._runner.run("dd", *arguments, timeout=timeout, input=text.encode())

    async def _check_device(self) -> tuple[Finding, ...]:
        """Nothing when it is missing: the look at the module tells that, with its remedy."""
        try:
            writable = await self._workers.run(partial(_is_writable, self._device), timeout=_CHECK_SECONDS)
        except DriverError as error:
            return (Finding(self._device, False, error.message),)
        if writable is None:
            return ()
        if writable:
            return (Finding(self._device, True, f"{self._device} can be written to"),)
        remedy = "Run as root in a privileged container with the host's /dev."
        return (Finding(self._device, False, f"{self._device} cannot be written to", remedy),)

    async def _check_tool(self) -> Finding:
        try:
            completed = await self._runner.run("dd", "--version", timeout=_CHECK_SECONDS)
        except DriverError as error:
            return Finding("dd", False, error.message, "Install coreutils.")
        first = next(iter(completed.stdout.splitlines()), "")
        good = completed.returncode == 0 and "coreutils" in first
        return Finding("dd", good, first if good else completed.last_line, "" if good else "Install GNU coreutils.")


def _holds(path: str, text: str) -> bool:
    """Whether the attribute at ``path`` shows ``text``; one that has gone does not."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read().strip() == text
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def _is_writable(path: str) -> bool | None:
    return os.access(path, os.W_OK) if os.path.exists(path) else None


def open_connector(options: ConnectorOptions) -> NvmeConnector:
    """The entry point ``fabrics``."""
    return NvmeConnector(options, Fabrics(options.runner, options.workers, options.host))
