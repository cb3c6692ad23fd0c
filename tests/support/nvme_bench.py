"""An NVMe connector over a made-up tree: a scripted nvme or dd changes the tree as the kernel would."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from rds_csi.connectors.fabrics import Fabrics
from rds_csi.connectors.nvme_cli import NvmeCli
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.nvme_failures import Reason
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.uevents import Uevents
from rds_csi.process import Completed
from rds_csi.retry import RetryPolicy
from rds_csi.workers import Workers
from tests.support.clock import FakeClock
from tests.support.nvme_tree import NvmeTree
from tests.support.runner import ScriptedRunner

T = TypeVar("T")

NQN = "nqn.2026-01.io.example:v0"
UUID = "11111111-1111-4111-8111-111111111111"
OTHER_UUID = "22222222-2222-4222-8222-222222222222"
TARGET = NvmeTarget(NQN, ("192.0.2.1",), 4420, UUID)
CONFIG = ConnectionConfig()
ATTEMPTS = 3
MAX_CONNECTS = 4


_input: ContextVar[str] = ContextVar("input")


class InputRunner(ScriptedRunner):
    """Remembers what each program got on its standard input, beside ``calls``."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[str] = []

    async def run(
        self, *argv: str, timeout: float, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Completed:
        self.inputs.append(input.decode())
        # For the effect of this very program: others run beside it.
        _input.set(input.decode())
        return await super().run(*argv, timeout=timeout, input=input, env=env)


def no_uevents() -> Uevents:
    """Uevents of a machine that gives none: every wait is a sleep of the injected clock."""

    def refuse() -> None:
        raise PermissionError("not on this machine")

    return Uevents(refuse)  # type: ignore[arg-type]  # it never returns


class CountingWorkers(Workers):
    """Workers that count the jobs they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs = 0

    async def run(self, function: Callable[[], T], *, timeout: float, key: str = "") -> T:
        self.jobs += 1
        return await super().run(function, timeout=timeout, key=key)


class NvmeBench:
    """A connector over a made-up tree, a scripted runner and a clock that does not wait."""

    def __init__(
        self, root: Path, *, multipath: bool = True, link: str = "nvme-cli", first_delay: float = 1e-6
    ) -> None:
        self.tree = NvmeTree(root, multipath=multipath)
        self.runner = InputRunner()
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.workers = CountingWorkers()
        # What the portals say in user space: before a connect, and after one that failed without a clear reason.
        self.portals: dict[str, Reason] = {}
        self.answer: Reason | None = None
        self.asked: list[tuple[str, int]] = []
        options = ConnectorOptions(
            self.runner, self.workers, self.tree.host, str(root / "state"), self.metrics, MAX_CONNECTS
        )
        self.fabrics = f"{self.tree.host.dev}/nvme-fabrics"
        self.connect_program = ("nvme", "connect") if link == "nvme-cli" else ("dd", f"of={self.fabrics}")
        deletion = f"of={self.tree.host.sys}/class/nvme/nvme0/delete_controller"
        self.disconnect_program = ("nvme", "disconnect") if link == "nvme-cli" else ("dd", deletion)
        self.connector = NvmeConnector(
            options,
            NvmeCli(self.runner, self._settle)
            if link == "nvme-cli"
            else Fabrics(self.runner, self.workers, self.tree.host, self._settle),
            nodes=self.tree.nodes,
            clock=self.clock.clock,
            retry=RetryPolicy(attempts=ATTEMPTS, first_delay=first_delay),
            uevents=no_uevents(),
            ask=self._ask,
        )

    async def _ask(self, address: str, port: int, host_iface: str) -> Reason | None:
        return self.portals.get(address)

    async def _settle(self, address: str, port: int, host_iface: str) -> Reason | None:
        self.asked.append((address, port))
        return self.answer

    def export(self, *, uuid: str = UUID, namespace: bool = True) -> Callable[[tuple[str, ...]], None]:
        """What a successful connect does to the tree; a second path joins the first."""

        def effect(argv: tuple[str, ...]) -> None:
            traddr = self.traddr(argv)
            session = self.connector.resolver.sysfs.session(NQN)
            if session is not None and session.controllers:
                self.tree.add_path(int(session.subsystem.removeprefix("nvme-subsys")), NQN, traddr=traddr)
                return
            number = self.tree.add_session(NQN, traddr=traddr)
            if namespace:
                self.tree.add_namespace(number, uuid=uuid)

        return effect

    def traddr(self, argv: tuple[str, ...]) -> str:
        """Which portal a program connects."""
        if argv[0] == "nvme":
            return argv[argv.index("-a") + 1]
        return dict(part.partition("=")[::2] for part in _input.get().split(","))["traddr"]

    def remove(self, argv: tuple[str, ...]) -> None:
        """What a disconnect does to the tree: there is one session."""
        session = self.connector.resolver.sysfs.session(NQN)
        assert session is not None
        self.tree.remove_session(int(session.subsystem.removeprefix("nvme-subsys")))

    def let_disconnect(self) -> None:
        """Every disconnect succeeds, whatever the controller's number."""
        if self.disconnect_program[0] == "nvme":
            self.runner.on(*self.disconnect_program, effect=self.remove)
            return
        for number in range(8):
            path = self.disconnect_program[1].replace("nvme0", f"nvme{number}")
            self.runner.on("dd", path, effect=self.remove)

    def sample(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def connects(self) -> int:
        return self.runner.called(*self.connect_program)

    @property
    def disconnects(self) -> int:
        return self.runner.called(*self.disconnect_program)
