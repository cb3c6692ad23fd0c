"""A loop connector over a made-up machine: a scripted losetup binds and detaches as the kernel would."""

import shutil
from pathlib import Path

from rds_csi.connectors.loop import LoopConnector
from rds_csi.connectors.loop_devices import Inode, LoopStatus
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import FileTarget
from rds_csi.workers import Workers
from tests.support.block_nodes import FakeBlockNodes
from tests.support.clock import FakeClock
from tests.support.runner import ScriptedRunner

SIZE = 8 << 20
LOOP_MAJOR = 7


class FakeStatus(LoopStatus):
    """Which file is behind a loop device's node."""

    def __init__(self) -> None:
        self.files: dict[str, Inode] = {}

    def inode(self, node: str) -> Inode | None:
        return self.files.get(node)


class LoopBench:
    """A connector over a made-up machine with loop devices."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = HostPaths(str(root / "host"))
        self.runner = ScriptedRunner()
        self.clock = FakeClock()
        self.nodes = FakeBlockNodes()
        self.status = FakeStatus()
        for directory in ("sys/block", "sys/dev/block", "dev", "proc/self"):
            (root / "host" / directory).mkdir(parents=True)
        self.image = root / "image"
        self.make_image()
        self.target = FileTarget(str(self.image))
        options = ConnectorOptions(self.runner, Workers(), self.host, str(root / "state"))
        self.connector = LoopConnector(options, status=self.status, nodes=self.nodes, clock=self.clock.clock)

    def make_image(self) -> None:
        with self.image.open("wb") as stream:
            stream.truncate(SIZE)

    def write(self, path: str, text: str) -> None:
        """Write a file of the host."""
        Path(self.host.root, path).write_text(text)

    def bind(
        self, name: str, *, file: Path | None = None, text: str = "", offset: int = 0, autoclear: int = 0, ro: int = 0
    ) -> Path:
        """Bind a loop device as the kernel shows it; its directory in sysfs."""
        minor = int(name.removeprefix("loop"))
        device = Path(self.host.sys, "block", name)
        (device / "loop").mkdir(parents=True)
        (device / "holders").mkdir()
        bound = file or self.image
        status = bound.stat()
        for attribute, value in {
            "dev": f"{LOOP_MAJOR}:{minor}",
            "size": status.st_size // 512,
            "ro": ro,
            "loop/backing_file": text or str(bound),
            "loop/offset": offset,
            "loop/sizelimit": 0,
            "loop/autoclear": autoclear,
        }.items():
            (device / attribute).write_text(f"{value}\n")
        Path(self.host.sys, "dev/block", f"{LOOP_MAJOR}:{minor}").symlink_to(device)
        node = f"{self.host.dev}/{name}"
        self.status.files[node] = Inode(status.st_dev, status.st_ino)
        self.nodes.numbers[node] = DeviceNumber(LOOP_MAJOR, minor)
        return device

    def release(self, name: str) -> None:
        """The kernel lets go of a loop device."""
        shutil.rmtree(Path(self.host.sys, "block", name, "loop"))
        self.status.files.pop(f"{self.host.dev}/{name}")

    def _detach(self, argv: tuple[str, ...]) -> None:
        for node in argv[2:]:
            self.release(node.rpartition("/")[2])

    def losetup_works(self) -> None:
        """A losetup that binds loop3, detaches, and sets the capacity."""
        self.runner.on("losetup", "--find", stdout="/dev/loop3\n", effect=lambda _: self.bind("loop3"))
        self.runner.on("losetup", "--detach", effect=self._detach)
