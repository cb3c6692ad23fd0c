"""An nvme-cli connector over a made-up tree: a scripted nvme changes the tree as the kernel would."""

from collections.abc import Callable
from pathlib import Path

from rds_csi.connectors.nvme_cli import NvmeCli
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.nvme_failures import Reason
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.retry import RetryPolicy
from rds_csi.workers import Workers
from tests.support.clock import FakeClock
from tests.support.nvme_tree import NvmeTree
from tests.support.runner import ScriptedRunner

NQN = "nqn.2026-01.io.example:v0"
UUID = "11111111-1111-4111-8111-111111111111"
OTHER_UUID = "22222222-2222-4222-8222-222222222222"
TARGET = NvmeTarget(NQN, ("192.0.2.1",), 4420, UUID)
CONFIG = ConnectionConfig()
ATTEMPTS = 3


class NvmeBench:
    """A connector over a made-up tree, a scripted runner and a clock that does not wait."""

    def __init__(self, root: Path, *, multipath: bool = True) -> None:
        self.tree = NvmeTree(root, multipath=multipath)
        self.runner = ScriptedRunner()
        self.clock = FakeClock()
        self.answer = Reason.REJECTED
        self.asked: list[tuple[str, int]] = []
        options = ConnectorOptions(self.runner, Workers(), self.tree.host, str(root / "state"))
        self.connector = NvmeConnector(
            options,
            NvmeCli(self.runner, self._ask),
            nodes=self.tree.nodes,
            clock=self.clock.clock,
            retry=RetryPolicy(attempts=ATTEMPTS, first_delay=1e-6),
        )

    async def _ask(self, address: str, port: int) -> Reason:
        self.asked.append((address, port))
        return self.answer

    def export(self, *, uuid: str = UUID, namespace: bool = True) -> Callable[[tuple[str, ...]], None]:
        """What a successful ``nvme connect`` does to the tree."""

        def effect(argv: tuple[str, ...]) -> None:
            nqn, traddr = argv[argv.index("-n") + 1], argv[argv.index("-a") + 1]
            number = self.tree.add_session(nqn, traddr=traddr)
            if namespace:
                self.tree.add_namespace(number, uuid=uuid)

        return effect

    def remove(self, argv: tuple[str, ...]) -> None:
        """What ``nvme disconnect`` does to the tree: there is one session."""
        self.tree.remove_session(0)

    @property
    def connects(self) -> int:
        return self.runner.called("nvme", "connect")

    @property
    def disconnects(self) -> int:
        return self.runner.called("nvme", "disconnect")
