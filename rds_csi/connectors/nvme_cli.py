"""The ``nvme-cli`` connector: portals are connected and disconnected by the program ``nvme``."""

from collections.abc import Sequence
from functools import partial

from rds_csi.connectors.budget import budget
from rds_csi.connectors.nvme_args import build_connect_args
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.nvme_failures import Reason, classify, settle
from rds_csi.connectors.nvme_link import Answer, Told
from rds_csi.connectors.nvme_probe import Probe, probe
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.errors import DriverError
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.sessions import Session
from rds_csi.process import Runner

NAME = "nvme-cli"

# Seconds. The kernel gives a SYN 3 s and a mute target 10 s; nvme-cli's own scan takes 7 s beside 500 sessions.
CONNECT_SECONDS = 30.0
# Seconds. A disconnect ends in 0.3 s, but waits for the same scan.
DISCONNECT_SECONDS = 30.0
_VERSION_SECONDS = 10.0


class NvmeCli:
    """Runs ``nvme connect`` and ``nvme disconnect``; their exit status and text only tell failures apart."""

    name = NAME

    def __init__(self, runner: Runner, ask: Probe = probe) -> None:
        """``ask``: what the portal says for itself, where nvme-cli's text does not tell."""
        self._runner = runner
        self._ask = ask

    async def connect(
        self, target: NvmeTarget, address: str, config: ConnectionConfig, identity: HostIdentity
    ) -> Answer:
        arguments = build_connect_args(target, address, config, identity)
        completed = await self._runner.run("nvme", *arguments, timeout=budget(CONNECT_SECONDS))
        if completed.returncode == 0:
            return Answer()
        reason, line = classify(completed.stderr or completed.stdout)
        if completed.returncode < 0:
            reason = Reason.KILLED
        reason = await settle(reason, line, partial(self._ask, address, target.port, config.host_iface))
        return Answer(reason, line or completed.last_line)

    async def disconnect(self, session: Session, *, whole: bool = False) -> Told:
        # By NQN where that is possible: during nvme-cli's scan a name may come to be another volume's controller,
        # while the NQN is this volume's for ever. nvme-cli splits it at commas.
        names = ",".join(controller.name for controller in session.controllers)
        what = ("-n", session.nqn) if whole and "," not in session.nqn else ("-d", names)
        completed = await self._runner.run_to_end("nvme", "disconnect", *what, timeout=DISCONNECT_SECONDS)
        return Told(completed.last_line, killed=completed.returncode < 0)

    async def check(self) -> Sequence[Finding]:
        remedy = "Install nvme-cli 2.3 or later."
        try:
            completed = await self._runner.run("nvme", "version", timeout=_VERSION_SECONDS)
        except DriverError as error:
            return (Finding("nvme-cli", False, error.message, remedy),)
        first = next(iter(completed.stdout.splitlines()), "")
        good = completed.returncode == 0 and first.startswith("nvme version")
        return (Finding("nvme-cli", good, first if good else completed.last_line, "" if good else remedy),)


def open_connector(options: ConnectorOptions) -> NvmeConnector:
    """The entry point ``nvme-cli``."""
    return NvmeConnector(options, NvmeCli(options.runner))
