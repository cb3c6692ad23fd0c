"""A made-up host for the sweep: sessions, and everything that may use their devices, below a temporary directory."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rds_csi.blockdev.disks import Disk
from rds_csi.blockdev.users import DeviceUsers, Uses
from rds_csi.errors import DriverError
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.notices import Notice
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.cleaner import Disconnect
from rds_csi.nvme.orphans import OrphanCleaner, Outcome
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sightings import Sightings
from rds_csi.workers import Workers
from tests.support.clock import FakeClock
from tests.support.nvme_tree import NVME_MAJOR, NvmeTree

PREFIX = "nqn.2026-01.io.example:"
GRACE = 60.0
# Of "mountinfo" of this process and of pid 1; others are other mount namespaces.
SELF, INIT = "self", "1"


def record_of(nqn: str, volume_id: str, *, block: bool = False, device_number: str = "") -> StageRecord:
    return StageRecord(
        volume_id=volume_id,
        staging_path=f"/staging/{volume_id}",
        target=NvmeTarget(nqn, ("192.0.2.1",)),
        config=ConnectionConfig(),
        size=1 << 30,
        attachment="",
        boot_id="boot",
        block=block,
        device_number=device_number,
    )


class SweepHost:
    """The tree, what is known beside it, and a cleaner over both that disconnects from the tree."""

    def __init__(self, root: Path, *, multipath: bool = True) -> None:
        self.tree = NvmeTree(root, multipath=multipath)
        self.workers = Workers()
        self.resolver = DeviceResolver(self.tree.host, self.workers)
        self.locks = OperationLocks()
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.clock.seconds = 1000.0
        self.records: list[StageRecord] = []
        self.records_error: DriverError | None = None
        self.moved_error: DriverError | None = None
        # Called once, when the records are asked for the first time: the first look at the sessions is over.
        self.at_first_staged: Callable[[], object] | None = None
        # Called once, when the closer look is over.
        self.at_closer_look: Callable[[], object] | None = None
        self.moved: set[str] = set()
        self.disconnected: list[str] = []
        self.notices: list[Notice] = []
        self.sightings = self.new_sightings()
        self.table(INIT)

    # Sessions

    def session(
        self, name: str, *, state: str = "live", namespace: bool = True, prefix: str = PREFIX, transport: str = "tcp"
    ) -> int:
        """A subsystem ``prefix`` + ``name`` with one controller, and mostly a namespace; the number of both."""
        number = self.tree.add_session(f"{prefix}{name}", state=state)
        if namespace:
            self.tree.add_namespace(number)
        if transport != "tcp":
            self.attribute(number, "transport", transport)
        return number

    def attribute(self, controller: int, name: str, value: str) -> None:
        self.tree.path(f"sys/class/nvme/nvme{controller}", name).write_text(value + "\n")

    def left_over(self, name: str) -> int:
        """A subsystem whose last controller has gone."""
        number = self.session(name, namespace=False)
        self.tree.path(f"sys/class/nvme-subsystem/nvme-subsys{number}/nvme{number}").unlink()
        self.tree.path(f"sys/class/nvme/nvme{number}").unlink()
        return number

    def number(self, session: int) -> DeviceNumber:
        return DeviceNumber(NVME_MAJOR, 16 * session + 1)

    # Users

    def table(self, process: str) -> Path:
        """mountinfo of a process, made when missing."""
        path = self.tree.path("proc", process, "mountinfo")
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    def mount(
        self, path: str, number: DeviceNumber | str, source: str, *, process: str = SELF, fs_type: str = "ext4"
    ) -> None:
        words = path.replace(" ", "\\040")
        with self.table(process).open("a", encoding="utf-8") as stream:
            stream.write(f"36 35 {number} / {words} rw,relatime shared:1 - {fs_type} {source} rw\n")

    def mount_disk(self, session: int, path: str, *, process: str = SELF) -> None:
        self.mount(path, self.number(session), f"/dev/nvme{session}n1", process=process)

    def partition(self, session: int) -> DeviceNumber:
        """The disk gets a partition, unless it has it; its number."""
        number = DeviceNumber(NVME_MAJOR, 16 * session + 9)
        directory = self.tree.path(f"sys/block/nvme{session}n1/nvme{session}n1p1")
        if directory.is_dir():
            return number
        (directory / "holders").mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        (directory / "partition").write_text("1\n")
        self.tree.path("sys/dev/block", str(number)).symlink_to(directory)
        return number

    def hold(self, session: int, holder: str, *, part: str = "") -> None:
        self.tree.path(f"sys/block/nvme{session}n1", part, "holders", holder).touch()

    def swap(self, name: str) -> None:
        with self.tree.path("proc/swaps").open("a") as stream:
            stream.write(f"/dev/{name}                              partition\t1048572\t0\t-2\n")

    def loop(self, name: str, backing: str) -> None:
        directory = self.tree.path(f"sys/block/{name}/loop")
        directory.mkdir(parents=True)
        (directory / "backing_file").write_text(backing + "\n")

    def program(self, pid: int, *links: str, namespace: str = "mnt:[1]") -> None:
        """A program with open files."""
        directory = self.tree.path("proc", str(pid))
        (directory / "fd").mkdir(parents=True)
        (directory / "ns").mkdir()
        (directory / "ns/mnt").symlink_to(namespace)
        (directory / "comm").write_text("postgres\n")
        for number, link in enumerate(links):
            (directory / "fd" / str(number)).symlink_to(link)

    def claim(self, session: int) -> None:
        self.tree.nodes.claimed.add(f"{self.tree.host.dev}/nvme{session}n1")

    def lose_device(self, session: int) -> None:
        """The namespace goes away, whatever was mounted of it."""
        link = self.tree.path(f"sys/block/nvme{session}n1")
        directory = link.resolve()
        link.unlink()
        self.tree.path("sys/dev/block", str(self.number(session))).unlink()
        for path in sorted(directory.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        directory.rmdir()

    def real_proc(self) -> None:
        """Like the kernel's own procfs, this one has namespaces."""
        directory = self.tree.path("proc/self/ns")
        directory.mkdir()
        (directory / "mnt").touch()

    # The sweep

    def new_sightings(self, *, boot_id: str = "boot") -> Sightings:
        """As a process that has just started has them."""
        path = str(self.tree.path("state/sightings.json"))
        return Sightings(self.workers, path=path, boot_id=boot_id, now=self.clock.clock.now)

    def cleaner(
        self,
        *,
        prefix: str = PREFIX,
        grace: float = 0.0,
        sweep_unused: bool = False,
        dry_run: bool = False,
        deadline: float = 30.0,
        disconnect: Disconnect | None = None,
    ) -> OrphanCleaner:
        return OrphanCleaner(
            self.resolver,
            _Users(self),
            self.sightings,
            disconnect=disconnect or self.disconnect,
            staged=self._staged,
            locks=self.locks,
            moved=self._moved,
            prefix=prefix,
            grace=grace,
            sweep_unused=sweep_unused,
            metrics=self.metrics,
            dry_run=dry_run,
            clock=self.clock.clock,
            deadline=deadline,
            announce=self.notices.append,
        )

    async def sweep(self, cleaner: OrphanCleaner | None = None) -> dict[str, Outcome]:
        """One sweep, by default of a cleaner for which one sighting decides; the outcomes by NQN without the prefix."""
        outcomes = await (cleaner or self.cleaner()).cleanup_orphaned_connections()
        return {outcome.verdict.nqn.removeprefix(PREFIX): outcome for outcome in outcomes}

    async def disconnect(self, session: Session) -> None:
        self.disconnected.append(session.nqn.removeprefix(PREFIX))
        self.tree.remove_session(int(session.subsystem.removeprefix("nvme-subsys")))

    async def _staged(self) -> Sequence[StageRecord]:
        if self.records_error is not None:
            raise self.records_error
        happens = self.at_first_staged
        self.at_first_staged = None
        if happens is not None:
            happens()
        return self.records

    async def _moved(self) -> frozenset[str]:
        if self.moved_error is not None:
            raise self.moved_error
        return frozenset(f"{PREFIX}{name}" for name in self.moved)


class _Users(DeviceUsers):
    """The real ones, that tell the host when they have looked."""

    def __init__(self, host: SweepHost) -> None:
        super().__init__(host.tree.host, host.workers, host.tree.nodes)
        self._made_up = host

    async def look_closer(self, disks: Sequence[Disk]) -> Uses:
        uses = await super().look_closer(disks)
        happens = self._made_up.at_closer_look
        self._made_up.at_closer_look = None
        if happens is not None:
            happens()
        return uses
